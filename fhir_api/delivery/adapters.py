"""What an endpoint wants of a report: which messages, under which names, of which versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fhir_api.hl7v2.mdm import build_mdm
from fhir_api.hl7v2.oru import build_oru
from fhir_api.models import Endpoint, Transport
from fhir_api.r4.resources.bundle import FhirOptions, build_transaction
from fhir_api.report_out.disclosed_report import DisclosedReport
from oncoflow_site.foundation.errors import PermanentError

__all__ = ["FORMATS", "build_payload", "takes_preliminary"]


def _fhir_options(endpoint: Endpoint, *, document_only: bool) -> FhirOptions:
    settings = endpoint.capabilities or {}
    return FhirOptions(
        document_only=document_only,
        never_create=bool(settings.get("never_create")),
        systems={str(key): str(value) for key, value in dict(settings.get("identifier_systems") or {}).items()},
    )


def _report(facts: DisclosedReport, endpoint: Endpoint) -> bytes:
    return build_transaction(facts, _fhir_options(endpoint, document_only=False))


def _document(facts: DisclosedReport, endpoint: Endpoint) -> bytes:
    return build_transaction(facts, _fhir_options(endpoint, document_only=True))


Builder = Callable[[DisclosedReport, Endpoint], bytes]

FORMATS: Final[dict[str, dict[str, Builder]]] = {
    Transport.FHIR: {"diagnostic-report": _report, "document-reference": _document},
    Transport.MLLP: {"oru": build_oru, "mdm": build_mdm},
}
"""Transport -> format -> what builds it; the first is taken where an endpoint names none."""


def build_payload(facts: DisclosedReport, endpoint: Endpoint) -> bytes:
    """The bytes for ``endpoint``. Raises `PermanentError` for a format that its transport does not have."""
    formats = FORMATS[endpoint.transport]
    name = str((endpoint.capabilities or {}).get("format") or next(iter(formats)))
    if name not in formats:
        raise PermanentError(f"there is no format {name!r} for {endpoint.transport}")
    return formats[name](facts, endpoint)


def takes_preliminary(endpoint: Endpoint) -> bool:
    """Whether versions that no radiologist has signed go there."""
    return not (endpoint.capabilities or {}).get("final_only")
