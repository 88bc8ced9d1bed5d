"""Change of volumes and the imaging-only response category of RANO 2.0. Schemas out.

Source: Wen et al., J Clin Oncol 2023;41(33):5187-5199 (RANO 2.0); volumetric thresholds -65 % and +40 %, inclusive,
computed on integers (mm3). What only the clinic knows (corticosteroids, KPS or NANO, radiotherapy dates) is listed as
missing: the category is one of the images, never the overall one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from imaging.schemas.comparison import RegionChange, Response, ResponseCategory, ResponseInputs, ResponseOutlines
from imaging.schemas.outline import OutlineSource

__all__ = ["CRITERIA", "SMALL_MM3", "TimePoint", "assess_response", "change", "not_assessed_response"]

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
    :param outline: who made the outline that was measured; None: not known.
    """

    study_id: str
    performed_at: datetime
    volumes: Mapping[str, float | None]
    measurable: bool | None
    lacking: str = ""
    outline: OutlineSource | None = None


def change(
    current_mm3: float | None,
    prior_mm3: float | None,
    current_voxels: int | None = None,
    prior_voxels: int | None = None,
    *,
    not_assessed: str = "",
) -> RegionChange:
    """Change of one region.

    :param not_assessed: why it cannot be compared, where a date did not assess it: nothing is computed then.

    Without volumes the per cent comes from the voxel counts, which is right as long as both grids have one spacing.
    """
    difference, per_cent, small, reason = None, None, None, ""
    current, prior = current_mm3, prior_mm3
    if not_assessed:
        reason = not_assessed
    else:
        if current is None or prior is None:
            reason = "The spacing is not known: per cent of change from voxel counts, no millimetres."
            current, prior = current_voxels, prior_voxels
        else:
            difference = round(current - prior, 3)
            small = max(current, prior) < SMALL_MM3
            if small:
                reason = "Below 0.1 ml: smaller than what repeated scans agree on."
        if current is None or prior is None:
            reason = "Not assessed at both dates."
        elif prior > 0:
            per_cent = round(100.0 * (current - prior) / prior, 2)
        elif current > 0:
            reason = "There was none before: a percentage of nothing is not defined."
        else:
            per_cent, reason = 0.0, "There was none at either date."
    return RegionChange(
        current_mm3=current_mm3,
        prior_mm3=prior_mm3,
        change_mm3=difference,
        change_percent=per_cent,
        small=small,
        reason=reason,
    )


def assess_response(
    current: TimePoint, earlier: Sequence[TimePoint], *, new_measurable_lesions: int | None
) -> Response:
    """Category of ``current`` against all earlier dates.

    Compartment: enhancing tumour (ET). Baseline is the earliest date known here, nadir the smallest ET since then: RANO
    2.0 takes the first scan after radiotherapy as baseline, which only the clinic knows; the rule ids tell.

    :param earlier: any order; dates without an assessed ET volume are left out and named.
    :param new_measurable_lesions: None when the lesions could not be matched.
    """
    volume = current.volumes.get("ET")
    used = sorted((one for one in earlier if one.volumes.get("ET") is not None), key=lambda one: one.performed_at)
    if volume is None or (not used and earlier):
        lacking = [current.lacking] if volume is None else [one.lacking for one in earlier]
        if all(lacking):
            where = "on this study" if volume is None else "on any earlier study"
            return _response(
                current,
                reason=f"The enhancing tumour was not assessed {where}. {lacking[0]}",
                missing=("contrast-enhanced T1 at both dates", *_MISSING),
            )
        reason = "The enhancing volume was not assessed in mm3 at both dates."
        return _response(current, reason=reason, missing=("voxel spacing", *_MISSING))
    now_mm3 = round(volume)
    if not used:
        return _response(
            current,
            rules=("RANO2-BASELINE",),
            reason="No earlier scan is known to this service; the baseline of RANO is the first scan after radiotherapy.",
            inputs=ResponseInputs(current_mm3=now_mm3),
        )
    baseline = used[0]
    nadir = min(used, key=lambda one: (round(one.volumes["ET"] or 0), one.performed_at))
    baseline_mm3, nadir_mm3 = round(baseline.volumes["ET"] or 0), round(nadir.volumes["ET"] or 0)
    inputs = ResponseInputs(
        current_mm3=now_mm3,
        current_measurable=current.measurable,
        baseline_mm3=baseline_mm3,
        baseline_study_id=baseline.study_id,
        baseline_measurable=baseline.measurable,
        nadir_mm3=nadir_mm3,
        nadir_study_id=nadir.study_id,
        percent_vs_baseline=round(100.0 * (now_mm3 - baseline_mm3) / baseline_mm3, 2) if baseline_mm3 else None,
        percent_vs_nadir=round(100.0 * (now_mm3 - nadir_mm3) / nadir_mm3, 2) if nadir_mm3 else None,
        new_measurable_lesions=new_measurable_lesions,
        dates_without_volume=len(earlier) - len(used),
    )
    category, rule, reason = _category(now_mm3, baseline_mm3, nadir_mm3, current, used, new_measurable_lesions)
    rules = ["RANO2-BASELINE-EARLIEST-KNOWN", rule]
    if max(now_mm3, nadir_mm3) < SMALL_MM3:
        rules.append("REPEATABILITY-0.1ML")
    unmatched = () if new_measurable_lesions is not None else ("matching of the lesions between the dates",)
    return _response(
        current,
        category=category,
        rules=tuple(rules),
        reason=reason,
        inputs=inputs,
        missing=(*unmatched, *_MISSING),
        baseline=baseline,
        nadir=nadir,
    )


def not_assessed_response(current: TimePoint, reason: str) -> Response:
    """No category, because no earlier outline can be compared with the present one."""
    return _response(current, reason=reason, missing=("an earlier outline of the same making", *_MISSING))


def _response(
    current: TimePoint,
    *,
    reason: str,
    category: ResponseCategory = "not assessed",
    rules: tuple[str, ...] = (),
    inputs: ResponseInputs | None = None,
    missing: tuple[str, ...] = _MISSING,
    baseline: TimePoint | None = None,
    nadir: TimePoint | None = None,
) -> Response:
    outlines = None
    if current.outline is not None:
        outlines = ResponseOutlines(
            current=current.outline,
            baseline=baseline.outline if baseline else None,
            nadir=nadir.outline if nadir else None,
        )
    return Response(
        category=category,
        criteria=CRITERIA,
        compartment="enhancing tumour",
        confirmed=None if category == "not assessed" else False,
        rule_ids=rules,
        inputs=inputs,
        missing=missing,
        reason=reason,
        outlines=outlines,
    )


def _category(
    now_mm3: int,
    baseline_mm3: int,
    nadir_mm3: int,
    current: TimePoint,
    used: Sequence[TimePoint],
    new_lesions: int | None,
) -> tuple[ResponseCategory, str, str]:
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
    if nadir_mm3 == 0 < min(now_mm3, baseline_mm3):
        # After a complete response what grows from nothing is no partial response, however small it is beside the baseline.
        reason = "Enhancing tumour is outlined again after none was left; not yet measurable progression."
        return "not assessed", "RANO2-REGROWTH-AFTER-CR", reason
    if now_mm3 * 100 <= baseline_mm3 * 35:
        return "PR", "RANO2-PR-VOLUME-65", "The enhancing volume is at least 65 % below the baseline; unconfirmed."
    return "SD", "RANO2-SD", "Neither the volume of progression nor that of response is reached."
