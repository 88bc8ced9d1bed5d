"""HL7 v2 fields that came with an order, as FHIR: visit, provider, diagnoses (`clinical.identity.OrderIdentity.echo`)."""

from __future__ import annotations

from collections.abc import Mapping

from fhir_api.r4.resources import codes
from fhir_api.r4.resources.naming_systems import own, patient_system
from fhir_api.r4.resources.resource import Element

__all__ = ["NPI", "diagnoses", "encounter", "provider_identifier"]

NPI = "http://hl7.org/fhir/sid/us-npi"
_NPI_OID = "2.16.840.1.113883.4.6"
_CODE_SYSTEMS = {
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "SCT": "http://snomed.info/sct",
    "LN": codes.LOINC,
}


def _parts(text: str, number: int) -> list[str]:
    """The first ``number`` components of the first repetition, escapes untouched (none is part of a number or code)."""
    return [*text.split("~")[0].split("^"), *[""] * number][:number]


def encounter(echo: Mapping[str, str], authority: str) -> Element | None:
    """A logical reference to the visit of PV1-19; None where the order named none."""
    value, _, _, assigned, *_ = _parts(echo.get("PV1-19", ""), 5)
    if not value:
        return None
    identifier: Element = {
        "type": codes.concept(codes.coding(codes.V2_0203, "VN")),
        "system": patient_system(assigned.split("&")[0] or authority, "VN"),
        "value": value,
    }
    return {"type": "Encounter", "identifier": identifier}


def provider_identifier(echo: Mapping[str, str]) -> Element | None:
    """The ordering provider's number, of ORC-12 or OBR-16 (XCN), as NPI where it says that it is one; None without a number."""
    for name in ("ORC-12", "OBR-16"):
        parts = _parts(echo.get(name, ""), 13)
        if parts[0]:
            national = parts[12] == "NPI" or "NPI" in parts[8].split("&") or _NPI_OID in parts[8].split("&")
            kind = "NPI" if national else (parts[12] or "PRN")
            system = NPI if national else own("provider")
            return {
                "type": codes.concept(codes.coding(codes.V2_0203, kind)),
                "system": system,
                "value": parts[0],
            }
    return None


def diagnoses(echo: Mapping[str, str]) -> list[Element]:
    """DG1-3 as CodeableConcepts."""
    found = []
    for repetition in filter(None, echo.get("DG1-3", "").split("~")):
        code, text, system, *_ = _parts(repetition, 3)
        coding = {"code": code} | ({"system": _CODE_SYSTEMS[system]} if system in _CODE_SYSTEMS else {})
        concept: Element = ({"coding": [coding]} if code else {}) | ({"text": text} if text else {})
        if concept:
            found.append(concept)
    return found
