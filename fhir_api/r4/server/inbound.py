"""Reading resources that clients send: shape (fhir.resources), required bindings, references, base64, then meaning.

fhir.resources checks structure and data types but no bindings, no base64 and no empty arrays (measured); those are checked
here. Its messages quote the input, so only the place and the kind of an error are passed on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from fhir.resources.R4B.documentreference import DocumentReference
from fhir.resources.R4B.servicerequest import ServiceRequest
from pydantic import ValidationError

from clinical import services as clinical
from clinical.identity import OrderIdentity
from clinical.models import Patient
from fhir_api.r4.resources.codes import LOINC, V2_0203
from fhir_api.r4.resources.naming_systems import authority_of, known_authority
from fhir_api.r4.resources.resource import FhirJson, Resource, element, elements
from fhir_api.r4.server.outcome import FhirError
from oncoflow_site.foundation.clock import DatedMoment

__all__ = [
    "MAX_BODY",
    "InboundDocumentReference",
    "InboundServiceRequest",
    "read_document",
    "read_json",
    "read_order",
    "subject_of",
]

MAX_BODY = 48 << 20
_MAX_ELEMENTS = 100_000
_MAX_DEPTH = 60
_MODELS: dict[str, type[DocumentReference] | type[ServiceRequest]] = {
    "DocumentReference": DocumentReference,
    "ServiceRequest": ServiceRequest,
}

# Checked before fhir.resources does, whose errors about these do not say "missing".
_REQUIRED = {"DocumentReference": ("status", "content"), "ServiceRequest": ("status", "intent", "subject")}

# Required bindings of the elements that are read or stored (R4 4.0.1).
_BINDINGS: dict[str, dict[str, frozenset[str]]] = {
    "DocumentReference": {
        "status": frozenset({"current", "superseded", "entered-in-error"}),
        "docStatus": frozenset({"preliminary", "final", "amended", "entered-in-error"}),
    },
    "ServiceRequest": {
        "status": frozenset({"draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown"}),
        "intent": frozenset(
            {"proposal", "plan", "directive", "order", "original-order", "reflex-order", "filler-order"}
            | {"instance-order", "option"}
        ),
        "priority": frozenset({"routine", "urgent", "asap", "stat"}),
    },
}


@dataclass(frozen=True)
class InboundDocumentReference:
    """What a DocumentReference brings."""

    content: bytes
    content_type: str
    type_code: str
    type_text: str
    authored: DatedMoment | None
    source_id: str


@dataclass(frozen=True)
class InboundServiceRequest:
    """What a ServiceRequest asks for."""

    identity: OrderIdentity
    priority: str
    procedure_code: str
    procedure_text: str
    requested: DatedMoment | None


def _no_constant(name: str) -> Any:
    raise ValueError("not JSON")


def _pairs(pairs: list[tuple[str, Any]]) -> Resource:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicate name")
    return made


def _walk(value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise FhirError(400, "The resource is nested too deeply.", code="too-costly")
    if isinstance(value, dict):
        if not value and depth:
            raise FhirError(400, "An object has no content.", code="structure")
        for one in value.values():
            if one is None:
                raise FhirError(400, "JSON null is not allowed here.", code="structure")
            _walk(one, depth + 1)
    elif isinstance(value, list):
        if not value:
            raise FhirError(400, "An array has no content.", code="structure")
        for one in value:
            if one is not None:  # null keeps the place of a missing primitive beside its extension
                _walk(one, depth + 1)


def read_json(body: bytes, kind: str) -> Resource:
    """Parse and check the shape of a resource of type ``kind``. Raises `FhirError`."""
    if len(body) > MAX_BODY:
        raise FhirError(413, "The body is too large.")
    # Before parsing: a few megabytes of "[[[[" or "0,0,0" become gigabytes of objects. Base64 has neither character.
    if body.count(b",") > _MAX_ELEMENTS or body.count(b"[") + body.count(b"{") > _MAX_ELEMENTS:
        raise FhirError(400, "The resource has too many elements.", code="too-costly")
    try:
        resource = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        raise FhirError(400, "The body is not well-formed JSON in UTF-8.", code="structure") from None
    if not isinstance(resource, dict) or resource.get("resourceType") != kind:
        raise FhirError(400, f"The body is not a {kind}.", code="structure", expression=f"{kind}")
    _walk(resource)
    if "id" in resource:
        raise FhirError(400, "A new resource gets its id from the server.", code="invalid", expression=f"{kind}.id")
    for name in _REQUIRED[kind]:
        if name not in resource:
            raise FhirError(400, "A required element is missing.", code="required", expression=f"{kind}.{name}")
    try:
        _MODELS[kind].model_validate(resource)
    except ValidationError as error:
        raise _shape_error(kind, error) from None
    except (ValueError, TypeError, RecursionError):
        raise FhirError(400, "The resource does not have the shape that R4 defines.", code="structure") from None
    for name, allowed in _BINDINGS[kind].items():
        if name in resource and resource[name] not in allowed:
            raise FhirError(
                400, "The code is not in the required value set.", code="code-invalid", expression=f"{kind}.{name}"
            )
    return resource


def _shape_error(kind: str, error: ValidationError) -> FhirError:
    """The first error, with the part of its place that R4 itself defines: a client's own field name could be a name."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    known = _MODELS[kind].model_fields
    place = kind
    for step in first["loc"][:1]:
        if isinstance(step, str) and step in known:
            place += f".{step}"
    texts = {
        "missing": "A required element is missing.",
        "extra_forbidden": "There is an element that R4 does not have.",
    }
    text = texts.get(str(first["type"]), "An element does not have the shape that R4 defines.")
    return FhirError(400, text, code="required" if first["type"] == "missing" else "structure", expression=place)


