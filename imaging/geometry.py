"""Where voxels are: grids, reorientation, NIfTI bytes, SimpleITK images.

Arrays are numpy, axis order (z, y, x), which is the reverse of the index order (x, y, z) that a NIfTI affine and a
SimpleITK image speak of. World coordinates are RAS millimetres (NIfTI-1); SimpleITK and DICOM use LPS.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK

__all__ = [
    "GeometryError",
    "Grid",
    "crop_box",
    "crop_to_box",
    "encode_nifti",
    "from_sitk",
    "read_nifti",
    "to_ras",
    "to_sitk",
    "write_nifti",
]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_VOXELS = 512 * 512 * 1024
_NIFTI_HEAD = 540  # of NIfTI-2; NIfTI-1 has 348
_MAX_EXTENSIONS = 64 << 20


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

    def to_json(self) -> dict[str, Any]:
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


def write_nifti(array: NDArray[Any], grid: Grid) -> bytes:
    """Gzipped NIfTI-1 of ``array`` (z, y, x). Floating point is stored as scaled int16 with 0 kept exactly 0.

    The header holds geometry only: no description, no name, no date; the same input gives the same bytes.
    """
    data = array
    slope = 1.0
    if np.issubdtype(array.dtype, np.floating):
        peak = float(np.max(np.abs(array))) if array.size else 0.0
        slope = peak / 32767.0 if peak > 0 else 1.0
        data = np.rint(array / slope).astype(np.int16)
    elif array.dtype == np.bool_:
        data = array.astype(np.uint8)
    return encode_nifti(data, grid, slope=slope)


def encode_nifti(data: NDArray[Any], grid: Grid, *, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """Gzipped NIfTI-1 of ``data`` (z, y, x) as it is, its value said to be stored * slope + intercept.

    Deflate looks for runs only (Z_RLE): the noise of an MR image has no other repeats worth the search, and the file is
    as small as zlib's level 6 makes it in a sixth of the time.

    :raises GeometryError: shape and grid differ.
    """
    if data.shape != grid.shape_zyx:
        raise GeometryError("the array does not fit the grid")
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape[::-1])
    header.set_sform(grid.affine, code=1)
    header.set_qform(grid.affine, code=1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(slope, intercept)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    pack = zlib.compressobj(1, zlib.DEFLATED, 31, 8, zlib.Z_RLE)  # 31: a gzip header without name and time
    parts = [pack.compress(header.binaryblock + b"\0\0\0\0"), pack.compress(np.ascontiguousarray(data).data)]
    return b"".join([*parts, pack.flush()])


def read_nifti(data: bytes, *, as_float: bool = True) -> tuple[NDArray[Any], Grid]:
    """Read NIfTI-1 or -2 bytes, gzipped or not, of one 3-D image, in its own orientation.

    :returns: array (z, y, x), float32 with the header's scaling applied (or the stored type), and its grid.
    :raises GeometryError: not a NIfTI, not three-dimensional, or an unusable affine.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                unpacked = bytearray(packed.read(_NIFTI_HEAD))
                left = _said_bytes(unpacked) - len(unpacked)
                # In pieces: all at once, room would be made for what the header says.
                while left > 0 and (piece := packed.read(min(left, 1 << 20))):
                    unpacked += piece
                    left -= len(piece)
                data = bytes(unpacked)
        if len(data) < _said_bytes(data[:_NIFTI_HEAD]):
            raise GeometryError("the NIfTI file has fewer voxels than its header says")
        image = _nifti_kind(data).from_bytes(data)
        shape = tuple(n for n in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise GeometryError("the NIfTI file does not hold one three-dimensional image")
        values = image.get_fdata(dtype=np.float32) if as_float else np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine)
    except GeometryError:
        raise
    except Exception as error:
        raise GeometryError(f"the file is not a readable NIfTI image ({type(error).__name__})") from None
    array = np.ascontiguousarray(values.reshape(shape).transpose(2, 1, 0))
    return array, Grid(affine, (shape[0], shape[1], shape[2]))


def _nifti_kind(head: bytes | bytearray) -> Any:
    return nib.Nifti2Image if head[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image


def _said_bytes(head: bytes | bytearray) -> int:
    """Bytes that the file has by its header: memory would be taken for them, whatever is behind it.

    :raises GeometryError: more than any image of a head.
    """
    kind = _nifti_kind(head)
    header = kind.header_class(bytes(head[: kind.header_class.sizeof_hdr]))
    shape, offset, size = header.get_data_shape(), int(header.get_data_offset()), header.get_data_dtype().itemsize
    voxels = math.prod(int(n) for n in shape)
    if min(shape, default=0) < 1 or voxels > MAX_VOXELS or size > 8 or not 0 <= offset <= _MAX_EXTENSIONS:
        raise GeometryError("the NIfTI header says more voxels than any image of a head has, or none")
    return offset + voxels * size


def to_sitk(array: NDArray[Any], grid: Grid) -> SimpleITK.Image:
    """SimpleITK image of ``array`` (z, y, x), in LPS as SimpleITK has it."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array.astype(np.uint8) if array.dtype == np.bool_ else array)
    image.SetSpacing(grid.spacing_xyz())
    image.SetOrigin(tuple(float(v) for v in (LPS_FROM_RAS @ grid.affine)[:3, 3]))
    image.SetDirection(tuple(float(v) for v in (LPS_FROM_RAS[:3, :3] @ grid.directions()).ravel()))
    return image


def from_sitk(image: SimpleITK.Image) -> tuple[NDArray[Any], Grid]:
    """Array (z, y, x) and grid (RAS) of a SimpleITK image."""
    import SimpleITK

    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    size = image.GetSize()
    return SimpleITK.GetArrayFromImage(image), Grid(LPS_FROM_RAS @ affine, (size[0], size[1], size[2]))
