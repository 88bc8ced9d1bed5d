"""Resources that are read here: received ones as their bytes came, ours rendered from what we own."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from clinical import services as clinical
from clinical.models import ClinicalDocument, Order, Patient
from fhir_api.models import ReceivedResource
from fhir_api.r4.resources import codes, order_fields
from fhir_api.r4.resources.bundle import build_transaction, patient_resource
from fhir_api.r4.resources.naming_systems import own, patient_system
from fhir_api.r4.resources.resource import Resource, element, elements
from fhir_api.report_out.disclosed_report import disclose_report
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import local
from reports.lifecycle.versions import issued_version
from reports.models import Report, ReportVersion

__all__ = [
    "ORDER_STATUS",
    "PURPOSE",
    "Reader",
    "ServedResource",
    "base_url",
    "binary",
    "document",
    "documents",
    "order",
    "patient",
    "received",
    "report_resources",
]

Reader = Callable[[Any], "ServedResource | None"]
PURPOSE = "fhir-api"
ORDER_STATUS = {"requested": "active", "in_progress": "active", "completed": "completed", "cancelled": "revoked"}


@dataclass(frozen=True)
class ServedResource:
    """A resource with what its headers say."""

    resource: Resource
    version: int
    modified: datetime
    patient_id: uuid.UUID


def base_url() -> str:
    """Absolute base of the FHIR door."""
    return f"{str(settings.ONCOFLOW_BASE_URL).rstrip('/')}/fhir"


def _with_meta(resource: Resource, logical_id: str, version: int, modified: datetime) -> Resource:
    meta = {
        **element(resource.get("meta")),
        "versionId": str(version),
        "lastUpdated": modified.isoformat(timespec="milliseconds"),
    }
    head = {"resourceType": resource["resourceType"], "id": logical_id, "meta": meta}
    return {**head, **{key: value for key, value in resource.items() if key not in head}}


def patient(row: Patient) -> ServedResource:
    """A Patient with its identity, revealed on the record."""
    identity = clinical.reveal_identity(row, purpose=PURPOSE)
    resource = patient_resource(identity, row.pseudonym, str(settings.ONCOFLOW_ASSIGNING_AUTHORITY))
    former = clinical.merged_records(row)
    if former:  # R4 Patient.link: this record replaces those, which can still be read
        resource["link"] = [{"other": {"reference": f"Patient/{one.pk}"}, "type": "replaces"} for one in former]
    return ServedResource(_with_meta(resource, str(row.pk), 1, row.updated_at), 1, row.updated_at, row.pk)


def merged_patient(row: Patient) -> ServedResource:
    """A record that was merged into another: inactive, and where it went. Its identity is the survivor's to tell."""
    survivor = clinical.current_patient(row)
    resource: Resource = {
        "resourceType": "Patient",
        "identifier": [{"system": own("pseudonym"), "value": row.pseudonym}],
        "active": False,
        "link": [{"other": {"reference": f"Patient/{survivor.pk}"}, "type": "replaced-by"}],
    }
    return ServedResource(_with_meta(resource, str(row.pk), 1, row.updated_at), 1, row.updated_at, row.pk)


def received(kind: str, logical_id: uuid.UUID) -> ServedResource | None:
    """The newest version of a resource that a client sent; only id and meta are put in."""
    row = (
        ReceivedResource.objects.filter(resource_type=kind, resource_id=logical_id)
        .select_related("raw")
        .order_by("-version")
        .first()
    )
    if row is None:
        return None
    resource = json.loads(objects.get(row.raw).decode("utf-8-sig"))
    return ServedResource(
        _with_meta(resource, str(logical_id), row.version, row.created_at), row.version, row.created_at, row.patient_id
    )


def document(row: ClinicalDocument) -> ServedResource | None:
    """A DocumentReference as it was received; None for a document that came another way."""
    return received("DocumentReference", row.pk)


def documents(patients: QuerySet[Patient]) -> QuerySet[ClinicalDocument]:
    """Documents of these patients that came in as FHIR."""
    fhir = ReceivedResource.objects.filter(resource_type="DocumentReference", patient__in=patients)
    return ClinicalDocument.objects.filter(pk__in=fhir.values("resource_id")).order_by("created_at", "pk")


