"""What FHIR Observations and OBX segments of a report have in common: names of regions and responses, units, reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["REGION_DISPLAY", "RESPONSE_ANSWERS", "reason_not_assessed"]


REGION_DISPLAY = {"ET": "Enhancing tumour", "TC": "Tumour core", "WT": "Whole tumour"}


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


def volume_ml(mm3: float | None) -> float | None:
    """mm3 to mL, to 1 mm3."""
    return None if mm3 is None else round(float(mm3) / 1000.0, 3)


def reason_not_assessed(values: Mapping[str, Any]) -> str:
    """Why a region was not assessed for want of a sequence; empty where it was."""
    return str(values.get("reason") or "not assessed") if values and values.get("voxels", 0) is None else ""
