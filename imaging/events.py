"""Facts the imaging room records. What follows from them is in ``oncoflow_site/workflow.py``."""

from __future__ import annotations

from oncoflow_site.foundation.events import declare_event

__all__ = [
    "COMPARISON_READY",
    "MASK_CORRECTED",
    "STUDY_COMPLETE",
    "STUDY_DEFACED",
    "STUDY_DEIDENTIFIED",
    "STUDY_FLAGGED",
    "STUDY_MEASURED",
    "STUDY_REOPENED",
    "VOLUMES_READY",
]

STUDY_COMPLETE = "study.complete"
STUDY_DEFACED = "study.defaced"
STUDY_DEIDENTIFIED = "study.deidentified"
STUDY_REOPENED = "study.reopened"
STUDY_FLAGGED = "study.flagged"
STUDY_MEASURED = "study.measured"
VOLUMES_READY = "volumes.ready"
MASK_CORRECTED = "mask.corrected"
COMPARISON_READY = "comparison.ready"

for _kind in (
    STUDY_COMPLETE,
    STUDY_DEFACED,
    STUDY_DEIDENTIFIED,
    STUDY_REOPENED,
    STUDY_FLAGGED,
    STUDY_MEASURED,
    VOLUMES_READY,
    MASK_CORRECTED,
    COMPARISON_READY,
):
    declare_event(_kind)
