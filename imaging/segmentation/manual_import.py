"""A person's segmentation: a label map drawn elsewhere, brought onto the study's grid and put in force.

What the gate sends back to a person ("manual"), and what a radiologist corrects, comes in here. The newest one of a person
stands above every model's; nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
from django.db import transaction
from numpy.typing import NDArray

from audit import services as audit
from imaging.brats.assessability import left_unassessed
from imaging.brats.regions import REGIONS
from imaging.events import MASK_CORRECTED
from imaging.geometry.grid import GeometryError, Grid, to_ras
from imaging.geometry.nifti import read_foreign_nifti, read_nifti_grid
from imaging.models import Segmentation, SegmentationKind, Study
from imaging.segmentation.label_maps import WrittenLabels, current_segmentation, save_segmentation, write_labels
from imaging.volumes.load import assessable_of, grid_of, latest_volume_set
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.events import emit

__all__ = ["MAX_BYTES", "accept_label_map", "put_in_force"]

MAX_BYTES = 32 << 20
_LABELS = (0, 1, 2, 3)


def accept_label_map(
    study: Study, data: bytes, *, author: str, reason: str, assessed: Collection[str] = ()
) -> Segmentation:
    """Store a person's label map as the study's segmentation in force; measuring and a new draft follow.

    Where sequences are missing, a region that they do not show counts as assessed if it is outlined in the map, or named in
    ``assessed``; else it stays not assessed.

    :param data: NIfTI, gzipped or not: 0 background, 1 NCR, 2 ED, 3 ET, in the world frame (RAS mm) of the study's volumes.
        On their grid, its axes in any order and direction: what was drawn on another one is not resampled to it.
    :param author: user name of who drew it. :param reason: why, in that person's words; free of identity.
    :param assessed: regions that the person looked for, also where they outlined none: "there is none" is a finding too.
    :raises UserVisibleError: with a code, for anything that cannot be this study's segmentation.
    """
    volume_set = latest_volume_set(study)
    if volume_set is None:
        raise UserVisibleError(
            "This study has no volumes yet.", what_to_do="Wait until it is prepared.", code="no-volumes"
        )
    if len(data) > MAX_BYTES:
        raise UserVisibleError(f"The file is larger than {MAX_BYTES >> 20} MiB.", code="too-large")
    wanted = grid_of(volume_set)
    try:
        # A few kilobytes may unpack to gigabytes: what the header says comes first.
        if sorted(read_nifti_grid(data).shape_xyz) != sorted(wanted.shape_xyz):
            raise _other_frame()
        values, its_grid, doubts = read_foreign_nifti(data, as_float=True)
        values, grid = _turned(values, its_grid)
    except GeometryError as error:
        raise UserVisibleError(f"This is no label map: {error}.", code="unreadable") from None
    if doubts:
        raise UserVisibleError(
            f"The file does not say where the outline lies: {'; '.join(doubts)}.",
            what_to_do="Export it with the frame of the volumes of this study (sform and qform).",
            code="geometry",
        )
    if not grid.same_as(wanted):
        raise _other_frame()
    labels = _whole_labels(values)
    if not set(assessed) <= set(REGIONS):
        raise UserVisibleError(f"The regions are {', '.join(REGIONS)}.", code="region")
    left_out = left_unassessed(assessable_of(volume_set), np.unique(labels).tolist(), assessed)
    written = write_labels(study, volume_set, labels, not_assessed=left_out)
    with transaction.atomic():
        Study.objects.select_for_update().get(pk=study.pk)
        before = current_segmentation(study)
        if before is not None and before.volume_set_id != volume_set.pk:
            before = None
        return put_in_force(study, written, author=author, parent=before, reason=reason)


def put_in_force(
    study: Study,
    written: WrittenLabels,
    *,
    author: str,
    parent: Segmentation | None,
    reason: str,
    edited: bool = False,
    detail: Mapping[str, int] = MappingProxyType({}),
) -> Segmentation:
    """Store a person's labels as the outline in force, tell those who measure and draft, and record it.

    Call it in a transaction that holds the study's row. edited: the labels are the parent's with changes. detail: more for the
    record, free of identity.
    """
    made = save_segmentation(
        study,
        written,
        kind=SegmentationKind.PERSON,
        author=author,
        parent=parent,
        edited=edited,
        reason=reason.strip()[:300],
    )
    emit(MASK_CORRECTED, subject=study.subject, study_id=str(study.pk), segmentation_id=str(made.pk))
    audit.record(
        "segmentation.person",
        action="C",
        resource=study.subject,
        patient_id=study.patient_id,
        detail={"segmentation": made.pk, "version": made.version, **detail},
    )
    return made


def _whole_labels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    found = np.unique(values)
    if not np.isin(found, _LABELS).all():
        hint = "Label 4, the enhancing tumour of BraTS until 2021, is 3 here." if 4 in found else ""
        raise UserVisibleError(
            "The file holds other values than 0 (background), 1 (NCR), 2 (ED) and 3 (ET).",
            what_to_do=hint,
            code="labels",
        )
    return values.astype(np.uint8)


def _turned(values: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], Grid]:
    """The same voxels with their axes in the order and direction of our volumes."""
    return to_ras(values, grid.affine)


def _other_frame() -> UserVisibleError:
    return UserVisibleError(
        "The outline does not lie on the grid of this study's volumes, so it cannot be theirs.",
        what_to_do="Draw it on the volumes of this study and export it as it was drawn.",
        code="other-frame",
    )
