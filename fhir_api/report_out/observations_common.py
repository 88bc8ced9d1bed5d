"""What FHIR Observations and OBX segments of a report have in common: names of regions and responses, reasons."""

from __future__ import annotations

import re
from typing import Literal

from imaging.brats.regions import REGION_NAMES, Region
from imaging.schemas.measurement import RegionMeasurement
from reports.content.schema import ReportStudy

__all__ = [
    "PART_DISPLAY",
    "REGION_DISPLAY",
    "RESPONSE_ANSWERS",
    "RESPONSE_DISPLAY",
    "is_loinc",
    "procedure_loinc",
    "reason_not_assessed",
]


REGION_DISPLAY: dict[Region, str] = {"ET": REGION_NAMES["ET"], "TC": REGION_NAMES["TC"], "WT": REGION_NAMES["WT"]}


PART_DISPLAY: dict[Literal["NCR", "ED"], str] = {
    "NCR": "Necrosis and core that does not enhance (NCR)",
    "ED": "Oedema and infiltration (ED)",
}


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


_LOINC_ORDER_CODE = re.compile(r"\d{3,6}-\d")


def procedure_loinc(study: ReportStudy) -> tuple[str, str]:
    """(code, name) in LOINC of what was done, from the sequences that were reported.

    A contrast-enhanced T1 beside a plain one: without and with; without a plain one: with. Without either nothing tells
    whether contrast was given, unless the headers of all say that it was not.
    """
    sequences = {one.sequence for one in study.acquisition}
    if study.modality != "MR" or not sequences:
        return "24590-2", "MR Brain"
    if "T1c" in sequences:
        both = "T1" in sequences
        return ("24587-8", "MR Brain WO and W contrast IV") if both else ("24589-4", "MR Brain W contrast IV")
    if all(one.contrast == "not given" for one in study.acquisition):
        return "30657-1", "MR Brain WO contrast"
    return "24590-2", "MR Brain"


def is_loinc(code: str) -> bool:
    """Whether the order's own procedure code has the form of a LOINC code: then it is echoed, and none of ours beside it."""
    return bool(_LOINC_ORDER_CODE.fullmatch(code))


def reason_not_assessed(measured: RegionMeasurement | None) -> str:
    """Why a region was not assessed for want of a sequence; empty where it was."""
    return "" if measured is None or measured.outlined else measured.reason or "not assessed"
