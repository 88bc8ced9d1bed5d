"""One series as one array with its place in the patient: PS3.3 C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame).

Refuses by name what cannot be a volume; never guesses a missing slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.dicom.image_plane import ImagePlane, VolumeRefused, image_planes, pixels_of, stored_type
from imaging.geometry.grid import MAX_VOXELS

__all__ = ["ImageStack", "stack_datasets"]


ORTHOGONAL_TOLERANCE = 1e-3  # of unit vectors; scanners round direction cosines to about 1e-5
UNEVEN_TOLERANCE = 0.05  # of the slice distance
UNEVEN_TOLERANCE_MM = 0.02
TILT_TOLERANCE_DEG = 0.5


@dataclass(frozen=True, eq=False)
class ImageStack:
    """A series in memory.

    :param stored: (z, y, x); integers as the scanner stored them, or float32 modality values where each plane has its
        own scaling (then ``slope`` is 1).
    :param affine_ras: 4 x 4, voxel index (x, y, z) to RAS mm (x = column, y = row, z = slice along the normal).
    :param slope: and ``intercept``: modality value = stored * slope + intercept (PS3.3 C.11.1.1.2).
    :param frames: for each z, (number of the data set in the order given, frame in it), both from 0.
    :param warnings: what a reader should know, one sentence each.
    """

    stored: NDArray[np.generic]
    affine_ras: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    frames: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def array(self) -> NDArray[np.float32]:
        """Modality values, not display values: float32 (z, y, x), made anew at each call."""
        values = np.asarray(self.stored, dtype=np.float32)
        if self.slope == 1.0 and self.intercept == 0.0:
            return values
        return values * np.float32(self.slope) + np.float32(self.intercept)


def stack_datasets(datasets: Sequence[Dataset]) -> ImageStack:
    """The stack of the instances of one series, classic or enhanced multi-frame, in any order.

    :raises VolumeRefused: see `read_series`.
    """
    if not datasets:
        raise VolumeRefused("no-images", "This series has no images.")
    voxels = sum(
        int(one.get("Rows") or 0) * int(one.get("Columns") or 0) * int(one.get("NumberOfFrames") or 1)
        for one in datasets
    )
    if voxels > MAX_VOXELS:
        raise VolumeRefused("too-large", "This series has more voxels than this service can hold.")
    planes, copies = _without_copies(
        [plane for number, one in enumerate(datasets) for plane in image_planes(one, number)], datasets
    )
    planes, affine = _ordered(planes)
    scales = {plane.scale for plane in planes}
    kind = stored_type(datasets) if len(scales) == 1 else np.dtype(np.float32)
    stored = np.empty((len(planes), *planes[0].shape), dtype=kind)
    places: dict[int, list[int]] = {}
    for z, plane in enumerate(planes):
        places.setdefault(plane.source, []).append(z)
    for source, one in enumerate(datasets):
        if source not in places:
            continue
        pixels = pixels_of(one)
        for z in places[source]:
            values = pixels[planes[z].frame]
            stored[z] = values if len(scales) == 1 else _rescaled(values, *planes[z].scale)
    if kind.kind == "f" and not np.all(np.isfinite(stored)):
        raise VolumeRefused("undecodable", "This series has pixel values that are not numbers.")
    step = float(np.linalg.norm(affine[:3, 2]))
    warnings: tuple[str, ...] = (f"Thick slices: {step:.1f} mm apart.",) if step > 6.0 else ()
    if copies:
        warnings += (
            f"{copies} image{'s' if copies > 1 else ''} of this series came twice, alike in place and pixels: used once.",
        )
    slope, intercept = scales.pop() if len(scales) == 1 else (1.0, 0.0)
    return ImageStack(stored, affine, slope, intercept, tuple((one.source, one.frame) for one in planes), warnings)


def _without_copies(planes: Sequence[ImagePlane], datasets: Sequence[Dataset]) -> tuple[Sequence[ImagePlane], int]:
    """The planes, each place that holds the same pixels several times once, and how many were left out.

    Planes in one place with other pixels stay: the series is refused for them.
    """
    groups: dict[tuple[object, ...], list[ImagePlane]] = {}
    for one in planes:
        place = (*np.round(one.position, 2), *np.round(one.orientation, 3), *one.spacing, *one.shape, *one.scale)
        groups.setdefault(place, []).append(one)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return planes, 0
    dropped: set[int] = set()
    decoded: dict[int, NDArray[np.generic]] = {}
    for group in several:
        pixels = []
        for one in group:
            if one.source not in decoded:
                decoded[one.source] = pixels_of(datasets[one.source])
            pixels.append(decoded[one.source][one.frame])
        if all(np.array_equal(pixels[0], other) for other in pixels[1:]):
            dropped |= {id(one) for one in group[1:]}
        else:
            return planes, 0
    return [one for one in planes if id(one) not in dropped], len(dropped)


def _rescaled(pixels: NDArray[np.generic], slope: float, intercept: float) -> NDArray[np.float32]:
    return np.asarray(pixels, dtype=np.float32) * np.float32(slope) + np.float32(intercept)


def _normal(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    row, column = orientation[:3], orientation[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.any(np.abs(lengths - 1) > ORTHOGONAL_TOLERANCE * 10) or abs(float(row @ column)) > ORTHOGONAL_TOLERANCE * 10:
        raise VolumeRefused("no-geometry", "The image orientation of this series is not a pair of right angles.")
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def _ordered(planes: Sequence[ImagePlane]) -> tuple[list[ImagePlane], NDArray[np.float64]]:
    """The planes along their normal, and the affine of the stack; refuses by name."""
    first = planes[0]
    if any(one.shape != first.shape for one in planes):
        raise VolumeRefused("mixed-matrix", "The images of this series have different matrix sizes.")
    if not np.allclose([one.orientation for one in planes], first.orientation, atol=1e-3):
        raise VolumeRefused(
            "mixed-orientation", "The images of this series lie in different directions (a localizer?)."
        )
    if not np.allclose([one.spacing for one in planes], first.spacing, rtol=1e-3):
        raise VolumeRefused("mixed-spacing", "The images of this series have different pixel spacings.")
    if len(planes) < 3:
        raise VolumeRefused("not-a-volume", "This series has fewer than three slices.")
    normal = _normal(first.orientation)
    order = np.argsort([float(one.position @ normal) for one in planes], kind="stable")
    ordered = [planes[index] for index in order]
    positions = np.array([one.position for one in ordered])
    step = _slice_step(np.diff(positions @ normal))
    _refuse_tilt(ordered, positions, normal, step)
    row, column = first.orientation[:3], first.orientation[3:]
    # PS3.3 C.7.6.2.1.1: index x runs along a row (PixelSpacing[1]), y down the columns (PixelSpacing[0]).
    lps = np.eye(4)
    lps[:3, 0] = row * first.spacing[1]
    lps[:3, 1] = column * first.spacing[0]
    lps[:3, 2] = normal * step
    lps[:3, 3] = positions[0]
    return ordered, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _slice_step(gaps: NDArray[np.float64]) -> float:
    """The distance of the slices along the normal, mm; refuses doubles, holes and uneven steps."""
    step = float(np.median(gaps))
    tolerance = max(UNEVEN_TOLERANCE * abs(step), UNEVEN_TOLERANCE_MM)
    if np.any(gaps < 0.01) or step < 0.01:
        raise VolumeRefused(
            "duplicate-slice",
            "Several images of this series lie in the same place (several echoes, time points or b-values?).",
        )
    wrong = np.abs(gaps - step) > tolerance
    if not np.any(wrong):
        return float(np.mean(gaps))
    multiples = gaps[wrong] / step
    if np.all(np.abs(multiples - np.round(multiples)) < 0.05) and np.all(multiples > 1.5):
        raise VolumeRefused(
            "missing-slice", f"Slices are missing: {int(np.sum(np.round(multiples) - 1))} of this series."
        )
    raise VolumeRefused("uneven-slices", "The slices of this series are not evenly spaced.")


def _refuse_tilt(
    planes: Sequence[ImagePlane], positions: NDArray[np.float64], normal: NDArray[np.float64], step: float
) -> None:
    """A stack whose positions drift sideways is sheared: gantry tilt, or slices shifted against each other."""
    along = positions[-1] - positions[0]
    sideways = float(np.linalg.norm(along - (along @ normal) * normal))
    angle = float(np.degrees(np.arctan2(sideways, abs(float(along @ normal)))))
    declared = max(abs(one.tilt) for one in planes)
    if angle > TILT_TOLERANCE_DEG or (declared > TILT_TOLERANCE_DEG and sideways > step):
        raise VolumeRefused(
            "gantry-tilt", f"The slices of this series are sheared by {angle:.1f} degrees (gantry tilt)."
        )
    ideal = positions[0] + np.outer((positions - positions[0]) @ normal, normal)
    if float(np.max(np.linalg.norm(positions - ideal, axis=1))) > max(0.5, 0.5 * step):
        raise VolumeRefused("uneven-slices", "The slices of this series are shifted against each other.")
