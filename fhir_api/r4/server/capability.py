"""The CapabilityStatement: what this door does, and nothing more."""

from __future__ import annotations

from django.conf import settings

from fhir_api.r4.resources.resource import Resource
from fhir_api.r4.server.reading import base_url
from fhir_api.r4.server.search import SEARCHABLE

__all__ = ["capability_statement"]

_READ = ("DiagnosticReport", "DocumentReference", "ImagingStudy", "Patient", "ServiceRequest")
_CREATE = ("DocumentReference", "ServiceRequest")
_TYPES = {"_id": "token", "identifier": "token", "status": "token", "patient": "reference", "subject": "reference"}


def capability_statement() -> Resource:
    """FHIR R4 CapabilityStatement of this installation."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-21",
        "kind": "instance",
        "software": {"name": "OncoFlow"},
        "implementation": {"description": str(settings.ONCOFLOW_HOSPITAL_NAME), "url": base_url()},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {
                    "description": "Bearer tokens with SMART 2 scopes, issued by the operator. Every access is recorded."
                },
                "resource": [_resource(kind) for kind in sorted({*SEARCHABLE, *_READ, *_CREATE})] + [_binary()],
            }
        ],
    }


def _resource(kind: str) -> Resource:
    codes = ["create"] * (kind in _CREATE) + ["read"] * (kind in _READ) + ["search-type"] * (kind in SEARCHABLE)
    resource: Resource = {"type": kind, "interaction": [{"code": code} for code in codes]}
    if kind in _CREATE:
        resource |= {"versioning": "no-version", "conditionalCreate": True}
    resource["searchParam"] = [{"name": name, "type": _TYPES[name]} for name in SEARCHABLE.get(kind, ())]
    return resource


def _binary() -> Resource:
    return {"type": "Binary", "interaction": [{"code": "read"}]}
