"""Change of volumes and the imaging-only response category of RANO 2.0. Plain values in and out.

Source: Wen et al., J Clin Oncol 2023;41(33):5187-5199 (RANO 2.0); volumetric thresholds -65 % and +40 %, inclusive,
computed on integers (mm3). What only the clinic knows (corticosteroids, KPS or NANO, radiotherapy dates) is listed as
missing: the category is one of the images, never the overall one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["CRITERIA", "SMALL_MM3", "TimePoint", "assess_response", "change"]

CRITERIA = "RANO 2.0 imaging-only, volumetric"
SMALL_MM3 = 100
"""0.1 ml: below what repeated scans of the same patient agree on."""

_MISSING = (
    "corticosteroid dose",
    "clinical status (KPS or NANO)",
    "end of radiotherapy",
    "start of the present treatment",
    "confirmation scan after at least 4 weeks",
)


@dataclass(frozen=True)
class TimePoint:
    """One dated measurement of one patient.

    :param volumes: region -> mm3, or None where nothing was assessed.
    :param measurable: an enhancing lesion of at least 10 x 10 mm is there; None: not assessed.
    :param lacking: why it has no enhancing volume, where its sequences do not show any.
    """

    study_id: str
    performed_at: datetime
    volumes: Mapping[str, float | None]
    measurable: bool | None
    lacking: str = ""


def change(
    current_mm3: float | None,
    prior_mm3: float | None,
    current_voxels: int | None = None,
    prior_voxels: int | None = None,
    *,
    not_assessed: str = "",
) -> dict[str, Any]:
    """Change of one region: ``current_mm3, prior_mm3, change_mm3, change_percent, reason, small`` (None: not assessed).

    :param not_assessed: why it cannot be compared, where a date did not assess it: nothing is computed then.

    Without volumes the per cent comes from the voxel counts, which is right as long as both grids have one spacing.
    """
    result: dict[str, Any] = {
        "current_mm3": current_mm3,
        "prior_mm3": prior_mm3,
        "change_mm3": None,
        "change_percent": None,
        "small": None,
        "reason": "",
    }
    current, prior = current_mm3, prior_mm3
    if not_assessed:
        result["reason"] = not_assessed
        return result
    if current is None or prior is None:
        result["reason"] = "The spacing is not known: per cent of change from voxel counts, no millimetres."
        current, prior = current_voxels, prior_voxels
        if current is None or prior is None:
            result["reason"] = "Not assessed at both dates."
            return result
    else:
        result["change_mm3"] = round(current - prior, 3)
        result["small"] = max(current, prior) < SMALL_MM3
        if result["small"]:
            result["reason"] = "Below 0.1 ml: smaller than what repeated scans agree on."
    if prior > 0:
        result["change_percent"] = round(100.0 * (current - prior) / prior, 2)
    elif current > 0:
        result["reason"] = "There was none before: a percentage of nothing is not defined."
    else:
        result["change_percent"] = 0.0
        result["reason"] = "There was none at either date."
    return result


def assess_response(
    current: TimePoint, earlier: Sequence[TimePoint], *, new_measurable_lesions: int | None
) -> dict[str, Any]:
    """Category of ``current`` against all earlier dates (the room's contract gives the keys).

    Compartment: enhancing tumour (ET). Baseline is the earliest date known here, nadir the smallest ET since then: RANO
    2.0 takes the first scan after radiotherapy as baseline, which only the clinic knows; the rule ids tell.

    :param earlier: any order; dates without an assessed ET volume are left out and named.
    :param new_measurable_lesions: None when the lesions could not be matched.
    """
    rules: list[str] = []
    result: dict[str, Any] = {
        "category": "not assessed",
        "criteria": CRITERIA,
        "compartment": "enhancing tumour",
        "confirmed": None,
        "rule_ids": rules,
        "inputs": {},
        "missing": list(_MISSING),
        "reason": "",
    }
    volume = current.volumes.get("ET")
    used = sorted((one for one in earlier if one.volumes.get("ET") is not None), key=lambda one: one.performed_at)
    if volume is None or (not used and earlier):
        lacking = [current.lacking] if volume is None else [one.lacking for one in earlier]
        if all(lacking):
            where = "on this study" if volume is None else "on any earlier study"
            result["reason"] = f"The enhancing tumour was not assessed {where}. {lacking[0]}"
            result["missing"].insert(0, "contrast-enhanced T1 at both dates")
        else:
            result["reason"] = "The enhancing volume was not assessed in mm3 at both dates."
            result["missing"].insert(0, "voxel spacing")
        return result
    now_mm3 = round(volume)
    if not used:
        rules.append("RANO2-BASELINE")
        result["reason"] = "This is the first scan known here: it is the baseline."
        result["inputs"] = {"current_mm3": now_mm3, "new_measurable_lesions": None}
        return result
    baseline = used[0]
    nadir = min(used, key=lambda one: (round(one.volumes["ET"] or 0), one.performed_at))
    baseline_mm3, nadir_mm3 = round(baseline.volumes["ET"] or 0), round(nadir.volumes["ET"] or 0)
    rules.append("RANO2-BASELINE-EARLIEST-KNOWN")
    result["inputs"] = {
        "current_mm3": now_mm3,
        "current_measurable": current.measurable,
        "baseline_mm3": baseline_mm3,
        "baseline_study_id": baseline.study_id,
        "baseline_measurable": baseline.measurable,
        "nadir_mm3": nadir_mm3,
        "nadir_study_id": nadir.study_id,
        "percent_vs_baseline": round(100.0 * (now_mm3 - baseline_mm3) / baseline_mm3, 2) if baseline_mm3 else None,
        "percent_vs_nadir": round(100.0 * (now_mm3 - nadir_mm3) / nadir_mm3, 2) if nadir_mm3 else None,
        "new_measurable_lesions": new_measurable_lesions,
        "dates_without_volume": len(earlier) - len(used),
    }
    if new_measurable_lesions is None:
        result["missing"].insert(0, "matching of the lesions between the dates")
    category, rule, reason = _category(now_mm3, baseline_mm3, nadir_mm3, current, used, new_measurable_lesions)
    result["category"], result["reason"] = category, reason
    rules.append(rule)
    if category != "not assessed":
        result["confirmed"] = False
    if max(now_mm3, nadir_mm3) < SMALL_MM3:
        rules.append("REPEATABILITY-0.1ML")
    return result


def _category(
    now_mm3: int,
    baseline_mm3: int,
    nadir_mm3: int,
    current: TimePoint,
    used: Sequence[TimePoint],
    new_lesions: int | None,
) -> tuple[str, str, str]:
    """(category, rule id, sentence). Order matters: progression is looked at first."""
    if new_lesions:
        return "PD", "RANO2-PD-NEW-LESION", "A new measurable enhancing lesion."
    if not any(one.measurable for one in used):
        if current.measurable:
            return "PD", "RANO2-PD-BECAME-MEASURABLE", "Enhancing tumour that was not measurable before is measurable."
        return (
            "not assessed",
            "RANO2-NON-MEASURABLE",
            "No enhancing lesion of at least 10 x 10 mm at any date: the volumetric criteria do not apply.",
        )
    grown = now_mm3 * 100 >= nadir_mm3 * 140
    if grown and now_mm3 > nadir_mm3 and current.measurable:
        return "PD", "RANO2-PD-VOLUME-40", "The enhancing volume is at least 40 % above its smallest value."
    if now_mm3 == 0 and baseline_mm3 > 0:
        return "CR", "RANO2-CR-VOLUME-0", "No enhancing tumour is left; unconfirmed, corticosteroids not known."
    if now_mm3 * 100 <= baseline_mm3 * 35:
        return "PR", "RANO2-PR-VOLUME-65", "The enhancing volume is at least 65 % below the baseline; unconfirmed."
    return "SD", "RANO2-SD", "Neither the volume of progression nor that of response is reached."