def order(row: Order) -> ServedResource:
    """A ServiceRequest: as received, or rendered from the HL7 v2 order. Its status follows the order."""
    found = received("ServiceRequest", row.pk)
    if found is not None:
        resource = {**found.resource, "status": ORDER_STATUS[row.status]}
        return ServedResource(resource, found.version, max(found.modified, row.updated_at), row.patient_id)
    told = clinical.reveal_order(row, purpose=PURPOSE)
    identifiers = [
        {
            "type": codes.concept(codes.coding(codes.V2_0203, kind)),
            "system": patient_system(authority or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY), kind),
            "value": number,
        }
        for kind, number, authority in (
            ("PLAC", told.placer_number, told.placer_authority),
            ("FILL", told.filler_number, told.filler_authority),
            ("ACSN", told.accession, ""),
        )
        if number
    ]
    system = codes.LOINC if row.procedure_code[:1].isdigit() and "-" in row.procedure_code else ""
    coding = {"code": row.procedure_code} | ({"system": system} if system else {})
    resource: Resource = {  # type: ignore[no-redef]
        "resourceType": "ServiceRequest",
        "identifier": identifiers,
        "status": ORDER_STATUS[row.status],
        "intent": "order",
        "priority": row.priority,
        "code": ({"coding": [coding]} if row.procedure_code else {})
        | ({"text": row.procedure_text} if row.procedure_text else {}),
        "subject": {"reference": f"Patient/{row.patient_id}"},
        "authoredOn": local(row.requested_at).isoformat(),
    }
    if told.reason:
        resource["reasonCode"] = [{"text": told.reason}]
    resource["reasonCode"] = [*elements(resource.get("reasonCode")), *order_fields.diagnoses(told.echo)]
    provider = order_fields.provider_identifier(told.echo)
    if told.ordering_provider or provider:
        named: Resource = {"display": told.ordering_provider} if told.ordering_provider else {}
        resource["requester"] = named | ({"type": "Practitioner", "identifier": provider} if provider else {})
    visit = order_fields.encounter(told.echo, str(settings.ONCOFLOW_ASSIGNING_AUTHORITY))
    if visit:
        resource["encounter"] = visit
    resource = {key: value for key, value in resource.items() if value not in ([], {})}
    return ServedResource(_with_meta(resource, str(row.pk), 1, row.updated_at), 1, row.updated_at, row.patient_id)


def report_resources(report: Report, kinds: tuple[str, ...]) -> Iterator[ServedResource]:
    """The resources of ``kinds`` that the report's version in force consists of, with references that resolve here."""
    version = issued_version(report)
    if version is None:
        return
    entries = json.loads(build_transaction(disclose_report(version, purpose=PURPOSE)))["entry"]
    study = report.study
    names: dict[str, Resource] = {}
    ids: dict[str, str] = {}
    for entry in entries:
        resource, url = entry["resource"], entry["fullUrl"]
        kind = resource["resourceType"]
        logical = {"Patient": str(report.patient_id), "ImagingStudy": str(study.id)}.get(kind, resource.get("id", ""))
        ids[url] = logical
        if kind in ("Patient", "ImagingStudy", "DiagnosticReport", "Observation", "Binary"):
            names[url] = {"reference": f"{kind}/{logical}"}
        else:  # not served: named by its identifier
            identifier = resource.get("identifier") or [{}]
            names[url] = {"type": kind, "identifier": identifier[0]} if isinstance(identifier, list) else {"type": kind}
    for entry in entries:
        resource = entry["resource"]
        if resource["resourceType"] in kinds:
            logical = ids[entry["fullUrl"]]
            rewritten = _localise(resource, names)
            if resource["resourceType"] == "Provenance":
                rewritten["target"] = [one for one in rewritten["target"] if "reference" in one]
            yield _served(rewritten, logical, version, report)


def _served(resource: Resource, logical: str, version: ReportVersion, report: Report) -> ServedResource:
    modified = version.issued_at or version.created_at
    return ServedResource(
        _with_meta(resource, logical, version.number, modified), version.number, modified, report.patient_id
    )


def _localise(value: Any, names: Mapping[str, Resource]) -> Any:
    if isinstance(value, dict):
        reference = value.get("reference")
        if isinstance(reference, str) and reference in names:
            return dict(names[reference])
        made = {key: _localise(one, names) for key, one in value.items()}
        if isinstance(made.get("url"), str) and made["url"] in names:
            made["url"] = f"{base_url()}/{names[made['url']]['reference']}"
        return made
    if isinstance(value, list):
        return [_localise(one, names) for one in value]
    return value


def binary(version: ReportVersion, pdf: bytes) -> Resource:
    """A version's PDF as a Binary resource."""
    data = base64.b64encode(pdf).decode()
    return {"resourceType": "Binary", "id": str(version.pk), "contentType": "application/pdf", "data": data}
