"""Measuring a study's segmentation and comparing it with every earlier study of the patient.

Volumes are measured on each study's own grid; registration only carries lesions from one date to the other, so its errors
never enter a volume. The job converges: run twice, or for studies that arrive in the wrong order, it ends with one
measurement of the current segmentation compared with the current measurement of every earlier study.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from django.db.models import Q, QuerySet
from numpy.typing import NDArray

from audit import services as audit
from imaging.brats.regions import region_masks
from imaging.events import COMPARISON_READY
from imaging.geometry.grid import Grid, crop_box, crop_to_box
from imaging.geometry.resample import centroid_ras
from imaging.longitudinal import lesion_tracking
from imaging.longitudinal.comparison_rows import Dated, write_comparisons
from imaging.measurement.lesion_location import locate, midline_entry
from imaging.measurement.lesions import Lesion, find_lesions
from imaging.measurement.midline_shift import find_midline
from imaging.measurement.volumetry import SPACING_UNKNOWN, measure_regions
from imaging.models import Measurement, Segmentation, SegmentationKind, Study
from imaging.preprocessing.rigid import Registration, register_rigid
from imaging.segmentation.label_maps import assessed_regions, current_segmentation, load_labels
from imaging.states import StudyState
from imaging.volumes.load import assessable_of, grid_of, latest_volume_set, load_volume, load_volumes
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import enqueue

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["current_measurement", "earlier_studies", "later_studies", "measure_and_compare"]

JOB = "imaging.measure_and_compare"
WAIT_FOR_EARLIER = timedelta(minutes=10)
LOOK_AGAIN = timedelta(seconds=3)
_MARGIN_MM = 12.0


def earlier_studies(study: Study) -> QuerySet[Study]:
    """The patient's studies before ``study`` (by date, then by id), the latest first."""
    before = Q(performed_at__lt=study.performed_at) | Q(performed_at=study.performed_at, pk__lt=study.pk)
    return Study.objects.filter(before, patient_id=study.patient_id).order_by("-performed_at", "-pk")


def later_studies(study: Study) -> QuerySet[Study]:
    """The patient's studies after ``study``, the earliest first."""
    after = Q(performed_at__gt=study.performed_at) | Q(performed_at=study.performed_at, pk__gt=study.pk)
    return Study.objects.filter(after, patient_id=study.patient_id).order_by("performed_at", "pk")


def current_measurement(study: Study) -> Measurement | None:
    """The newest measurement of the segmentation that counts now."""
    segmentation = current_segmentation(study)
    if segmentation is None:
        return None
    return Measurement.objects.filter(segmentation=segmentation).order_by("-created_at", "-pk").first()


def measure_and_compare(ctx: JobContext, study: Study) -> None:
    """Measure ``study`` and compare it (event comparison.ready); later studies are compared anew where that matters.

    Does nothing when there is no segmentation, or when all this is done already. While an earlier study of the patient
    is still on its way through the pipeline, it looks again a little later, for at most ten minutes.
    """
    segmentation = current_segmentation(study)
    if segmentation is None or _wait_for_earlier(study, segmentation):
        return
    priors = [Dated(one, found) for one in earlier_studies(study) if (found := current_measurement(one))]
    if _is_done(segmentation, priors):
        return
    ctx.progress(0.05, "Measuring")
    work = _Work(study, segmentation)
    regions = measure_regions(
        work.labels,
        work.grid,
        spacing_known=study.spacing_known,
        experts=work.experts(),
        not_assessed=segmentation.not_assessed,
    )
    for region, why in work.by_hand().items():
        regions[region]["basis"] = f"Outlined by a person; the models could not assess it. {why}"
    known: list[lesion_tracking.KnownLesions] = []
    registrations: list[Registration] = []
    for number, prior in enumerate(priors):
        ctx.progress(0.2 + 0.6 * number / len(priors), f"Comparing with earlier study {number + 1} of {len(priors)}")
        registration = work.register(prior.study)
        registrations.append(registration)
        known.append(_known(prior, registration))
    current = find_lesions(work.labels, work.grid)
    lesions = _lesions(work, known, current)
    ctx.progress(0.85, "Finding the midline")
    anatomy = _anatomy(work, lesions, current)
    ctx.progress(0.9, "Storing the comparison")
    failpoints.hit("imaging.compare_computed")
    with ctx.commit(done=True):
        locked = Study.objects.select_for_update().get(pk=study.pk)
        if current_segmentation(locked) != segmentation or _is_done(segmentation, priors):
            return
        measurement = Measurement.objects.create(
            study=study, segmentation=segmentation, regions=regions, lesions=lesions, anatomy=anatomy
        )
        write_comparisons(study, measurement, priors, registrations)
        emit(COMPARISON_READY, subject=study.subject, study_id=str(study.pk), measurement_id=str(measurement.pk))
        audit.record(
            "study.measure",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"measurement": str(measurement.pk), "earlier_studies": len(priors)},
            source="worker",
        )
        _rerun_later(study, measurement)


