"""What a NIfTI header says about where its voxels are, and whether it says it: codes, the two forms against each other and
against pixdim, handedness, units (NIfTI-1 `nifti1.h`, "3D IMAGE (VOLUME) ORIENTATION AND LOCATION IN SPACE"; NIfTI-2 alike).

Without a code a reader has to guess the side, and readers guess differently; where two statements differ none is known to be
right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

__all__ = ["millimetres_per_unit", "placement_doubts"]

_CODES = range(1, 6)  # scanner, aligned, Talairach, MNI 152, other template
_SPACING = 0.01
_ANGLE_DEG = 2.0
_VOXEL_MM = (0.05, 30.0)
_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micrometre


def millimetres_per_unit(header: Any) -> float:
    """Of the spatial unit of ``xyzt_units``; an unknown one counts as millimetre, as it is read everywhere."""
    factor = _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    # A unit that makes no voxel is contradicted by the numbers; `placement_doubts` says so.
    return factor if factor == 1.0 or _plausible(pixdim * factor) else 1.0


def placement_doubts(header: Any) -> tuple[str, ...]:
    """Why side and millimetres of an image cannot be taken from ``header`` (of nibabel); empty where they can.

    One clause each, lower case, without any value that could name somebody.
    """
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    doubts: list[str] = []
    if sform not in _CODES and qform not in _CODES:
        return ("neither sform nor qform has a code: the side is not stated",)
    unit = int(header["xyzt_units"]) & 7
    pixdim = np.asarray(header["pixdim"], dtype=np.float64)
    spacing = pixdim[1:4]
    if not np.all(np.isfinite(spacing)) or np.any(spacing <= 0):
        return ("pixdim is not three positive numbers",)
    factor = _UNITS.get(unit)
    if factor is None:
        doubts.append("the unit of length is none that NIfTI knows")
    elif not _plausible(spacing * factor):
        doubts.append("the unit of length contradicts the size of the voxels")
    if qform in _CODES:
        quaternion = np.array([float(header[name]) for name in ("quatern_b", "quatern_c", "quatern_d")])
        if not np.all(np.isfinite(quaternion)) or float(quaternion @ quaternion) > 1.0 + 1e-3:
            return (*doubts, "the quaternion of qform is no rotation")
        if pixdim[0] not in (-1.0, 0.0, 1.0):
            doubts.append("the handedness of qform (qfac) is neither 1 nor -1")
    if sform in _CODES:
        rows = np.array([np.asarray(header[name], dtype=np.float64) for name in ("srow_x", "srow_y", "srow_z")])
        matrix = rows[:, :3]
        lengths = np.linalg.norm(matrix, axis=0)
        if not np.all(np.isfinite(rows)) or abs(float(np.linalg.det(matrix))) < 1e-9:
            return (*doubts, "sform is no placement")
        if not np.allclose(lengths, spacing, rtol=_SPACING):
            doubts.append("sform and pixdim give different sizes of a voxel")
        if qform in _CODES:
            doubts += _compared(matrix, np.asarray(header.get_qform(), dtype=np.float64)[:3, :3])
    return tuple(doubts)


def _compared(sform: NDArray[np.float64], qform: NDArray[np.float64]) -> list[str]:
    """How two 3x3 placements (columns: x, y, z in mm) contradict each other."""
    if np.linalg.det(sform) * np.linalg.det(qform) < 0:
        return ["sform and qform contradict each other in handedness"]
    first, second = (matrix / np.linalg.norm(matrix, axis=0) for matrix in (sform, qform))
    cosines = np.clip(np.sum(first * second, axis=0), -1.0, 1.0)
    if float(np.degrees(np.arccos(cosines)).max()) <= _ANGLE_DEG:
        return []
    affines = []
    for matrix in (sform, qform):
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affines.append(io_orientation(affine))
    if not np.array_equal(*affines):
        return ["sform and qform contradict each other in direction"]
    return ["sform and qform are turned against each other"]


def _plausible(spacing_mm: NDArray[np.float64]) -> bool:
    return bool(np.all((spacing_mm >= _VOXEL_MM[0]) & (spacing_mm <= _VOXEL_MM[1])))
