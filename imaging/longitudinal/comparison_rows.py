"""The rows of a comparison: one measurement against each earlier one, like for like.

A region is compared only where both dates assessed it; where the two studies do not have the same sequences, that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imaging.brats.assessability import in_words
from imaging.brats.regions import REGIONS
from imaging.longitudinal import lesion_tracking
from imaging.longitudinal.history import history_entry
from imaging.longitudinal.rano import TimePoint, assess_response, change
from imaging.models import Comparison, Measurement, Segmentation, Study
from imaging.preprocessing.rigid import Registration
from imaging.volumes.load import assessable_of

__all__ = ["Dated", "write_comparisons"]


@dataclass(frozen=True)
class Dated:
    """Another study of the patient with its current measurement."""

    study: Study
    measurement: Measurement


def _time_point(study: Study, measurement: Measurement) -> TimePoint:
    regions = measurement.regions
    return TimePoint(
        study_id=str(study.pk),
        performed_at=study.performed_at,
        volumes={name: regions[name]["volume_mm3"] for name in REGIONS},
        measurable=regions["ET"]["measurable"],
        lacking=str(measurement.segmentation.not_assessed.get("ET", "")),
    )


def _like_for_like(current: Segmentation, prior: Segmentation, region: str) -> str:
    """Why a region cannot be compared between two outlines; empty where both assessed it."""
    now_lacks, then_lacked = current.not_assessed.get(region), prior.not_assessed.get(region)
    if now_lacks and then_lacked:
        return f"Not assessed at either date. {now_lacks}"
    if now_lacks:
        return f"Not assessed on this study, so not compared. {now_lacks}"
    return f"Not assessed on the earlier study, so not compared. {then_lacked}" if then_lacked else ""


def _sequences(current: Segmentation, prior: Segmentation) -> dict[str, Any]:
    """What both outlines stand on, with a sentence where that differs."""
    now_from, then_from = assessable_of(current.volume_set).sequences, assessable_of(prior.volume_set).sequences
    note = ""
    if now_from != then_from:
        note = (
            f"The two studies do not have the same sequences: this one {in_words(now_from)}, the earlier one "
            f"{in_words(then_from)}. A change may come from that alone."
        )
    return {"current": list(now_from), "prior": list(then_from), "note": note}


def write_comparisons(
    study: Study, measurement: Measurement, priors: list[Dated], registrations: list[Registration]
) -> None:
    """The rows of ``measurement`` against the priors, the latest first; the baseline where there is none.

    :param registrations: how each prior was aligned. Inside a transaction.
    """
    points = [_time_point(one.study, one.measurement) for one in priors]
    aligned = bool(registrations) and registrations[0].converged
    # What was not looked for before cannot be new.
    looked_for = aligned and not any(
        "ET" in one.segmentation.not_assessed for one in (measurement, priors[0].measurement)
    )
    count = lesion_tracking.new_measurable(measurement.lesions) if looked_for else None
    current = _time_point(study, measurement)
    response = assess_response(current, points, new_measurable_lesions=count)
    dates = [*reversed([(one.study, one.measurement) for one in priors]), (study, measurement)]
    history = [history_entry(*date) for date in dates]
    common: dict[str, Any] = {"response": response, "history": history}
    if not priors:
        result = {
            "prior_study_id": None,
            "interval_days": None,
            "latest_prior": False,
            "regions": {},
            "lesions": [],
            "registration": None,
            "sequences": {"current": list(assessable_of(measurement.segmentation.volume_set).sequences)},
            **common,
        }
        Comparison.objects.create(study=study, measurement=measurement, result=result)
        return
    for number, (prior, registration) in enumerate(zip(priors, registrations, strict=True)):
        before, after = prior.measurement.regions, measurement.regions
        outlines = measurement.segmentation, prior.measurement.segmentation
        regions = {
            name: change(
                after[name]["volume_mm3"],
                before[name]["volume_mm3"],
                after[name]["voxels"],
                before[name]["voxels"],
                not_assessed=_like_for_like(*outlines, name),
            )
            for name in REGIONS
        }
        shared = [name for name in REGIONS if not any(name in one.not_assessed for one in outlines)]
        result = {
            "prior_study_id": str(prior.study.pk),
            "interval_days": (study.performed_at.date() - prior.study.performed_at.date()).days,
            "latest_prior": number == 0,
            "regions": regions,
            "lesions": lesion_tracking.versus_prior(
                measurement.lesions, prior.measurement.lesions, aligned=registration.converged, shared=shared
            ),
            "sequences": _sequences(*outlines),
            "registration": {
                "method": registration.method,
                "quality": registration.quality,
                "converged": registration.converged,
                "reason": registration.reason,
            },
            **common,
        }
        Comparison.objects.create(
            study=study,
            measurement=measurement,
            prior_study=prior.study,
            prior_measurement=prior.measurement,
            result=result,
        )
