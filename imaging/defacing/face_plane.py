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

from imaging.geometry.grid import Grid

__all__ = ["CannotDeface", "Face", "FaceRegion", "face_region", "find_face", "removed"]

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


@dataclass(frozen=True, eq=False)
class Face:
    """Where the face of one head is, in the space of its brain mask (RAS mm).

    :param normal: and ``offset``: of the plane, see `FaceRegion`.
    :param far: (z, y, x) on ``grid``: distance from what always stays, mm.
    """

    normal: NDArray[np.float64]
    offset: float
    far: NDArray[np.float32]
    grid: Grid

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """What is removed of an image on ``grid``: bool (z, y, x).

        Thick voxels keep a wider rim, so that one whose middle lies beyond it holds no brain.
        """
        nz, ny, nx = grid.shape_zyx
        rim = max(RIM_MM, 0.5 * max(grid.spacing_xyz()) + 1.0)
        yy, xx = np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij")
        to_brain = np.linalg.inv(self.grid.affine) @ grid.affine
        mask = np.zeros((nz, ny, nx), dtype=bool)
        for k in range(nz):
            index = np.stack([xx, yy, np.full_like(xx, k), np.ones_like(xx)], axis=-1)
            beyond = (index @ grid.affine.T)[..., :3] @ self.normal > self.offset
            # Pulled, so that a voxel of the brain on the finer grid is never lost between two of the coarser one.
            rounded = np.rint((index @ to_brain.T)[..., :3]).astype(int)
            inside = np.all((rounded >= 0) & (rounded < np.array(self.grid.shape_xyz)), axis=-1)
            i, j, m = (rounded[..., axis][inside] for axis in range(3))
            beyond[inside] &= self.far[m, j, i] > rim
            mask[k] = beyond
        return mask


def find_face(brain: NDArray[np.bool_], grid: Grid, *, keep: NDArray[np.bool_] | None = None) -> Face:
    """Where the face is, from where the brain is.

    :param brain: (z, y, x) on ``grid``; RAS mm, so that the head's up and front are known.
    :param keep: what else must stay with its rim (an outlined tumour), on the same grid.
    :raises CannotDeface: the brain mask is empty, too small to be a brain, or has no outline.
    """
    if brain.shape != grid.shape_zyx or (keep is not None and keep.shape != brain.shape):
        raise CannotDeface("the brain mask does not fit its grid")
    if brain.sum() * grid.voxel_volume_mm3() < _LEAST_BRAIN_ML * 1000.0:
        raise CannotDeface("the brain mask is too small for a brain")
    shell = brain & ~ndimage.binary_erosion(brain)
    z, y, x = np.nonzero(shell)
    world = grid.world(np.stack([x, y, z], axis=1))
    side = np.unique(np.round(world[:, 1:]), axis=0)  # (anterior, superior), mm
    normal2, offset = _facing_edge(side)
    stays = brain if keep is None else brain | keep
    far = ndimage.distance_transform_edt(~stays, sampling=grid.spacing_zyx()).astype(np.float32)
    return Face(np.array([0.0, normal2[0], normal2[1]]), offset + MARGIN_MM, far, grid)


def face_region(brain: NDArray[np.bool_], brain_grid: Grid, grid: Grid | None = None) -> FaceRegion:
    """The face on one grid, from where the brain is.

    :param grid: the grid the region is wanted on (of one series, say); ``brain_grid`` where None.
    :raises CannotDeface: see `find_face`.
    """
    face = find_face(brain, brain_grid)
    return FaceRegion(face.on(grid or brain_grid), face.normal, face.offset)


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


def removed(array: NDArray[np.generic], region: FaceRegion) -> NDArray[np.generic]:
    """A copy of ``array`` (z, y, x) with the face at the image's lowest value. Every other voxel is as it was."""
    if array.shape != region.mask.shape:
        raise CannotDeface("the face region does not fit the image")
    out = array.copy()
    out[region.mask] = array.min()
    return out
