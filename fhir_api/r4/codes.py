"""Code systems and codes of what we send (INTEROP tables; LOINC, SNOMED CT, DICOM, UCUM, HL7 terminology)."""

from __future__ import annotations

from typing import Any

__all__ = [
    "DATA_ABSENT_REASON",
    "LOINC",
    "REGION_NAMES",
    "RESPONSE",
    "SNOMED",
    "UCUM",
    "coding",
    "concept",
    "quantity",
]

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UCUM = "http://unitsofmeasure.org"
V2_0074 = "http://terminology.hl7.org/CodeSystem/v2-0074"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
DATA_ABSENT_REASON = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
DICOM_UID = "urn:dicom:uid"

REGION_NAMES = {"ET": "Enhancing tumour", "TC": "Tumour core", "WT": "Whole tumour"}

# LOINC 97509-4 with the answers of mCODE (SNOMED CT); RANO categories on images alone.
RESPONSE = {
    "CR": ("268910001", "Patient's condition improved"),
    "PR": ("268910001", "Patient's condition improved"),
    "SD": ("359746009", "Patient's condition stable"),
    "PD": ("271299001", "Patient's condition worsened"),
}
RESPONSE_NAMES = {
    "CR": "Complete response",
    "PR": "Partial response",
    "SD": "Stable disease",
    "PD": "Progressive disease",
}


def coding(system: str, code: str, display: str = "") -> dict[str, str]:
    """A FHIR Coding."""
    return {"system": system, "code": code} | ({"display": display} if display else {})


def concept(*codings: dict[str, str], text: str = "") -> dict[str, Any]:
    """A FHIR CodeableConcept."""
    return ({"coding": list(codings)} if codings else {}) | ({"text": text} if text else {})


def quantity(value: float, unit: str, code: str = "") -> dict[str, Any]:
    """A FHIR Quantity in UCUM; ``unit`` is what people read."""
    return {"value": value, "unit": unit, "system": UCUM, "code": code or unit}
