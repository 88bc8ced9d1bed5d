"""Where voxels are: grids, reorientation, NIfTI bytes, SimpleITK images.

Arrays are numpy, axis order (z, y, x), which is the reverse of the index order (x, y, z) that a NIfTI affine and a
SimpleITK image speak of. World coordinates are RAS millimetres (NIfTI-1); SimpleITK and DICOM use LPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from oncoflow_site.foundation.schema import JsonDict

__all__ = ["GeometryError", "Grid", "crop_box", "crop_to_box", "to_ras"]


MAX_VOXELS = 512 * 512 * 1024


class GeometryError(ValueError):
    """An affine or shape that no image can have. The message names no patient."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxels in the patient's space.

    :param affine: 4x4, voxel index (x, y, z) -> RAS millimetres of the voxel's centre.
    :param shape_xyz: voxels along x, y, z.
    :raises GeometryError: affine not finite or singular, shape not positive.
    """

    affine: NDArray[np.float64]
    shape_xyz: tuple[int, int, int]

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
            raise GeometryError("the affine is not a finite 4x4 matrix")
        if not np.allclose(affine[3], [0, 0, 0, 1]):
            raise GeometryError("the affine's last row is not 0 0 0 1")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine is singular: voxels without a volume")
        shape = tuple(int(n) for n in self.shape_xyz)
        if len(shape) != 3 or min(shape) < 1 or int(np.prod(shape)) > MAX_VOXELS:
            raise GeometryError("the shape is not three sensible positive numbers")
        affine = affine.copy()
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape_xyz", shape)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of an array on this grid."""
        x, y, z = self.shape_xyz
        return z, y, x

    def spacing_xyz(self) -> tuple[float, float, float]:
        """Distance between voxel centres along x, y, z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def spacing_zyx(self) -> tuple[float, float, float]:
        """Distance between voxel centres along z, y, x in mm."""
        x, y, z = self.spacing_xyz()
        return z, y, x

    def voxel_volume_mm3(self) -> float:
        """|det| of the affine: right for oblique and sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def directions(self) -> NDArray[np.float64]:
        """3x3, columns are the unit vectors of x, y, z in RAS."""
        return np.asarray(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0))

    def world(self, index_xyz: NDArray[Any]) -> NDArray[np.float64]:
        """RAS mm of voxel indices; (..., 3) -> (..., 3)."""
        index = np.asarray(index_xyz, dtype=np.float64)
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3])

    def index(self, world_ras: NDArray[Any]) -> NDArray[np.float64]:
        """Voxel indices (x, y, z), not rounded, of RAS mm; (..., 3) -> (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(np.asarray(world_ras, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3])

    def centre(self) -> NDArray[np.float64]:
        """RAS mm of the middle of the grid."""
        return self.world((np.asarray(self.shape_xyz) - 1) / 2.0)

    def same_as(self, other: Grid, tolerance_mm: float = 0.01) -> bool:
        """True when both put every voxel in the same place, to within ``tolerance_mm`` at the corners."""
        if self.shape_xyz != other.shape_xyz:
            return False
        corners = np.array(np.meshgrid(*[[0, n - 1] for n in self.shape_xyz])).reshape(3, -1).T
        return bool(np.max(np.abs(self.world(corners) - other.world(corners))) <= tolerance_mm)

    def with_spacing(self, spacing_xyz: Sequence[float]) -> Grid:
        """A grid over the same box (outer voxel faces kept) with other spacing."""
        old = np.asarray(self.spacing_xyz())
        new = np.asarray(spacing_xyz, dtype=np.float64)
        shape = np.maximum(1, np.ceil(np.asarray(self.shape_xyz) * old / new - 1e-6).astype(int))
        affine = np.eye(4)
        affine[:3, :3] = self.directions() * new
        first_face = self.world(np.array([-0.5, -0.5, -0.5]))
        affine[:3, 3] = first_face + affine[:3, :3] @ np.array([0.5, 0.5, 0.5])
        return Grid(affine, (int(shape[0]), int(shape[1]), int(shape[2])))

    def to_json(self) -> JsonDict:
        """``{"affine": 4x4 list, "shape": [x, y, z], "spacing": [x, y, z] mm}``."""
        return {
            "affine": [[float(v) for v in row] for row in self.affine],
            "shape": list(self.shape_xyz),
            "spacing": list(self.spacing_xyz()),
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Grid:
        """Inverse of `to_json`, exact."""
        x, y, z = stored["shape"]
        return Grid(np.asarray(stored["affine"], dtype=np.float64), (int(x), int(y), int(z)))


def to_ras(array: NDArray[Any], affine: NDArray[Any]) -> tuple[NDArray[Any], Grid]:
    """Permute and flip axes so that x, y, z point as nearly as they can to right, anterior, superior.

    No value is changed and every voxel stays where it is in the world.

    :param array: (z, y, x).
    :param affine: 4x4 RAS, index order (x, y, z).
    :returns: contiguous array (z, y, x) and its grid.
    :raises GeometryError: the affine is unusable.
    """
    x, y, z = array.shape[::-1]
    Grid(np.asarray(affine), (x, y, z))  # refuse before nibabel stumbles
    xyz = array.transpose(2, 1, 0)
    orientation = io_orientation(affine)
    if np.any(np.isnan(orientation)):
        raise GeometryError("the affine leaves an axis without a direction")
    turned = apply_orientation(xyz, orientation)
    new_affine = np.asarray(affine) @ inv_ornt_aff(orientation, xyz.shape)
    return np.ascontiguousarray(turned.transpose(2, 1, 0)), Grid(new_affine, turned.shape)


def crop_box(mask: NDArray[np.bool_], margin: Sequence[int]) -> tuple[slice, slice, slice]:
    """Bounding box (z, y, x) of ``mask`` widened by ``margin`` voxels, inside the array; everything when empty."""
    slices = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if found.size == 0:
            slices.append(slice(0, mask.shape[axis]))
            continue
        slices.append(
            slice(max(0, int(found[0]) - margin[axis]), min(mask.shape[axis], int(found[-1]) + 1 + margin[axis]))
        )
    return slices[0], slices[1], slices[2]


def crop_to_box(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    """The grid of ``array[box]`` for an array on ``grid``; ``box`` in (z, y, x)."""
    z, y, x = box
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.array([x.start, y.start, z.start]))
    return Grid(affine, (x.stop - x.start, y.stop - y.start, z.stop - z.start))
