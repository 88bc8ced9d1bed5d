"""Addresses under ``/dicomweb/`` (PS3.18 Table 10.1-1). All UIDs in them are the de-identified ones."""

from django.urls import path, register_converter

from imaging.dicomweb import qido_rs, stow_rs, wado_frames, wado_rs


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
    path("studies", stow_rs.Studies.as_view()),
    path("series", qido_rs.SearchSeries.as_view()),
    path("instances", qido_rs.SearchInstances.as_view()),
    path(STUDY, stow_rs.OneStudy.as_view()),
    path(f"{STUDY}/series", qido_rs.SearchSeries.as_view()),
    path(f"{STUDY}/instances", qido_rs.SearchInstances.as_view()),
    path(f"{STUDY}/metadata", wado_rs.Metadata.as_view()),
    path(f"{STUDY}/thumbnail", wado_frames.Thumbnail.as_view()),
    path(SERIES, wado_rs.Instances.as_view()),
    path(f"{SERIES}/instances", qido_rs.SearchInstances.as_view()),
    path(f"{SERIES}/metadata", wado_rs.Metadata.as_view()),
    path(f"{SERIES}/thumbnail", wado_frames.Thumbnail.as_view()),
    path(INSTANCE, wado_rs.Instances.as_view(), name="instance"),
    path(f"{INSTANCE}/metadata", wado_rs.Metadata.as_view()),
    path(f"{INSTANCE}/bulkdata/<path:path>", wado_rs.BulkData.as_view()),
    path(f"{INSTANCE}/rendered", wado_frames.Rendered.as_view()),
    path(f"{INSTANCE}/thumbnail", wado_frames.Thumbnail.as_view()),
    path(f"{INSTANCE}/frames/<dicomframes:frames>", wado_frames.Frames.as_view()),
    path(f"{INSTANCE}/frames/<dicomframe:frame>/rendered", wado_frames.Rendered.as_view()),
    path(f"{INSTANCE}/frames/<dicomframe:frame>/thumbnail", wado_frames.Thumbnail.as_view()),
]