def _wait_for_earlier(study: Study, segmentation: Segmentation) -> bool:
    """Arm a later look when an earlier study is likely to be measured soon."""
    moment = now()
    if segmentation.created_at + WAIT_FOR_EARLIER < moment:
        return False
    coming = earlier_studies(study).filter(
        Q(state__in=(StudyState.RECEIVING, StudyState.COMPLETE, StudyState.PREPARING, StudyState.READY)),
        last_received_at__gt=moment - WAIT_FOR_EARLIER,
    )
    if not any(current_measurement(one) is None for one in coming):
        return False
    enqueue(
        JOB,
        subject=study.subject,
        key=f"measure:{segmentation.pk}:again:{int(moment.timestamp())}",
        kwargs={"study_id": str(study.pk)},
        run_after=moment + LOOK_AGAIN,
    )
    return True


def _is_done(segmentation: Segmentation, priors: list[Dated]) -> bool:
    latest = Measurement.objects.filter(segmentation=segmentation).order_by("-created_at", "-pk").first()
    if latest is None:
        return False
    compared = set(latest.comparisons.values_list("prior_measurement_id", flat=True))
    wanted = {one.measurement.pk for one in priors} or {None}  # type: ignore[arg-type]
    return compared == wanted


def _rerun_later(study: Study, measurement: Measurement) -> None:
    for later in later_studies(study):
        if current_segmentation(later) is not None:
            enqueue(
                JOB,
                subject=later.subject,
                key=f"measure:{later.pk}:after:{measurement.pk}",
                kwargs={"study_id": str(later.pk)},
            )


class _Work:
    """The study's label map, cut to the tumour, and its reference image, loaded when needed."""

    def __init__(self, study: Study, segmentation: Segmentation) -> None:
        self.study, self.segmentation = study, segmentation
        self.labels, self.grid = _cut(load_labels(segmentation), grid_of(segmentation.volume_set))
        self._reference: tuple[NDArray[np.float32], Grid] | None = None

    def experts(self) -> list[dict[str, NDArray[np.bool_]]]:
        """What each expert of the panel outlined in the same volumes, on the whole grid: the regions it assessed."""
        experts = Segmentation.objects.filter(
            volume_set=self.segmentation.volume_set, kind=SegmentationKind.EXPERT
        ).order_by("author", "-version")
        newest = {one.author: one for one in reversed(experts)}
        # Whole, not cut: an expert may see tumour where the consensus has none, and that is part of the spread.
        masks = [(one, region_masks(load_labels(one))) for one in newest.values()]
        return [{region: found[region] for region in assessed_regions(one)} for one, found in masks]

    def by_hand(self) -> dict[str, str]:
        """Regions that a person assessed though the study's sequences do not show them, with why these do not."""
        possible = assessable_of(self.segmentation.volume_set).not_assessed
        return {region: why for region, why in possible.items() if region not in self.segmentation.not_assessed}

    def register(self, prior: Study) -> Registration:
        """Where this study's points lie in ``prior``."""
        if self._reference is None:
            self._reference = _reference_image(self.study)
        fixed, fixed_grid = self._reference
        moving, moving_grid = _reference_image(prior)
        start = centroid_ras(moving != 0, moving_grid) - centroid_ras(fixed != 0, fixed_grid)
        return register_rigid(fixed, fixed_grid, moving, moving_grid, start_translation=start)