def subject_of(resource: Resource, user: Any) -> Patient:
    """The patient of ``subject``: by identifier, or by a reference to a Patient read here. Raises `FhirError` 422.

    Unknown and not permitted give one answer, so that it tells nothing.
    """
    kind = resource["resourceType"]
    subject = resource.get("subject")
    if not isinstance(subject, dict):
        raise FhirError(422, "The subject is missing.", code="required", expression=f"{kind}.subject")
    patient: Patient | None = None
    reference, identifier = subject.get("reference"), subject.get("identifier")
    if isinstance(reference, str):
        base = f"{settings.ONCOFLOW_BASE_URL}/fhir/"
        match = re.fullmatch(r"Patient/([0-9a-fA-F-]{36})", reference.removeprefix(base))
        if match:
            patient = Patient.objects.filter(pk=match.group(1)).first()
    elif isinstance(identifier, dict):
        found = known_authority(str(identifier.get("system", "")))
        if found is not None and identifier.get("value"):
            patient = clinical.find_patient(found[0], str(identifier["value"]), found[1])
    if patient is not None:
        patient = clinical.current_patient(patient)
    if patient is None or not clinical.user_can_see(user, patient):
        raise FhirError(422, "The subject is not a patient known here.", code="not-found", expression=f"{kind}.subject")
    return patient


def _dated(text: FhirJson) -> DatedMoment | None:
    """FHIR date, instant or dateTime; a partial date stays one (R4 2.24.0.1), in the site's zone. None when it is no date."""
    if not isinstance(text, str):
        return None
    try:
        if len(text) <= 10:
            return DatedMoment.of_parts(*(int(part) for part in text.split("-")))
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return DatedMoment(moment) if moment.tzinfo else None


def _concept(concept: FhirJson, prefer: str = LOINC) -> tuple[str, str]:
    """(code, text) of a CodeableConcept; the coding of ``prefer`` first."""
    if not isinstance(concept, dict):
        return "", ""
    codings = sorted(elements(concept.get("coding")) or [{}], key=lambda one: one.get("system") != prefer)
    return str(codings[0].get("code", "")), str(concept.get("text") or codings[0].get("display", ""))


