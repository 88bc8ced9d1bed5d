"""The truth about a simulated patient's midline: how far a mass has pushed the septum from the plane of the falx."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .anatomy import Maps

__all__ = ["EDGE_MNI", "SEPTUM_MNI", "MidlineTruth", "midline_truth"]

# MNI places on the midline. The edge of the falx, where it is fixed to the skull, and the septum pellucidum.
EDGE_MNI = tuple(
    (0.0, y, z) for y, z in ((58, 8), (52, 30), (34, 50), (0, 66), (-34, 68), (-62, 56), (-84, 34), (-90, 12))
)
SEPTUM_MNI = tuple((0.0, y, z) for y, z in ((16, 10), (8, 12), (2, 12), (-4, 14)))


@dataclass(frozen=True)
class MidlineTruth:
    """In head space, RAS mm. ``shift_mm``: of the septum from the plane, positive to the patient's right.

    normal: unit vector of the plane, pointing right; offset: its points p have p . normal = offset.
    """

    shift_mm: float
    normal: NDArray[np.float64]
    offset: float


def midline_truth(maps: Maps) -> MidlineTruth:
    """From where the anatomy of the midline came to lie in ``maps``, with its masses pushing."""
    edge = np.array([_where(maps, point) for point in EDGE_MNI])
    middle = edge.mean(axis=0)
    normal = np.linalg.svd(edge - middle)[2][2]
    normal = normal if normal[0] > 0 else -normal
    septum = np.array([_where(maps, point) for point in SEPTUM_MNI])
    return MidlineTruth(float(np.mean((septum - middle) @ normal)), normal, float(middle @ normal))


def _where(maps: Maps, point: tuple[float, float, float]) -> NDArray[np.float64]:
    """Head-space place (mm) of the voxel whose anatomy is nearest to an MNI point, refined by the local gradient."""
    target = np.asarray(point, np.float32).reshape(3, 1, 1, 1)
    off = maps.mni - target
    at = np.array(np.unravel_index(int(np.argmin(np.einsum("i...,i...->...", off, off))), maps.grid.shape))
    at = np.clip(at, 1, np.array(maps.grid.shape) - 2)
    x, y, z = at
    columns = []
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        columns.append((maps.mni[(slice(None), *(at + step))] - maps.mni[(slice(None), *(at - step))]) / 2.0)
    jacobian = np.stack(columns, axis=1).astype(float)
    correction = np.linalg.lstsq(jacobian, -off[:, x, y, z].astype(float), rcond=None)[0]
    index = at + np.clip(correction, -1.0, 1.0)
    return np.asarray(maps.grid.origin) + maps.grid.spacing * index
