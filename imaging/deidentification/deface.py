"""Taking the face off a head: everything in front of and below a plane under the brain, and never a voxel of the brain.

Classical (after Schimke and Hale, Quickshear Defacing, 2011): seen from the side, the convex outline of the brain has one
edge that faces the face; the plane through it, moved out by a margin, parts the face (eyes, nose, mouth, chin) from the
brain. A rim around the brain mask stays whatever the plane says. Knows arrays and geometry, and no Django.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from imaging.geometry import Grid

__all__ = ["CannotDeface", "FaceRegion", "face_region", "removed"]

MARGIN_MM = 2.0  # between the plane and the brain's outline
RIM_MM = 4.0  # around the brain that always stays
_LEAST_BRAIN_ML = 300.0


class CannotDeface(ValueError):
    """No face region can be told from this brain mask. The message says why."""


@dataclass(frozen=True)
class FaceRegion:
    """What is removed.

    :param mask: bool (z, y, x) on the grid it was asked for.
    :param normal: of the plane in RAS, pointing to the face; with ``offset`` in mm: removed where normal . x > offset.
    """

    mask: NDArray[np.bool_]
    normal: NDArray[np.float64]
    offset: float


def face_region(brain: NDArray[np.bool_], brain_grid: Grid, grid: Grid | None = None) -> FaceRegion:
    """Where the face is, from where the brain is.

    :param brain: (z, y, x) on ``brain_grid``; RAS+ mm, so that the head's up and front are known.
    :param grid: the grid the region is wanted on (of one series, say); ``brain_grid`` where None.
    :raises CannotDeface: the brain mask is empty, too small to be a brain, or has no outline.
    """
    if brain.shape != brain_grid.shape_zyx:
        raise CannotDeface("the brain mask does not fit its grid")
    if brain.sum() * brain_grid.voxel_volume_mm3() < _LEAST_BRAIN_ML * 1000.0:
        raise CannotDeface("the brain mask is too small for a brain")
    shell = brain & ~ndimage.binary_erosion(brain)
    z, y, x = np.nonzero(shell)
    world = brain_grid.world(np.stack([x, y, z], axis=1))
    side = np.unique(np.round(world[:, 1:]), axis=0)  # (anterior, superior), mm
    normal2, offset = _facing_edge(side)
    normal = np.array([0.0, normal2[0], normal2[1]])
    offset += MARGIN_MM
    wanted = grid or brain_grid
    nz, ny, nx = wanted.shape_zyx
    index = np.stack(np.meshgrid(np.arange(nx), np.arange(ny), np.arange(1), indexing="ij"), axis=-1).reshape(-1, 3)
    step = wanted.affine[:3, 2]
    plane = wanted.world(index) @ normal - offset
    mask = np.stack([(plane + k * float(step @ normal) > 0).reshape(nx, ny).T for k in range(nz)])
    mask &= ~_near_brain(brain, brain_grid, wanted)
    return FaceRegion(mask, normal, offset)


def _facing_edge(side: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Unit normal (anterior, superior) and offset of the outline's edge that looks forwards and down most evenly.

    The edge runs from the frontal pole to the underside of the brain: all of the outline lies behind it.
    """
    try:
        hull = ConvexHull(side)
    except QhullError as error:
        raise CannotDeface("the brain has no outline from the side") from error
    towards = np.array([1.0, -1.0]) / np.sqrt(2.0)
    normals, offsets = hull.equations[:, :2], -hull.equations[:, 2]
    lengths = np.array([np.linalg.norm(side[a] - side[b]) for a, b in hull.simplices])
    # Long edges, and of these the one that looks most to the face: a plane on a corner would cut less.
    forward = normals @ towards
    best = int(np.argmax(forward + 0.002 * np.minimum(lengths, 60.0)))
    if forward[best] < 0.7:
        raise CannotDeface("the brain's outline has no side that looks to the face")
    return normals[best], float(offsets[best])


def _near_brain(brain: NDArray[np.bool_], brain_grid: Grid, grid: Grid) -> NDArray[np.bool_]:
    """The brain and a rim around it, on ``grid``."""
    distance = ndimage.distance_transform_edt(~brain, sampling=brain_grid.spacing_zyx())
    near = distance <= RIM_MM
    if grid.same_as(brain_grid):
        return near
    # Pulled, so that a voxel of the brain on the finer grid is never lost between two of the coarser one.
    to_brain = np.linalg.inv(brain_grid.affine) @ grid.affine
    nz, ny, nx = grid.shape_zyx
    result = np.zeros((nz, ny, nx), dtype=bool)
    yy, xx = np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij")
    for k in range(nz):
        index = np.stack([xx, yy, np.full_like(xx, k), np.ones_like(xx)], axis=-1) @ to_brain.T
        rounded = np.rint(index[..., :3]).astype(int)
        inside = np.all((rounded >= 0) & (rounded < np.array(brain_grid.shape_xyz)), axis=-1)
        i, j, m = (rounded[..., axis][inside] for axis in range(3))
        result[k][inside] = near[m, j, i]
    return result


def removed(array: NDArray[np.generic], region: FaceRegion) -> NDArray[np.generic]:
    """A copy of ``array`` (z, y, x) with the face at the image's lowest value. Every other voxel is as it was."""
    if array.shape != region.mask.shape:
        raise CannotDeface("the face region does not fit the image")
    out = array.copy()
    out[region.mask] = array.min()
    return out