def business_identifier(identifier: FhirJson) -> str:
    """``system|value``; empty when there is none."""
    if isinstance(identifier, dict) and identifier.get("value"):
        return f"{identifier.get('system', '')}|{identifier['value']}"
    return ""


def read_document(resource: Resource) -> InboundDocumentReference:
    """The one attachment of a current DocumentReference, its data checked against size and SHA-1. Raises `FhirError`."""
    if resource["status"] != "current" or resource.get("docStatus") == "entered-in-error":
        raise FhirError(
            422, "Only current documents are taken.", code="business-rule", expression="DocumentReference.status"
        )
    contents = elements(resource.get("content"))
    attachment = element(contents[0].get("attachment")) if len(contents) == 1 else {}
    place = "DocumentReference.content.attachment"
    if len(contents) != 1 or not attachment.get("data"):
        raise FhirError(422, "Exactly one attachment with its data is needed.", code="not-supported", expression=place)
    try:
        content = base64.b64decode("".join(str(attachment["data"]).split()), validate=True)
    except (binascii.Error, ValueError):
        raise FhirError(400, "The data is not base64.", code="value", expression=f"{place}.data") from None
    if attachment.get("size", len(content)) != len(content):
        raise FhirError(422, "The size is not that of the data.", code="value", expression=f"{place}.size")
    if attachment.get("hash"):
        digest = base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
        if attachment["hash"] != digest:
            raise FhirError(422, "The hash is not that of the data.", code="value", expression=f"{place}.hash")
    if not attachment.get("contentType"):
        raise FhirError(422, "The content type is missing.", code="required", expression=f"{place}.contentType")
    code, text = _concept(resource.get("type"))
    source = business_identifier(resource.get("masterIdentifier"))
    return InboundDocumentReference(
        content=content,
        content_type=str(attachment["contentType"]),
        type_code=code,
        type_text=text,
        authored=_dated(attachment.get("creation")) or _dated(resource.get("date")),
        source_id=source or business_identifier(next(iter(elements(resource.get("identifier"))), None)),
    )


def read_order(resource: Resource) -> InboundServiceRequest:
    """An active order. Identifier types PLAC (or none), FILL and ACSN of table v2-0203. Raises `FhirError`."""
    kind = "ServiceRequest"
    if resource["status"] != "active" or resource["intent"] not in ("order", "original-order", "instance-order"):
        raise FhirError(422, "Only active orders are taken.", code="business-rule", expression=f"{kind}.status")
    numbers: dict[str, tuple[str, str]] = {}
    for identifier in elements(resource.get("identifier")):
        codings = elements(element(identifier.get("type")).get("coding"))
        code = next((str(one.get("code", "")) for one in codings if one.get("system") == V2_0203), "PLAC")
        if code in ("PLAC", "FILL", "ACSN") and identifier.get("value"):
            found = authority_of(str(identifier.get("system", "")))
            numbers.setdefault(
                code, (str(identifier["value"]), found[0] if found else str(identifier.get("system", "")))
            )
    if not numbers:
        raise FhirError(422, "The order needs an identifier.", code="required", expression=f"{kind}.identifier")
    code, text = _concept(resource.get("code"))
    if not code and not text:
        raise FhirError(422, "The order does not say what is to be done.", code="required", expression=f"{kind}.code")
    reasons = [_concept(one)[1] or _concept(one)[0] for one in elements(resource.get("reasonCode"))]
    requester = element(resource.get("requester"))
    placer, filler = numbers.get("PLAC", ("", "")), numbers.get("FILL", ("", ""))
    identity = OrderIdentity(
        accession=numbers.get("ACSN", ("", ""))[0],
        placer_number=placer[0],
        placer_authority=placer[1],
        filler_number=filler[0],
        filler_authority=filler[1],
        reason="; ".join(filter(None, reasons))[:2000],
        ordering_provider=str(requester.get("display", ""))[:200],
    )
    priority = {"urgent": "asap"}.get(str(resource.get("priority", "")), str(resource.get("priority") or "routine"))
    return InboundServiceRequest(identity, priority, code, text, _dated(resource.get("authoredOn")))