def _reference_image(study: Study) -> tuple[NDArray[np.float32], Grid]:
    newest = latest_volume_set(study)
    return load_volume(study, newest.parameters.get("reference", "T1c") if newest else "T1c", volume_set=newest)


def _cut(labels: NDArray[np.uint8], grid: Grid) -> tuple[NDArray[np.uint8], Grid]:
    """The label map cut to the tumour with a margin: the rest of the head costs time and says nothing."""
    if not labels.any():
        return labels, grid
    box = crop_box(labels > 0, [int(np.ceil(_MARGIN_MM / s)) for s in grid.spacing_zyx()])
    return np.ascontiguousarray(labels[box]), crop_to_box(grid, box)


def _known(dated: Dated, registration: Registration | None) -> lesion_tracking.KnownLesions:
    segmentation = dated.measurement.segmentation
    labels, grid = _cut(load_labels(segmentation), grid_of(segmentation.volume_set))
    matrix = registration.matrix if registration is not None and registration.converged else None
    return lesion_tracking.KnownLesions(
        dated.measurement.lesions, find_lesions(labels, grid), grid, matrix, assessed_regions(segmentation)
    )


def _anatomy(work: _Work, entries: list[dict[str, Any]], current: list[Lesion]) -> dict[str, Any]:
    """Midline shift of the study; adds its location to each lesion's entry."""
    midline, reason = None, ""
    volume_set = work.segmentation.volume_set
    if not work.study.spacing_known:
        reason = SPACING_UNKNOWN
    elif not volume_set.volumes.filter(sequence="T1").exists():
        reason = "Without a T1 series before contrast the midline cannot be found."
    else:
        volumes = load_volumes(work.study, volume_set=volume_set)
        brain = volume_set.parameters.get("brain") or {}
        doubt = "" if brain.get("plausible", True) else str(brain.get("reason") or "no reason was kept")
        masks = region_masks(load_labels(work.segmentation))
        core = masks["WT" if "TC" in work.segmentation.not_assessed else "TC"]
        midline = find_midline(volumes.images["T1"], volumes.brain_mask, volumes.grid, tumour=core, doubtful=doubt)
    locate(entries, current, work.grid, midline, reason=reason, spacing_known=work.study.spacing_known)
    return {"midline_shift": midline_entry(midline, reason=reason)}


def _lesions(work: _Work, priors: list[lesion_tracking.KnownLesions], current: list[Lesion]) -> list[dict[str, Any]]:
    study = work.study
    others = Measurement.objects.filter(study__patient_id=study.patient_id)
    identities = [str(lesion["id"]) for one in others for lesion in one.lesions]
    own = others.filter(study=study).order_by("-created_at", "-pk").first()
    same_study = None
    if own is not None:
        same_study = _known(Dated(study, own), Registration.identity("the same study"))
    later: list[lesion_tracking.KnownLesions] = []
    if current:
        for one in later_studies(study):
            found = current_measurement(one)
            if found is not None:
                dated = Dated(one, found)
                later.append(_known(dated, work.register(one)))
                break
    named = lesion_tracking.track_lesions(
        current, work.grid, priors=priors, same_study=same_study, later=later, all_identities=identities
    )
    return lesion_tracking.entries(
        current,
        work.labels,
        work.grid,
        named,
        latest_prior=priors[0] if priors else None,
        has_priors=bool(priors),
        spacing_known=study.spacing_known,
        not_assessed=tuple(work.segmentation.not_assessed),
    )
