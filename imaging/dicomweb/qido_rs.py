"""QIDO-RS (PS3.18 section 10.6): studies, series and instances, on every path.

What has a column is matched by the database; any other attribute on the header of the first instance of each study or
series, decrypted for it. An answer is bounded by its page, and such a look through headers by ``MOST_OPENED``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Min, QuerySet
from django.http import Http404, HttpResponse
from rest_framework.request import Request

from audit import services as audit
from imaging.dicomweb.base_view import DicomWebView, offered, shown, warning
from imaging.dicomweb.content_negotiation import choose_json
from imaging.dicomweb.dicom_json import DicomJson
from imaging.dicomweb.index import headers_json
from imaging.dicomweb.qido_query import LEVELS, Level, Query, matches, parse_query
from imaging.models import PublishedInstance

__all__ = ["SearchInstances", "SearchSeries", "SearchStudies"]

MOST_OPENED = 20_000
_CHUNK = 200
# tag -> column; for these a list of UID or a single value becomes a WHERE
_COLUMNS = {
    "0020000D": "study__deidentified_uid",
    "0020000E": "series_instance_uid",
    "00080018": "sop_instance_uid",
    "00080016": "sop_class_uid",
    "00080060": "modality",
    "00100020": "study__patient__pseudonym",
}
_GROUP = {"studies": "study_id", "series": "series_instance_uid", "instances": "id"}
_ORDER = {
    "studies": ("-date", "first"),
    "series": ("-date", "study", "number", "first"),
    "instances": ("-study_date", "study_id", "series_number", "series_instance_uid", "number", "id"),
}
_UIDS = frozenset({"0020000D", "0020000E", "00080018", "00080016"})


@dataclass
class _Counted:
    """What a study or series has behind it, as the asker may see it."""

    modalities: list[str] = field(default_factory=list)
    series: int = 0
    instances: int = 0


class _Search(DicomWebView):
    interaction = "s"
    level: Level

    def search(self, request: Request, study_uid: str = "", series_uid: str = "") -> HttpResponse:
        """The answer to one search."""
        media_type = choose_json(self.ranges(request))
        query = parse_query([(k, v) for k in request.query_params for v in request.query_params.getlist(k)], self.level)
        study = self.study(request, study_uid) if study_uid else None
        rows = offered(request.user)
        if study is not None:
            rows = rows.filter(study=study)
        if series_uid:
            rows = rows.filter(series_instance_uid=series_uid)
            if not rows.exists():
                raise Http404
        rows, remaining = _narrowed(rows, query, self.level)
        page, more, complete = _page(rows, query, remaining, self.level)
        warnings = list(query.warnings)
        if more:
            warnings.append("There are additional results that can be requested.")
        if not complete:
            warnings.append("The search was ended early. Narrow it by date, patient or study.")
        found = _answers(page, query, self.level, self.base_url(request))
        with transaction.atomic():
            audit.record(
                "dicomweb.search",
                action="E",
                resource=study.subject if study else "dicomweb",
                patient_id=study.patient_id if study else None,
                detail={"level": self.level.name, "keys": query.names(), "results": len(found)},
            )
        if not found:
            response = HttpResponse(status=204)
        else:
            response = HttpResponse(json.dumps(found, separators=(",", ":")), content_type=media_type)
        if warnings:
            response.headers["Warning"] = ", ".join(warning(text) for text in warnings)
        return response


class SearchStudies(_Search):
    """``/studies``"""

    level = LEVELS["studies"]

    def get(self, request: Request) -> HttpResponse:
        """Search for studies."""
        return self.search(request)


class SearchSeries(_Search):
    """``/series`` and ``/studies/{study}/series``"""

    level = LEVELS["series"]

    def get(self, request: Request, study_uid: str = "") -> HttpResponse:
        """Search for series."""
        return self.search(request, study_uid)


class SearchInstances(_Search):
    """``/instances``, ``/studies/{study}/instances`` and ``/studies/{study}/series/{series}/instances``"""

    level = LEVELS["instances"]

    def get(self, request: Request, study_uid: str = "", series_uid: str = "") -> HttpResponse:
        """Search for instances."""
        return self.search(request, study_uid, series_uid)


def _narrowed(
    rows: QuerySet[PublishedInstance], query: Query, level: Level
) -> tuple[QuerySet[PublishedInstance], dict[tuple[str, ...], str]]:
    """What the database can decide, and the keys that are left for the headers."""
    left: dict[tuple[str, ...], str] = {}
    for path, value in query.keys.items():
        tag = path[0]
        column = _COLUMNS.get(tag) if len(path) == 1 else None
        if tag in ("00080061", "00080062") and len(path) == 1:
            # Modalities (or SOP classes) in study: studies that hold one such instance.
            name = "modality__in" if tag == "00080061" else "sop_class_uid__in"
            rows = rows.filter(study__in=rows.filter(**{name: _several(value)}).values("study"))
        elif tag == "00080020" and len(path) == 1 and "-" in value:
            first, _, last = value.replace(".", "").partition("-")
            rows = rows.filter(study_date__gte=first or "0", **({"study_date__lte": last} if last else {}))
        elif tag == "00080020" and len(path) == 1:
            rows = rows.filter(study_date=value)
        elif column is not None and tag in _UIDS:
            rows = rows.filter(**{f"{column}__in": _several(value)})
        elif column is not None and not set(value) & set("*?"):
            rows = rows.filter(**{column: value})
        else:
            left[path] = value
    return rows, left


def _several(value: str) -> list[str]:
    return [part.strip() for part in value.replace("\\", ",").split(",") if part.strip()]


def _groups(rows: QuerySet[PublishedInstance], level: Level) -> Any:
    """Ids of the rows that stand for each study, series or instance, in a stable order."""
    if level.name == "instances":
        return rows.order_by(*_ORDER["instances"]).values_list("id", flat=True)
    grouped = rows.order_by().values(_GROUP[level.name])
    grouped = grouped.annotate(
        first=Min("id"), date=Min("study_date"), number=Min("series_number"), study=Min("study__deidentified_uid")
    )
    return grouped.order_by(*_ORDER[level.name]).values_list("first", flat=True)


def _page(
    rows: QuerySet[PublishedInstance], query: Query, remaining: dict[tuple[str, ...], str], level: Level
) -> tuple[list[tuple[PublishedInstance, DicomJson]], bool, bool]:
    """The page asked for, whether more follow, and whether the search saw everything it had to."""
    ids = _groups(rows, level)
    if not remaining:
        wanted = list(ids[query.offset : query.offset + query.limit + 1])
        return list(_opened(wanted[: query.limit])), len(wanted) > query.limit, True
    found: list[tuple[PublishedInstance, DicomJson]] = []
    skipped = opened = 0
    while opened < MOST_OPENED:
        chunk = list(ids[opened : opened + _CHUNK])
        opened += len(chunk)
        for row, header in _opened(chunk):
            if not all(matches(header, path, value) for path, value in remaining.items()):
                continue
            if skipped < query.offset:
                skipped += 1
            elif len(found) == query.limit:
                return found, True, True
            else:
                found.append((row, header))
        if len(chunk) < _CHUNK:
            return found, False, True
    return found, False, False


def _opened(ids: Iterable[int]) -> Iterator[tuple[PublishedInstance, DicomJson]]:
    wanted = list(ids)
    rows = PublishedInstance.objects.select_related("object", "study").in_bulk(wanted)
    ordered = [rows[one] for one in wanted if one in rows]
    for row, text in zip(ordered, headers_json(ordered), strict=True):
        yield row, json.loads(text)


def _answers(page: list[tuple[PublishedInstance, DicomJson]], query: Query, level: Level, base: str) -> list[DicomJson]:
    counts = _counts([row for row, _ in page], level)
    tags = set(level.tags)
    if level.name != "studies":
        tags.add("0020000D")
    if level.name == "instances":
        tags |= {"0020000E", "00080060"}
    if query.include is not None:
        # What was asked for by value is given back too (PS3.18 section 10.6.3.3).
        tags |= query.include | {path[0] for path in query.keys}
    return [_answer(row, header, counts, tags, query.include is None, level, base) for row, header in page]


def _answer(
    row: PublishedInstance,
    header: DicomJson,
    counts: dict[UUID | int | str, _Counted],
    tags: set[str],
    everything: bool,
    level: Level,
    base: str,
) -> DicomJson:
    url = f"{base}/studies/{row.study.deidentified_uid}"
    if level.name != "studies":
        url += f"/series/{row.series_instance_uid}"
    if level.name == "instances":
        url += f"/instances/{row.sop_instance_uid}"
    made: DicomJson = {"00081190": {"vr": "UR", "Value": [url]}, "00080056": {"vr": "CS", "Value": ["ONLINE"]}}
    made["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # of this answer, which is UTF-8
    counted = counts.get(getattr(row, _GROUP[level.name])) or _Counted()
    if level.name == "studies":
        made["00080061"] = {"vr": "CS", "Value": [*counted.modalities]}
        made["00201206"] = {"vr": "IS", "Value": [counted.series]}
        made["00201208"] = {"vr": "IS", "Value": [counted.instances]}
    elif level.name == "series":
        made["00201209"] = {"vr": "IS", "Value": [counted.instances]}
    kept = {
        tag: member
        for tag, member in header.items()
        if (everything or tag in tags) and tag not in made and "BulkDataURI" not in member
    }
    return dict(sorted((kept | made).items()))


def _counts(page: list[PublishedInstance], level: Level) -> dict[UUID | int | str, _Counted]:
    if level.name == "instances" or not page:
        return {}
    key = _GROUP[level.name]
    values = {getattr(row, key) for row in page}
    rows = shown(PublishedInstance.objects.filter(**{f"{key}__in": values}))
    counted: dict[UUID | int | str, _Counted] = {value: _Counted() for value in values}
    totals = rows.order_by().values(key).annotate(n=Count("id"), series=Count("series_instance_uid", distinct=True))
    for one in totals:
        counted[one[key]].instances, counted[one[key]].series = one["n"], one["series"]
    if level.name == "studies":
        for study_id, modality in rows.order_by("modality").values_list("study_id", "modality").distinct():
            counted[study_id].modalities.append(modality)
    return counted
