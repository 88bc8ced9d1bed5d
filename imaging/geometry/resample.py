"""Resampling of an array (z, y, x) from one grid onto another, and the centre of a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.geometry.sitk import LPS_FROM_RAS, from_sitk, to_sitk

__all__ = ["centroid_ras", "resample"]


def centroid_ras(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """Centre of mass of ``mask`` (z, y, x) in RAS mm; the centre of the grid when it is empty."""
    z, y, x = np.nonzero(mask[::2, ::2, ::2])
    if z.size == 0:
        return grid.centre()
    return grid.world(np.array([x.mean() * 2, y.mean() * 2, z.mean() * 2]))


def resample(
    image: NDArray[Any],
    image_grid: Grid,
    onto: Grid,
    matrix: NDArray[np.float64] | None = None,
    *,
    nearest: bool = False,
) -> NDArray[Any]:
    """Values of ``image`` at the voxels of ``onto``; 0 outside.

    :param matrix: RAS mm of ``onto`` -> RAS mm of the image (as in `Registration`); identity when None.
    :param nearest: for label maps; otherwise linear. Float32 out, or the input's type with ``nearest``.
    """
    matrix = np.eye(4) if matrix is None else matrix
    lps = LPS_FROM_RAS @ matrix @ LPS_FROM_RAS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(tuple(float(v) for v in lps[:3, :3].ravel()))
    transform.SetTranslation(tuple(float(v) for v in lps[:3, 3]))
    source = to_sitk(image if nearest else image.astype(np.float32, copy=False), image_grid)
    reference = sitk.Image(list(onto.shape_xyz), sitk.sitkUInt8)
    template = to_sitk(np.zeros((1, 1, 1), dtype=np.uint8), Grid(onto.affine, (1, 1, 1)))
    reference.SetSpacing(template.GetSpacing())
    reference.SetOrigin(template.GetOrigin())
    reference.SetDirection(template.GetDirection())
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    array, _ = from_sitk(sitk.Resample(source, reference, transform, method, 0.0))
    return array.astype(image.dtype) if nearest else array
