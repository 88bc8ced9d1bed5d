"""A patient's studies over time and what is in force of each: the one rule for comparison, report and pages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from django.db.models import OuterRef, Q, QuerySet, Subquery

from imaging.brats.regions import Region
from imaging.models import Measurement, Study
from imaging.schemas.comparison import VolumesAt
from imaging.segmentation.label_maps import current_segmentations
from oncoflow_site.foundation.clock import local

__all__ = [
    "current_measurement",
    "current_measurements",
    "earlier_studies",
    "history_entry",
    "later_studies",
    "volume_history",
]


def earlier_studies(study: Study) -> QuerySet[Study]:
    """The patient's studies before ``study`` (by date, then by id), the latest first."""
    before = Q(performed_at__lt=study.performed_at) | Q(performed_at=study.performed_at, pk__lt=study.pk)
    return Study.objects.filter(before, patient_id=study.patient_id).order_by("-performed_at", "-pk")


def later_studies(study: Study) -> QuerySet[Study]:
    """The patient's studies after ``study``, the earliest first."""
    after = Q(performed_at__gt=study.performed_at) | Q(performed_at=study.performed_at, pk__gt=study.pk)
    return Study.objects.filter(after, patient_id=study.patient_id).order_by("performed_at", "pk")


def current_measurements(studies: Iterable[Study]) -> dict[uuid.UUID, Measurement]:
    """Study -> the newest measurement of the outline that is in force of it; a study without one is left out.

    Two queries, however many studies. The outline and its volume set come with each measurement.
    """
    outlines = current_segmentations(studies)
    newest = Measurement.objects.filter(segmentation=OuterRef("segmentation")).order_by("-created_at", "-pk")
    rows = Measurement.objects.filter(
        segmentation__in=[outline.pk for outline in outlines.values()], pk=Subquery(newest.values("pk")[:1])
    )
    return {row.study_id: row for row in rows.select_related("segmentation__volume_set", "segmentation__labels")}


def current_measurement(study: Study) -> Measurement | None:
    """`current_measurements` of one study."""
    return current_measurements([study]).get(study.pk)


def history_entry(study: Study, measurement: Measurement) -> VolumesAt:
    """One point of a patient's history: when, and the volumes of ET, TC and WT."""

    def volume(region: Region) -> float | None:
        measured = measurement.regions.get(region)
        return measured.volume_mm3 if measured else None

    return VolumesAt(
        study_id=str(study.pk),
        performed_at=local(study.performed_at),
        ET=volume("ET"),
        TC=volume("TC"),
        WT=volume("WT"),
    )


def volume_history(study: Study, measurement: Measurement) -> list[VolumesAt]:
    """The history up to ``study`` as ``measurement`` has it: what is in force of each earlier date, oldest first."""
    earlier = list(earlier_studies(study))
    measured = current_measurements(earlier)
    points = [history_entry(row, measured[row.pk]) for row in reversed(earlier) if row.pk in measured]
    return [*points, history_entry(study, measurement)]
