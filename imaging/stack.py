"""One series as one array with its place in the patient: PS3.3 C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame).

Refuses by name what cannot be a volume; never guesses a missing slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging.models import InstanceState
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError

if TYPE_CHECKING:
    from imaging.models import Series

__all__ = ["Slice", "Stack", "VolumeRefused", "read_series", "stack_datasets"]

ORTHOGONAL_TOLERANCE = 1e-3  # of unit vectors; scanners round direction cosines to about 1e-5
UNEVEN_TOLERANCE = 0.05  # of the slice distance
UNEVEN_TOLERANCE_MM = 0.02
TILT_TOLERANCE_DEG = 0.5
MAX_VOXELS = 512 * 512 * 1024


class VolumeRefused(UserVisibleError):
    """A series that is not a volume. ``code`` names why; the message is for a radiologist."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, what_to_do="Please send the series again from the scanner.", code=code)


@dataclass(frozen=True)
class Stack:
    """A series in memory.

    :param array: float32 (z, y, x); modality values (rescaled), not display values.
    :param affine_ras: 4 x 4, voxel index (x, y, z) to RAS mm (x = column, y = row, z = slice along the normal).
    :param warnings: what a reader should know, one sentence each.
    """

    array: NDArray[np.float32]
    affine_ras: NDArray[np.float64]
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Slice:
    """One plane: pixels (rows, columns) and its place, DICOM patient coordinates (LPS, mm)."""

    pixels: NDArray[np.float32]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    gantry_tilt: float = 0.0


def read_series(series: Series, *, original: bool = False) -> Stack:
    """The stack of a stored series, from its de-identified instances.

    :param original: use the instances as received (only the way back to the PACS needs that).
    :raises VolumeRefused: codes no-images, not-de-identified, no-geometry, mixed-orientation, mixed-matrix,
        mixed-spacing, gantry-tilt, duplicate-slice, missing-slice, uneven-slices, not-a-volume, undecodable, too-large.
    """
    rows = series.instances.exclude(state=InstanceState.QUARANTINED).select_related("original", "deidentified")
    datasets: list[Dataset] = []
    for row in rows.order_by("number", "id"):
        stored = row.original if original else row.deidentified
        if stored is None:
            raise VolumeRefused("not-de-identified", "This series has instances that are not de-identified yet.")
        datasets.append(dcmread(BytesIO(objects.get(stored)), force=True))
    return stack_datasets(datasets)


def stack_datasets(datasets: Sequence[Dataset]) -> Stack:
    """The stack of the instances of one series, classic or enhanced multi-frame, in any order.

    :raises VolumeRefused: see `read_series`.
    """
    if not datasets:
        raise VolumeRefused("no-images", "This series has no images.")
    pixels = sum(int(one.get("Rows") or 0) * int(one.get("Columns") or 0) * _frames(one) for one in datasets)
    if pixels > MAX_VOXELS:
        raise VolumeRefused("too-large", "This series has more voxels than this service can hold.")
    slices = [plane for dataset in datasets for plane in _slices(dataset)]
    return _stack(slices)


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _slices(dataset: Dataset) -> Iterable[Slice]:
    image_type = [str(part) for part in dataset.get("ImageType") or []]
    if "MOSAIC" in image_type:
        raise VolumeRefused("not-a-volume", "This series is a mosaic: its slices share one plane and cannot be placed.")
    try:
        pixels = np.asarray(dataset.pixel_array)
    except Exception as error:  # decoders raise anything; their text may quote the data
        raise VolumeRefused("undecodable", "The pixels of this series cannot be decoded.") from error
    if "PerFrameFunctionalGroupsSequence" in dataset:
        planes = pixels if pixels.ndim == 3 else pixels[np.newaxis]
        yield from _enhanced(dataset, planes)
        return
    if pixels.ndim != 2:
        raise VolumeRefused("not-a-volume", "This series holds multi-frame or colour images without a place in space.")
    rescaled = _rescaled(pixels, dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))
    tilt = dataset.get("GantryDetectorTilt")
    yield _slice(
        rescaled,
        dataset.get("ImagePositionPatient"),
        dataset.get("ImageOrientationPatient"),
        dataset.get("PixelSpacing"),
        float(tilt) if tilt not in (None, "") else 0.0,
    )


def _enhanced(dataset: Dataset, planes: NDArray[np.generic]) -> Iterable[Slice]:
    """Frames of an enhanced object; a functional group is per frame or shared (PS3.3 C.7.6.16.1.1)."""
    shared_groups = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    shared = shared_groups[0]
    per_frame = dataset.PerFrameFunctionalGroupsSequence
    if len(per_frame) != len(planes):
        raise VolumeRefused("not-a-volume", "This multi-frame image does not describe each of its frames.")
    for frame, pixels in zip(per_frame, planes, strict=True):

        def group(name: str, frame: Dataset = frame) -> Dataset:
            items = frame.get(name) or shared.get(name) or [Dataset()]
            return items[0]

        transform = group("PixelValueTransformationSequence")
        measures = group("PixelMeasuresSequence")
        yield _slice(
            _rescaled(pixels, transform.get("RescaleSlope"), transform.get("RescaleIntercept")),
            group("PlanePositionSequence").get("ImagePositionPatient"),
            group("PlaneOrientationSequence").get("ImageOrientationPatient"),
            measures.get("PixelSpacing"),
        )


