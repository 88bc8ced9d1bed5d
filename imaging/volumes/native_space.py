"""The way back: what was outlined on the study's grid, on the grid the scanner made.

`Volume.transform` keeps both directions: ``matrix_ras`` from the study's grid to the scanner's, ``inverse_ras`` back, RAS mm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.volumes.load import grid_of
from imaging.volumes.reproduce import read_source
from imaging.volumes.series_reader import read_series, series_instances

if TYPE_CHECKING:
    from imaging.models import Instance, Series, Volume

__all__ = ["from_native_grid", "native_frames", "native_grid", "to_native_grid"]


def native_grid(volume: Volume) -> Grid:
    """The grid of the series behind ``volume``: x along the rows, y down the columns, z along the normal, RAS mm.

    Read from the series where the record does not hold it (prepared before it did).

    :raises ValueError: the volume has no source series.
    """
    recorded = volume.transform.scanner_grid if volume.transform else None
    if recorded is not None:
        return Grid(np.asarray(recorded.affine, dtype=np.float64), recorded.shape)
    if volume.source_series is None:
        raise ValueError("the volume has no source series")
    array, affine, _ = read_source(volume.source_series)
    z, y, x = array.shape
    return Grid(affine, (x, y, z))


def native_frames(series: Series) -> list[tuple[Instance, int]]:
    """For each plane z of the scanner's grid: its instance and the frame in it, from 0. Empty for a NIfTI series.

    :raises VolumeRefused: the series is no volume.
    """
    if series.nifti_id is not None:
        return []
    rows = series_instances(series)
    return [(rows[source], frame) for source, frame in read_series(series).frames]


def to_native_grid(mask: NDArray[Any], volume: Volume) -> NDArray[Any]:
    """A mask or label map on the study's grid, nearest neighbour, on the grid of the series behind ``volume``.

    :param mask: (z, y, x) on the grid of ``volume.volume_set``.
    :returns: (z, y, x) of the same type on `scanner_grid`; plane z lies where `scanner_frames` says. 0 outside.
    :raises ValueError: the mask does not fit the grid.
    """
    grid = grid_of(volume.volume_set)
    if mask.shape != grid.shape_zyx:
        raise ValueError("the mask does not fit the grid of its volumes")
    return _nearest(mask, grid, native_grid(volume), np.asarray(np.linalg.inv(_matrix(volume)), np.float64))


def from_native_grid(mask: NDArray[Any], volume: Volume) -> NDArray[Any]:
    """Inverse of `to_scanner_grid`: a mask drawn on the scanner's planes, on the study's grid."""
    own = native_grid(volume)
    if mask.shape != own.shape_zyx:
        raise ValueError("the mask does not fit the grid of the series")
    return _nearest(mask, own, grid_of(volume.volume_set), _matrix(volume))


def _matrix(volume: Volume) -> NDArray[np.float64]:
    """RAS mm of the study's grid -> RAS mm of the scanner's."""
    return np.asarray(volume.transform.matrix_ras if volume.transform else np.eye(4), dtype=np.float64)


def _nearest(mask: NDArray[Any], its_grid: Grid, onto: Grid, matrix: NDArray[np.float64]) -> NDArray[Any]:
    plain = mask.astype(np.uint8) if mask.dtype == np.bool_ else mask
    return np.asarray(resample(plain, its_grid, onto, matrix, nearest=True).astype(mask.dtype))
