"""How two dates of a patient lie to each other: the reference volumes of two volume sets, registered once and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.geometry.resample import centroid_ras
from imaging.models import Alignment, VolumeSet
from imaging.preprocessing.rigid import Registration, register_rigid
from imaging.volumes.load import load_volume

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["Aligner"]

VERSION = 1


class Aligner:
    """Aligns one volume set with others of the same patient; reads its own reference volume once, and only where needed."""

    def __init__(self, ctx: JobContext, fixed: VolumeSet) -> None:
        self._ctx, self._fixed = ctx, fixed
        self._image: tuple[NDArray[np.float32], Grid] | None = None

    def onto(self, moving: VolumeSet) -> Registration:
        """Where points of the fixed volume set lie in ``moving``; registered at the first call, then kept."""
        kept = Alignment.objects.filter(fixed=self._fixed, moving=moving, version=VERSION).first()
        if kept is not None:
            matrix = np.asarray(kept.matrix, np.float64)
            return Registration(matrix, kept.converged, kept.reason, kept.method, kept.quality)
        if self._image is None:
            self._image = _reference_volume(self._fixed)
        fixed, fixed_grid = self._image
        image, grid = _reference_volume(moving)
        start = centroid_ras(image != 0, grid) - centroid_ras(fixed != 0, fixed_grid)
        found = register_rigid(fixed, fixed_grid, image, grid, start_translation=start)
        values = {
            "matrix": found.matrix.tolist(),
            "converged": found.converged,
            "reason": found.reason,
            "method": found.method,
            "quality": found.quality,
        }
        with self._ctx.commit():
            Alignment.objects.get_or_create(fixed=self._fixed, moving=moving, version=VERSION, defaults=values)
        return found


def _reference_volume(volume_set: VolumeSet) -> tuple[NDArray[np.float32], Grid]:
    return load_volume(volume_set.study, volume_set.parameters.reference or "T1c", volume_set=volume_set)
