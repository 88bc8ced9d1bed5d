"""Code systems and codes of the FHIR resources sent (LOINC, SNOMED CT, DICOM, UCUM, HL7 terminology)."""

from __future__ import annotations

from fhir_api.r4.resources.resource import Element

__all__ = ["DATA_ABSENT_REASON", "LOINC", "SNOMED", "UCUM", "coding", "concept", "quantity"]


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


def coding(system: str, code: str, display: str = "") -> dict[str, str]:
    """A FHIR Coding."""
    return {"system": system, "code": code} | ({"display": display} if display else {})


def concept(*codings: dict[str, str], text: str = "") -> Element:
    """A FHIR CodeableConcept."""
    return ({"coding": list(codings)} if codings else {}) | ({"text": text} if text else {})


def quantity(value: float, unit: str, code: str = "") -> Element:
    """A FHIR Quantity in UCUM; ``unit`` is what people read."""
    return {"value": value, "unit": unit, "system": UCUM, "code": code or unit}
