"""What FHIR Observations and OBX segments of a report have in common: names of regions and responses, reasons."""

from __future__ import annotations

from imaging.brats.regions import REGION_NAMES, Region
from imaging.schemas.measurement import RegionMeasurement

__all__ = ["REGION_DISPLAY", "RESPONSE_ANSWERS", "RESPONSE_DISPLAY", "reason_not_assessed"]


REGION_DISPLAY: dict[Region, str] = {"ET": REGION_NAMES["ET"], "TC": REGION_NAMES["TC"], "WT": REGION_NAMES["WT"]}


# LOINC 97509-4 with the answers of mCODE (SNOMED CT); RANO categories on images alone.
RESPONSE_ANSWERS = {
    "CR": ("268910001", "Patient's condition improved"),
    "PR": ("268910001", "Patient's condition improved"),
    "SD": ("359746009", "Patient's condition stable"),
    "PD": ("271299001", "Patient's condition worsened"),
}
RESPONSE_DISPLAY = {
    "CR": "Complete response",
    "PR": "Partial response",
    "SD": "Stable disease",
    "PD": "Progressive disease",
}


def reason_not_assessed(measured: RegionMeasurement | None) -> str:
    """Why a region was not assessed for want of a sequence; empty where it was."""
    return "" if measured is None or measured.outlined else measured.reason or "not assessed"
