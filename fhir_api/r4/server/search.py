"""Search (FHIR R4 search, section 3.1.1): few parameters, done truthfully; the self link names those that counted."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from clinical import services as clinical
from clinical.models import Order, Patient
from fhir_api.r4.resources.naming_systems import known_authority
from fhir_api.r4.server import reading
from fhir_api.r4.server.outcome import FhirError
from reports.models import Report

__all__ = ["SEARCHABLE", "SearchResult", "search"]

# type -> search parameters, as the CapabilityStatement lists them.
SEARCHABLE: dict[str, tuple[str, ...]] = {
    "DiagnosticReport": ("_id", "patient", "subject", "status"),
    "DocumentReference": ("_id", "patient", "subject"),
    "ImagingStudy": ("_id", "patient", "subject"),
    "Observation": ("_id", "patient", "subject", "status"),
    "Patient": ("_id", "identifier"),
    "Provenance": ("_id", "patient"),
    "ServiceRequest": ("_id", "patient", "subject", "status"),
}
_PAGING = ("_count", "_page", "_format")
_MAX_COUNT = 100


@dataclass
class SearchResult:
    """What was found. ``used``: the parameters that were applied. ``total`` is None where counting would mean rendering."""

    found: list[reading.ServedResource] = field(default_factory=list)
    used: list[tuple[str, str]] = field(default_factory=list)
    total: int | None = None
    next_page: int | None = None


def search(kind: str, parameters: list[tuple[str, str]], patients: QuerySet[Patient], *, strict: bool) -> SearchResult:
    """Search resources of ``patients``. Unknown parameters are ignored, or refused when ``strict``. Raises `FhirError`."""
    result = SearchResult()
    values: dict[str, list[str]] = {}
    for name, value in parameters[:50]:
        if name in SEARCHABLE[kind] or name in _PAGING:
            if name != "_format":
                result.used.append((name, value))
            values.setdefault(name, []).append(value)
        elif strict or ":" in name:
            # A modifier changes what a parameter means: ignoring it would give wrong answers.
            raise FhirError(400, "A search parameter is not supported.", code="not-supported")
    count, page = _number(values, "_count", 20, _MAX_COUNT), _number(values, "_page", 0, 1_000_000)
    if kind == "Patient":
        _patients(result, values, patients, count, page)
        return result
    narrowed = _of_patient(values, patients)
    ids = [_uuid(one) for text in values.get("_id", []) for one in text.split(",")] if "_id" in values else None
    if kind == "ServiceRequest":
        orders = Order.objects.filter(patient__in=narrowed).order_by("created_at", "pk")
        if ids is not None:
            orders = orders.filter(pk__in=ids)
        wanted = _tokens(values, "status")
        if wanted:
            meant = [one for one, shown in reading.ORDER_STATUS.items() if shown in wanted]
            orders = orders.filter(status__in=meant)
        _page(result, orders, reading.order, count, page)
    elif kind == "DocumentReference":
        documents = reading.documents(narrowed)
        if ids is not None:
            documents = documents.filter(pk__in=ids)
        _page(result, documents, reading.document, count, page)
    else:
        _derived(result, kind, values, narrowed, ids, count, page)
    return result


def _number(values: dict[str, list[str]], name: str, default: int, limit: int) -> int:
    text = values.get(name, [""])[-1]
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise FhirError(400, "A paging parameter is not a number.")
    return min(int(text), limit)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return uuid.UUID(int=0)  # nobody's id: matches nothing


def _tokens(values: dict[str, list[str]], name: str) -> set[str]:
    return {one.rpartition("|")[2] for text in values.get(name, []) for one in text.split(",") if one}


def _of_patient(values: dict[str, list[str]], patients: QuerySet[Patient]) -> QuerySet[Patient]:
    for name in ("patient", "subject"):
        for text in values.get(name, []):
            base = f"{reading.base_url()}/"
            ids = [_uuid(one.removeprefix(base).removeprefix("Patient/")) for one in text.split(",")]
            patients = patients.filter(pk__in=ids)
    return patients


def _page(result: SearchResult, rows: QuerySet[Any], render: reading.Reader, count: int, page: int) -> None:
    result.total = rows.count()
    if count == 0:
        return
    for row in rows[page * count : (page + 1) * count]:
        found = render(row)
        if found is not None:
            result.found.append(found)
    if (page + 1) * count < result.total:
        result.next_page = page + 1


def _patients(
    result: SearchResult, values: dict[str, list[str]], patients: QuerySet[Patient], count: int, page: int
) -> None:
    for text in values.get("_id", []):
        patients = patients.filter(pk__in=[_uuid(one) for one in text.split(",")])
    for text in values.get("identifier", []):
        ids: list[uuid.UUID] = []
        for token in text.split(","):
            system, bar, value = token.rpartition("|")
            known = known_authority(system) if bar else None
            # Without a system it could be anybody's number: such a search finds nobody.
            if known and value:
                ids += clinical.patients_with_number(known[0], value, known[1]).values_list("pk", flat=True)
        patients = patients.filter(pk__in=ids)
    _page(result, patients.order_by("created_at", "pk"), reading.patient, count, page)


def _derived(
    result: SearchResult,
    kind: str,
    values: dict[str, list[str]],
    patients: QuerySet[Patient],
    ids: list[uuid.UUID] | None,
    count: int,
    page: int,
) -> None:
    reports = Report.objects.filter(patient__in=patients, versions__issued_at__isnull=False).distinct()
    reports = reports.select_related("study", "patient").order_by("created_at", "pk")
    if ids is not None and kind == "DiagnosticReport":
        reports = reports.filter(pk__in=ids)
    if ids is not None and kind == "ImagingStudy":
        reports = reports.filter(study_id__in=ids)
    statuses = _tokens(values, "status")
    wanted = {str(one) for one in ids} if ids is not None else None
    skip, room = page * count, count
    for report in reports.iterator(chunk_size=20):
        for found in reading.report_resources(report, (kind,)):
            resource = found.resource
            if wanted is not None and resource["id"] not in wanted:
                continue
            if statuses and resource.get("status") not in statuses:
                continue
            if skip:
                skip -= 1
            elif room:
                room -= 1
                result.found.append(found)
            elif count:
                result.next_page = page + 1
                return
    if page == 0 and result.next_page is None and count:
        result.total = len(result.found)
