"""Volumes of a study: loading what `imaging.volumes.prepare` stored, with every hash verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imaging.brats.assessability import Assessable, assessable
from imaging.geometry.grid import GeometryError, Grid
from imaging.geometry.nifti import read_nifti
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError, UserVisibleError
from oncoflow_site.foundation.models import StoredObject

if TYPE_CHECKING:
    from imaging.models import Study, VolumeSet

__all__ = ["LoadedVolumes", "assessable_of", "grid_of", "latest_volume_set", "load_volume", "load_volumes"]


def grid_of(volume_set: VolumeSet) -> Grid:
    """The grid of a volume set (RAS mm)."""
    x, y, z = volume_set.shape
    return Grid(np.asarray(volume_set.affine, dtype=np.float64), (int(x), int(y), int(z)))


@dataclass(frozen=True)
class LoadedVolumes:
    """The volumes of one preparation in memory.

    :param grid: RAS+, mm.
    :param images: sequence -> float32 (z, y, x), exactly 0 outside the brain.
    :param brain_mask: bool (z, y, x).
    :param spacing_known: False when the spacing of the grid is an assumption: no millimetre may be computed.
    """

    grid: Grid
    images: Mapping[str, NDArray[np.float32]]
    brain_mask: NDArray[np.bool_]
    volume_set: VolumeSet
    spacing_known: bool


def assessable_of(volume_set: VolumeSet) -> Assessable:
    """What the sequences of a preparation allow."""
    return assessable(volume_set.volumes.values_list("sequence", flat=True))


def latest_volume_set(study: Study) -> VolumeSet | None:
    """The newest preparation of the study."""
    return study.volume_sets.order_by("-version").first()


def _chosen(study: Study, volume_set: VolumeSet | None) -> VolumeSet:
    chosen = volume_set or latest_volume_set(study)
    if chosen is None or chosen.study_id != study.id:
        raise UserVisibleError(
            "This study has no prepared volumes.", what_to_do="Wait for its preparation, or see why it was flagged."
        )
    return chosen


def load_volume(
    study: Study, sequence: str, *, volume_set: VolumeSet | None = None
) -> tuple[NDArray[np.float32], Grid]:
    """One volume, float32 (z, y, x), and its grid.

    :raises UserVisibleError: there is no such volume.
    :raises PermanentError: the stored bytes differ from those that were stored, or are unreadable.
    """
    chosen = _chosen(study, volume_set)
    volume = chosen.volumes.filter(sequence=sequence).select_related("object").first()
    if volume is None:
        raise UserVisibleError(f"This study has no {sequence} volume.")
    return _read(volume.object, volume.sha256, grid_of(chosen)), grid_of(chosen)


def load_volumes(study: Study, *, volume_set: VolumeSet | None = None) -> LoadedVolumes:
    """All volumes of the newest (or the given) preparation.

    :raises UserVisibleError: the study has no prepared volumes.
    :raises PermanentError: a stored hash does not match, or a file does not fit the grid.
    """
    chosen = _chosen(study, volume_set)
    grid = grid_of(chosen)
    images = {
        volume.sequence: _read(volume.object, volume.sha256, grid)
        for volume in chosen.volumes.select_related("object").order_by("sequence")
    }
    if not images:
        raise UserVisibleError("This study has no prepared volumes.")
    if chosen.brain_mask is not None:
        array, _ = read_nifti(objects.get(chosen.brain_mask), as_float=False)
        brain = array > 0
    else:
        brain = np.any([image != 0 for image in images.values()], axis=0)
    return LoadedVolumes(grid, images, brain, chosen, study.spacing_known)


def _read(stored: StoredObject, sha256: str, grid: Grid) -> NDArray[np.float32]:
    if stored.sha256 != sha256:
        raise PermanentError("a volume's recorded hash differs from its stored object's")
    try:
        array, found = read_nifti(objects.get(stored))
    except GeometryError as error:
        raise PermanentError(f"stored volume unreadable: {error}") from None
    if found.shape_xyz != grid.shape_xyz:
        raise PermanentError("stored volume does not fit the grid of its set")
    return np.asarray(array, dtype=np.float32)
