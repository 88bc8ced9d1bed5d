"""NIfTI-1 and NIfTI-2 files in and out, in RAS millimetres, unpacked within a limit."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import MAX_VOXELS, GeometryError, Grid
from imaging.geometry.nifti_header import millimetres_per_unit, placement_doubts

__all__ = ["encode_nifti", "read_foreign_nifti", "read_nifti", "read_nifti_grid", "without_spikes", "write_nifti"]


_NIFTI_HEAD = 540  # of NIfTI-2; NIfTI-1 has 348
_MAX_EXTENSIONS = 64 << 20
_SPIKE = 30.0
"""How many times brighter than its bright tissue a voxel of an image is that shows no tissue."""
_KEPT = 3.0


def write_nifti(array: NDArray[Any], grid: Grid) -> bytes:
    """Gzipped NIfTI-1 of ``array`` (z, y, x). Floating point is stored as scaled int16 with 0 kept exactly 0, or as float32
    where a few voxels are so bright that scaling to them would leave the others few steps.

    The header holds geometry only: no description, no name, no date; the same input gives the same bytes.
    """
    data = array
    slope = 1.0
    if np.issubdtype(array.dtype, np.floating):
        peak = float(np.max(np.abs(array))) if array.size else 0.0
        if peak > _SPIKE * _bright(array):
            data = array.astype(np.float32)
        else:
            slope = peak / 32767.0 if peak > 0 else 1.0
            data = np.rint(array / slope).astype(np.int16)
    elif array.dtype == np.bool_:
        data = array.astype(np.uint8)
    return encode_nifti(data, grid, slope=slope)


def without_spikes(array: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """The image (z, y, x) with voxels far beyond all others cut to what is still bright, and how many were cut.

    One voxel of 3e7 is no tissue, and every statistic of the image would be its.
    """
    high = _bright(array)
    if not float(np.max(np.abs(array), initial=0.0)) > _SPIKE * high:
        return array, 0
    limit = np.float32(_KEPT * high)
    return np.clip(array, -limit, limit), int(np.count_nonzero(np.abs(array) > limit))


def _bright(array: NDArray[Any]) -> float:
    """The 99.9th percentile of the absolute values that are not 0; infinite without any."""
    values = np.abs(array[array != 0])
    return float(np.percentile(values[:: max(1, values.size // 500_000)], 99.9)) if values.size else math.inf


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
    array, grid, _ = read_foreign_nifti(data, as_float=as_float)
    return array, grid


def read_foreign_nifti(data: bytes, *, as_float: bool = True) -> tuple[NDArray[Any], Grid, tuple[str, ...]]:
    """As `read_nifti`, for a file that somebody else wrote: with what speaks against its header's side and millimetres.

    :returns: array, grid, doubts (see `imaging.geometry.nifti_header.placement_doubts`).
    :raises GeometryError: as `read_nifti`.
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
        affine = np.diag([*[millimetres_per_unit(image.header)] * 3, 1.0]) @ np.asarray(image.affine)
        # As it is written: the library mends some fields silently.
        doubts = placement_doubts(type(image.header)(data[: image.header.sizeof_hdr], check=False))
    except GeometryError:
        raise
    except Exception as error:
        raise GeometryError(f"the file is not a readable NIfTI image ({type(error).__name__})") from None
    array = np.ascontiguousarray(values.reshape(shape).transpose(2, 1, 0))
    return array, Grid(affine, (shape[0], shape[1], shape[2])), doubts


def read_nifti_grid(data: bytes) -> Grid:
    """The grid that the header says, without unpacking a voxel.

    :raises GeometryError: not a NIfTI, not three-dimensional, or an unusable affine.
    """
    try:
        head = data[:_NIFTI_HEAD]
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                head = packed.read(_NIFTI_HEAD)
        kind = _nifti_kind(head)
        header = kind.header_class(bytes(head[: kind.header_class.sizeof_hdr]))
        shape = [int(n) for n in header.get_data_shape()]
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        affine = np.diag([*[millimetres_per_unit(header)] * 3, 1.0]) @ np.asarray(header.get_best_affine())
    except Exception as error:
        raise GeometryError(f"the file is not a readable NIfTI image ({type(error).__name__})") from None
    if len(shape) != 3:
        raise GeometryError("the NIfTI file does not hold one three-dimensional image")
    return Grid(affine, (shape[0], shape[1], shape[2]))


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