def _rescaled(pixels: NDArray[np.generic], slope: object, intercept: object) -> NDArray[np.float32]:
    factor = 1.0 if slope in (None, "") else float(str(slope))
    offset = 0.0 if intercept in (None, "") else float(str(intercept))
    values = np.asarray(pixels, dtype=np.float32)
    return values if factor == 1.0 and offset == 0.0 else values * np.float32(factor) + np.float32(offset)


def _slice(
    pixels: NDArray[np.float32], position: object, orientation: object, spacing: object, tilt: float = 0.0
) -> Slice:
    try:
        place = np.array([float(value) for value in position], dtype=float)  # type: ignore[attr-defined, type-var]
        cosines = np.array([float(value) for value in orientation], dtype=float)  # type: ignore[attr-defined, type-var]
        steps = [float(value) for value in spacing]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        place, cosines, steps = np.empty(0), np.empty(0), []
    if (
        place.shape != (3,)
        or cosines.shape != (6,)
        or len(steps) != 2
        or not np.all(np.isfinite([*place, *cosines, *steps]))
    ):
        raise VolumeRefused("no-geometry", "The images of this series do not say where they lie in the patient.")
    if min(steps) <= 0:
        raise VolumeRefused("no-geometry", "The pixel spacing of this series is not positive.")
    return Slice(pixels, place, cosines, (steps[0], steps[1]), tilt)  # type: ignore[arg-type]


def _normal(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    row, column = orientation[:3], orientation[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.any(np.abs(lengths - 1) > ORTHOGONAL_TOLERANCE * 10) or abs(float(row @ column)) > ORTHOGONAL_TOLERANCE * 10:
        raise VolumeRefused("no-geometry", "The image orientation of this series is not a pair of right angles.")
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def _stack(slices: Sequence[Slice]) -> Stack:
    first = slices[0]
    warnings: list[str] = []
    if any(one.pixels.shape != first.pixels.shape for one in slices):
        raise VolumeRefused("mixed-matrix", "The images of this series have different matrix sizes.")
    if any(not np.allclose(one.orientation, first.orientation, atol=1e-3) for one in slices):
        raise VolumeRefused(
            "mixed-orientation", "The images of this series lie in different directions (a localizer?)."
        )
    if any(not np.allclose(one.spacing, first.spacing, rtol=1e-3) for one in slices):
        raise VolumeRefused("mixed-spacing", "The images of this series have different pixel spacings.")
    if len(slices) < 3:
        raise VolumeRefused("not-a-volume", "This series has fewer than three slices.")
    normal = _normal(first.orientation)
    order = np.argsort([float(one.position @ normal) for one in slices], kind="stable")
    ordered = [slices[index] for index in order]
    positions = np.array([one.position for one in ordered])
    gaps = np.diff(positions @ normal)
    step = _slice_step(gaps)
    _refuse_tilt(ordered, positions, normal, step)

    row, column = first.orientation[:3], first.orientation[3:]
    # PS3.3 C.7.6.2.1.1: index x runs along a row (PixelSpacing[1]), y down the columns (PixelSpacing[0]).
    lps = np.eye(4)
    lps[:3, 0] = row * first.spacing[1]
    lps[:3, 1] = column * first.spacing[0]
    lps[:3, 2] = normal * step
    lps[:3, 3] = positions[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    array = np.stack([one.pixels for one in ordered]).astype(np.float32, copy=False)
    if not np.all(np.isfinite(array)):
        raise VolumeRefused("undecodable", "This series has pixel values that are not numbers.")
    if step > 6.0:
        warnings.append(f"Thick slices: {step:.1f} mm apart.")
    return Stack(array, affine, tuple(warnings))


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
    slices: Sequence[Slice], positions: NDArray[np.float64], normal: NDArray[np.float64], step: float
) -> None:
    """A stack whose positions drift sideways is sheared: gantry tilt, or slices shifted against each other."""
    along = positions[-1] - positions[0]
    sideways = float(np.linalg.norm(along - (along @ normal) * normal))
    angle = float(np.degrees(np.arctan2(sideways, abs(float(along @ normal)))))
    declared = max(abs(one.gantry_tilt) for one in slices)
    if angle > TILT_TOLERANCE_DEG or (declared > TILT_TOLERANCE_DEG and sideways > step):
        raise VolumeRefused(
            "gantry-tilt", f"The slices of this series are sheared by {angle:.1f} degrees (gantry tilt)."
        )
    ideal = positions[0] + np.outer((positions - positions[0]) @ normal, normal)
    if float(np.max(np.linalg.norm(positions - ideal, axis=1))) > max(0.5, 0.5 * step):
        raise VolumeRefused("uneven-slices", "The slices of this series are shifted against each other.")
