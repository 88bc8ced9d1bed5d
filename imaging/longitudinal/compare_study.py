"""Comparing a measured study with every earlier one of the patient: lesions followed, change, RANO 2.0.

Registration only carries lesions from one date to the other, so its errors never enter a volume; two volume sets are
registered once. The job converges: run twice, or for studies that arrive in the wrong order, it ends with one measurement of
the outline in force compared with what is in force of every earlier study.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db.models import Max, Q

from audit import services as audit
from imaging.events import COMPARISON_READY
from imaging.findings import clear_findings, raise_finding
from imaging.longitudinal import lesion_tracking
from imaging.longitudinal.alignment import Aligner
from imaging.longitudinal.comparability import why_not_comparable
from imaging.longitudinal.comparison_rows import Dated, outline_source, write_comparisons
from imaging.longitudinal.history import current_measurements, earlier_studies, later_studies
from imaging.longitudinal.measure_study import cut_to_tumour, midline_of, volumetry_of
from imaging.measurement.lesion_location import located
from imaging.measurement.lesions import find_lesions
from imaging.models import FindingSeverity, Measurement, Segmentation, Study
from imaging.preprocessing.rigid import Registration
from imaging.schemas.measurement import LesionMeasurement, MeasuredAnatomy
from imaging.schemas.outline import OutlineSource
from imaging.segmentation.label_maps import (
    assessed_regions,
    current_segmentation,
    current_segmentations,
    load_labels,
)
from imaging.states import StudyState
from imaging.volumes.load import grid_of
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.models import Job

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["compare_study", "give_up"]

JOB = "imaging.compare_study"
NOT_COMPARED = "not-compared"
NOT_COMPARED_MESSAGE = (
    "The outline of this study could not be measured or compared with earlier studies, so its report is not up to date. "
    "Those who run the service see why; they can have it done again."
)
WAIT_FOR_EARLIER = timedelta(minutes=10)
LOOK_AGAIN = timedelta(seconds=3)


def compare_study(ctx: JobContext, study: Study) -> None:
    """Compare ``study`` as it is measured (event comparison.ready); later studies are compared anew where that matters.

    Does nothing when there is no outline, or when all this is done already. While an earlier study of the patient is still
    on its way through the pipeline, it looks again a little later, for at most ten minutes.
    """
    segmentation = current_segmentation(study)
    if segmentation is None or _wait_for_earlier(study, segmentation):
        return
    earlier = list(earlier_studies(study))
    measured = current_measurements(earlier)
    priors = [Dated(row, measured[row.pk]) for row in earlier if row.pk in measured]
    if _is_done(segmentation, priors):
        return
    volumetry = volumetry_of(ctx, segmentation)
    aligner = Aligner(ctx, segmentation.volume_set)
    known: list[lesion_tracking.KnownLesions] = []
    registrations: list[Registration] = []
    for number, prior in enumerate(priors):
        ctx.progress(0.1 + 0.6 * number / len(priors), f"Comparing with earlier study {number + 1} of {len(priors)}")
        registrations.append(aligner.onto(prior.measurement.segmentation.volume_set))
        known.append(_known(prior, registrations[-1]))
    ctx.progress(0.8, "Following the lesions")
    against = priors[0].measurement.segmentation if priors else None
    why = why_not_comparable(outline_source(segmentation), outline_source(against)) if against is not None else ""
    lesions = _lesions(ctx, study, segmentation, aligner, known, not_comparable=why)
    ctx.progress(0.9, "Storing the comparison")
    failpoints.hit("imaging.compare_computed")
    with ctx.commit(done=True):
        locked = Study.objects.select_for_update().get(pk=study.pk)
        if current_segmentation(locked) != segmentation or _is_done(segmentation, priors):
            return
        measurement = Measurement.objects.create(
            study=study,
            segmentation=segmentation,
            regions=volumetry.regions,
            lesions=lesions,
            highest_lesion=lesion_tracking.next_number([lesion.id for lesion in lesions]) - 1,
            anatomy=MeasuredAnatomy(midline_shift=volumetry.midline_shift),
        )
        write_comparisons(study, measurement, priors, registrations)
        clear_findings(study, NOT_COMPARED, by="comparison")
        emit(COMPARISON_READY, subject=study.subject, study_id=str(study.pk), measurement_id=str(measurement.pk))
        audit.record(
            "study.compare",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"measurement": str(measurement.pk), "earlier_studies": len(priors)},
            source="worker",
        )
        _rerun_later(study, measurement)


def give_up(job: Job, *, study_id: str) -> None:
    """The job that measures or compares it ended for good: the study says that its report is behind its outline."""
    study = Study.objects.get(pk=study_id)
    if current_segmentation(study) is not None:
        raise_finding(study, NOT_COMPARED, NOT_COMPARED_MESSAGE, severity=FindingSeverity.WARNING, by="comparison")


def _wait_for_earlier(study: Study, segmentation: Segmentation) -> bool:
    """Arm a later look when an earlier study is likely to be measured soon."""
    moment = now()
    if segmentation.created_at + WAIT_FOR_EARLIER < moment:
        return False
    coming = list(
        earlier_studies(study).filter(
            Q(state__in=(StudyState.RECEIVING, StudyState.COMPLETE, StudyState.PREPARING, StudyState.READY)),
            last_received_at__gt=moment - WAIT_FOR_EARLIER,
        )
    )
    if len(current_measurements(coming)) == len(coming):
        return False
    enqueue(
        JOB,
        subject=study.subject,
        key=f"compare:{segmentation.pk}:again:{int(moment.timestamp())}",
        kwargs={"study_id": str(study.pk)},
        run_after=moment + LOOK_AGAIN,
    )
    return True


def _is_done(segmentation: Segmentation, priors: list[Dated]) -> bool:
    latest = Measurement.objects.filter(segmentation=segmentation).order_by("-created_at", "-pk").first()
    if latest is None:
        return False
    rows = list(latest.comparisons.all())
    wanted = {one.measurement.pk for one in priors} or {None}  # type: ignore[arg-type]
    if {row.prior_measurement_id for row in rows} != wanted:
        return False
    # Somebody may have accepted an earlier outline since.
    sources: dict[object, OutlineSource] = {
        one.measurement.pk: outline_source(one.measurement.segmentation) for one in priors
    }
    return all(
        row.result.outlines is None or row.result.outlines.prior == sources.get(row.prior_measurement_id)
        for row in rows
    )


def _rerun_later(study: Study, measurement: Measurement) -> None:
    later = list(later_studies(study))
    outlined = current_segmentations(later)
    for row in later:
        if row.pk in outlined:
            enqueue(
                JOB,
                subject=row.subject,
                key=f"compare:{row.pk}:after:{measurement.pk}",
                kwargs={"study_id": str(row.pk)},
            )


def _known(dated: Dated, registration: Registration) -> lesion_tracking.KnownLesions:
    segmentation = dated.measurement.segmentation
    labels, grid = cut_to_tumour(load_labels(segmentation), grid_of(segmentation.volume_set))
    matrix = registration.matrix if registration.converged else None
    return lesion_tracking.KnownLesions(
        dated.measurement.lesions, find_lesions(labels, grid), grid, matrix, assessed_regions(segmentation)
    )


def _lesions(
    ctx: JobContext,
    study: Study,
    segmentation: Segmentation,
    aligner: Aligner,
    priors: list[lesion_tracking.KnownLesions],
    *,
    not_comparable: str,
) -> tuple[LesionMeasurement, ...]:
    """The lesions of the outline under the names they have in this patient, each with its place."""
    labels, grid = cut_to_tumour(load_labels(segmentation), grid_of(segmentation.volume_set))
    current = find_lesions(labels, grid)
    others = Measurement.objects.filter(study__patient_id=study.patient_id)
    highest = others.aggregate(highest=Max("highest_lesion"))["highest"] or 0
    own = others.filter(study=study).select_related("segmentation__volume_set").order_by("-created_at", "-pk").first()
    same_study = None
    if own is not None:
        same_study = _known(Dated(study, own), Registration.identity("the same study"))
    later: list[lesion_tracking.KnownLesions] = []
    if current:
        following = list(later_studies(study))
        measured = current_measurements(following)
        nearest = next((row for row in following if row.pk in measured), None)
        if nearest is not None:
            dated = Dated(nearest, measured[nearest.pk])
            later.append(_known(dated, aligner.onto(dated.measurement.segmentation.volume_set)))
    named = lesion_tracking.track_lesions(
        current, grid, priors=priors, same_study=same_study, later=later, all_identities=[f"L{highest}"]
    )
    tracked = lesion_tracking.tracked(
        current,
        labels,
        grid,
        named,
        latest_prior=priors[0] if priors else None,
        has_priors=bool(priors),
        spacing_known=study.spacing_known,
        not_assessed=tuple(segmentation.not_assessed),
        not_comparable=not_comparable,
    )
    midline, reason = midline_of(ctx, segmentation)
    return located(tracked, current, grid, midline, reason=reason, spacing_known=study.spacing_known)
