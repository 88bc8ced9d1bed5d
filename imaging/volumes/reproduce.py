"""A stored volume made again from its series and the transform on record, without registering again.

What `imaging.volumes.prepare` stores is a function of the de-identified series, the matrix, the grid, the box and the brain mask,
all of them kept. Made again with the same libraries, the bytes are the same; `manage.py verify_volumes` looks.
"""

from __future__ import annotations

import platform
import zlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import GeometryError, Grid, crop_to_box, to_ras
from imaging.geometry.nifti import read_nifti, without_spikes, write_nifti
from imaging.preprocessing.coregistration import on_grid, within
from imaging.volumes.series_reader import read_series
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError

if TYPE_CHECKING:
    from imaging.models import Series, Volume

__all__ = ["CannotRemake", "library_versions", "read_source", "remake"]

_LIBRARIES = ("numpy", "SimpleITK", "scipy", "pydicom", "nibabel")


class CannotRemake(UserVisibleError):
    """The record of a volume does not hold what making it again needs."""


def library_versions() -> dict[str, str]:
    """What the bytes of a volume may depend on."""
    found = {name: version(name) for name in _LIBRARIES}
    return {**found, "python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}


def read_source(series: Series) -> tuple[NDArray[Any], NDArray[np.float64], tuple[str, ...]]:
    """A series as it was given: array (z, y, x), 4x4 RAS affine of the scanner's grid, warnings.

    :raises VolumeRefused: it is no volume. :raises GeometryError: an unreadable NIfTI file.
    """
    if series.nifti is not None:
        array, grid = read_nifti(objects.get(series.nifti))
        if not np.all(np.isfinite(array)):
            raise GeometryError("it has voxels that are not numbers")
        affine, warnings = grid.affine, tuple[str, ...]()
    else:
        stack = read_series(series)
        array, affine, warnings = stack.array, stack.affine_ras, stack.warnings
    array, cut = without_spikes(array)
    if cut:
        warnings = (
            *warnings,
            f"{cut} voxel{'s' if cut > 1 else ''} far brighter than all others cut to bright tissue.",
        )
    return array, affine, warnings


def remake(volume: Volume) -> bytes:
    """The NIfTI bytes of ``volume``, made again; equal to the stored ones where the libraries are the same.

    :raises CannotRemake: prepared before these facts were recorded, or without a source series.
    :raises VolumeRefused, GeometryError: the series is no longer what it was.
    """
    parameters, transform = volume.volume_set.parameters, volume.transform
    mask, full_grid, box = volume.volume_set.brain_mask, parameters.full_grid, parameters.box
    if volume.source_series is None or mask is None or full_grid is None or box is None or transform is None:
        raise CannotRemake(
            "This volume was prepared before its steps were recorded.", what_to_do="Prepare the study again."
        )
    array, affine, _ = read_source(volume.source_series)
    turned, its_grid = to_ras(np.asarray(array, dtype=np.float32), affine)
    grid = Grid(np.asarray(full_grid.affine, dtype=np.float64), full_grid.shape)
    image = on_grid(turned, its_grid, grid, np.asarray(transform.matrix_ras, dtype=np.float64))
    z, y, x = (slice(first, last) for first, last in box)
    brain, _ = read_nifti(objects.get(mask), as_float=False)
    return write_nifti(within(brain > 0, image[z, y, x]), crop_to_box(grid, (z, y, x)))
