"""Addresses under ``/dicomweb/`` (PS3.18 Table 10.1-1). All UIDs in them are the de-identified ones."""

from django.urls import path, register_converter

from imaging.dicomweb import frames, retrieve, search, store


class _Uid:
    """A UID (PS3.5 section 9.1)."""

    regex = r"[0-9]+(?:\.[0-9]+)*"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class _FrameList:
    """Frame numbers, from 1, with commas between them."""

    regex = r"[0-9]{1,7}(?:,[0-9]{1,7})*"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class _Frame(_FrameList):
    regex = r"[0-9]{1,7}"


register_converter(_Uid, "dicomuid")
register_converter(_FrameList, "dicomframes")
register_converter(_Frame, "dicomframe")

STUDY = "studies/<dicomuid:study_uid>"
SERIES = f"{STUDY}/series/<dicomuid:series_uid>"
INSTANCE = f"{SERIES}/instances/<dicomuid:instance_uid>"

app_name = "dicomweb"
urlpatterns = [
    path("studies", store.Studies.as_view()),
    path("series", search.SearchSeries.as_view()),
    path("instances", search.SearchInstances.as_view()),
    path(STUDY, store.OneStudy.as_view()),
    path(f"{STUDY}/series", search.SearchSeries.as_view()),
    path(f"{STUDY}/instances", search.SearchInstances.as_view()),
    path(f"{STUDY}/metadata", retrieve.Metadata.as_view()),
    path(f"{STUDY}/thumbnail", frames.Thumbnail.as_view()),
    path(SERIES, retrieve.Instances.as_view()),
    path(f"{SERIES}/instances", search.SearchInstances.as_view()),
    path(f"{SERIES}/metadata", retrieve.Metadata.as_view()),
    path(f"{SERIES}/thumbnail", frames.Thumbnail.as_view()),
    path(INSTANCE, retrieve.Instances.as_view(), name="instance"),
    path(f"{INSTANCE}/metadata", retrieve.Metadata.as_view()),
    path(f"{INSTANCE}/bulkdata/<path:path>", retrieve.BulkData.as_view()),
    path(f"{INSTANCE}/rendered", frames.Rendered.as_view()),
    path(f"{INSTANCE}/thumbnail", frames.Thumbnail.as_view()),
    path(f"{INSTANCE}/frames/<dicomframes:frames>", frames.Frames.as_view()),
    path(f"{INSTANCE}/frames/<dicomframe:frame>/rendered", frames.Rendered.as_view()),
    path(f"{INSTANCE}/frames/<dicomframe:frame>/thumbnail", frames.Thumbnail.as_view()),
]
