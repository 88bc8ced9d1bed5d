"""The rows of a comparison: one measurement against each earlier one, like for like.

A region is compared only where both dates assessed it; where the two studies do not have the same sequences, that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imaging.brats.assessability import in_words
from imaging.brats.regions import REGIONS, Region
from imaging.longitudinal import lesion_tracking
from imaging.longitudinal.comparability import why_not_comparable
from imaging.longitudinal.history import history_entry
from imaging.longitudinal.rano import TimePoint, assess_response, change, not_assessed_response
from imaging.models import Comparison, Measurement, OutlineAcceptance, Segmentation, SegmentationKind, Study
from imaging.preprocessing.rigid import Registration
from imaging.schemas.comparison import (
    AlikeComparison,
    ComparedSequences,
    ComparisonOutlines,
    ComparisonResult,
    RegionChange,
    RegistrationQuality,
)
from imaging.schemas.outline import FusedOutline, OutlineSource
from imaging.volumes.load import assessable_of

__all__ = ["Dated", "outline_source", "write_comparisons"]


@dataclass(frozen=True)
class Dated:
    """Another study of the patient with its current measurement."""

    study: Study
    measurement: Measurement


def outline_source(segmentation: Segmentation) -> OutlineSource:
    """Who made an outline, from what, and what the gate said of it or of the consensus that a person corrected."""
    judged = segmentation
    while judged.kind == SegmentationKind.PERSON and judged.parent is not None:
        judged = judged.parent
    band = judged.model.band if isinstance(judged.model, FusedOutline) else None
    return OutlineSource.model_validate(
        {
            "maker": segmentation.kind,
            "band": band,
            "sequences": assessable_of(segmentation.volume_set).sequences,
            "reviewer": _reviewer(segmentation),
        }
    )


def _reviewer(segmentation: Segmentation) -> str:
    if segmentation.kind == SegmentationKind.PERSON:
        return segmentation.author
    accepted = OutlineAcceptance.objects.filter(segmentation=segmentation).first()
    return accepted.accepted_by if accepted else ""


def _time_point(study: Study, measurement: Measurement) -> TimePoint:
    regions = measurement.regions
    return TimePoint(
        study_id=str(study.pk),
        performed_at=study.performed_at,
        volumes={name: regions[name].volume_mm3 for name in REGIONS},
        measurable=regions["ET"].measurable,
        lacking=measurement.segmentation.not_assessed.get("ET", ""),
        outline=outline_source(measurement.segmentation),
    )


def _like_for_like(current: Segmentation, prior: Segmentation, region: Region) -> str:
    """Why a region cannot be compared between two outlines; empty where both assessed it and a change would say something."""
    now_lacks, then_lacked = current.not_assessed.get(region), prior.not_assessed.get(region)
    if (why := why_not_comparable(outline_source(current), outline_source(prior))) and not (now_lacks or then_lacked):
        return why
    if now_lacks and then_lacked:
        return f"Not assessed at either date. {now_lacks}"
    if now_lacks:
        return f"Not assessed on this study, so not compared. {now_lacks}"
    return f"Not assessed on the earlier study, so not compared. {then_lacked}" if then_lacked else ""


def _sequences(current: OutlineSource, prior: OutlineSource | None) -> ComparedSequences:
    """What both outlines stand on, with a sentence where that differs."""
    note = ""
    if prior is not None and current.sequences != prior.sequences:
        note = (
            f"The two studies do not have the same sequences: this one {in_words(current.sequences)}, the earlier one "
            f"{in_words(prior.sequences)}. A change may come from that alone."
        )
    return ComparedSequences(current=current.sequences, prior=None if prior is None else prior.sequences, note=note)


def write_comparisons(
    study: Study, measurement: Measurement, priors: list[Dated], registrations: list[Registration]
) -> None:
    """The rows of ``measurement`` against the priors, the latest first; the baseline where there is none.

    :param registrations: how each prior was aligned. Inside a transaction.
    """
    current = _time_point(study, measurement)
    source = outline_source(measurement.segmentation)
    all_points = [_time_point(one.study, one.measurement) for one in priors]
    reasons = [why_not_comparable(source, point.outline) if point.outline else "" for point in all_points]
    points = [point for point, reason in zip(all_points, reasons, strict=True) if not reason]
    aligned = bool(registrations) and registrations[0].converged
    # What was not looked for before cannot be new.
    looked_for = (
        aligned
        and not reasons[0]
        and not any("ET" in one.segmentation.not_assessed for one in (measurement, priors[0].measurement))
    )
    count = lesion_tracking.new_measurable(measurement.lesions) if looked_for else None
    response = assess_response(current, points, new_measurable_lesions=count)
    if reasons and not points:
        # Where a date has no enhancing volume at all, that is the nearer reason.
        every = assess_response(current, all_points, new_measurable_lesions=None)
        response = every if every.inputs is None else not_assessed_response(current, reasons[0])
    dates = [*reversed([(one.study, one.measurement) for one in priors]), (study, measurement)]
    baseline = ComparisonResult(
        prior_study_id=None,
        interval_days=None,
        latest_prior=False,
        regions={},
        lesions=(),
        registration=None,
        sequences=_sequences(source, None),
        response=response,
        history=tuple(history_entry(*date) for date in dates),
        outlines=ComparisonOutlines(current=source, prior=None),
    )
    if not priors:
        Comparison.objects.create(study=study, measurement=measurement, result=baseline)
        return
    for number, (prior, registration) in enumerate(zip(priors, registrations, strict=True)):
        Comparison.objects.create(
            study=study,
            measurement=measurement,
            prior_study=prior.study,
            prior_measurement=prior.measurement,
            result=baseline.model_copy(update=_against(study, measurement, prior, registration, latest=number == 0)),
        )


def _against(
    study: Study, measurement: Measurement, prior: Dated, registration: Registration, *, latest: bool
) -> dict[str, object]:
    """What the comparison with one earlier study has beside the response and the history."""
    outlines = measurement.segmentation, prior.measurement.segmentation
    sources = ComparisonOutlines(current=outline_source(outlines[0]), prior=outline_source(outlines[1]))
    shared = [name for name in REGIONS if not any(name in one.not_assessed for one in outlines)]
    return {
        "prior_study_id": str(prior.study.pk),
        "interval_days": (study.performed_at.date() - prior.study.performed_at.date()).days,
        "latest_prior": latest,
        "regions": _changes(measurement, prior.measurement),
        "lesions": lesion_tracking.versus_prior(
            measurement.lesions,
            prior.measurement.lesions,
            aligned=registration.converged,
            shared=shared,
            comparable=not why_not_comparable(sources.current, sources.prior or sources.current),
        ),
        "sequences": _sequences(sources.current, sources.prior),
        "registration": RegistrationQuality(
            method=registration.method,
            quality=registration.quality,
            converged=registration.converged,
            reason=registration.reason,
        ),
        "outlines": sources,
        "alike": _alike(measurement, prior.measurement),
    }


def _changes(current: Measurement, prior: Measurement) -> dict[Region, RegionChange]:
    before, after = prior.regions, current.regions
    return {
        name: change(
            after[name].volume_mm3,
            before[name].volume_mm3,
            after[name].voxels,
            before[name].voxels,
            not_assessed=_like_for_like(current.segmentation, prior.segmentation, name),
        )
        for name in REGIONS
    }


def _alike(current: Measurement, prior: Measurement) -> tuple[AlikeComparison, ...]:
    """What other pairs of outlines of one making say of the same two studies: the models' of both, a person's of both.

    A pair whose outlines show no change of the tumour (`why_not_comparable`) is left out.
    """
    makings: tuple[tuple[Literal["consensus", "person"], tuple[str, ...]], ...] = (
        ("consensus", (SegmentationKind.CONSENSUS,)),
        ("person", (SegmentationKind.PERSON, SegmentationKind.IMPORT)),
    )
    found = []
    for maker, kinds in makings:
        pair = [_newest(one, kinds) for one in (current, prior)]
        now, then = pair
        if now is None or then is None or pair == [current, prior]:
            continue
        if not why_not_comparable(outline_source(now.segmentation), outline_source(then.segmentation)):
            found.append(AlikeComparison(maker=maker, regions=_changes(now, then)))
    return tuple(found)


def _newest(measurement: Measurement, kinds: tuple[str, ...]) -> Measurement | None:
    """The newest measurement of the same volumes on an outline of these kinds."""
    rows = Measurement.objects.filter(
        study_id=measurement.study_id,
        segmentation__volume_set_id=measurement.segmentation.volume_set_id,
        segmentation__kind__in=kinds,
    )
    return rows.select_related("segmentation__volume_set").order_by("-segmentation__version", "-created_at").first()
