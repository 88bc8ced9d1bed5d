"""The planes of DICOM images: where each lies (PS3.3 C.7.6.2, C.7.6.16), how its values are scaled, its pixels.

Headers first, pixels when all headers are good: what cannot be a volume is refused before a pixel is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.dicom.functional_groups import FunctionalGroups
from imaging.dicom.transfer_syntaxes import NATIVE_LITTLE
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = [
    "READ_TAGS",
    "ImagePlane",
    "VolumeRefused",
    "image_planes",
    "is_tiled",
    "pixels_of",
    "stored_type",
    "tiles_refused",
]

_READ_TAGS = (
    "SpecificCharacterSet ImageType SOPInstanceUID Rows Columns NumberOfFrames SamplesPerPixel BitsAllocated BitsStored "
    "HighBit PixelRepresentation PhotometricInterpretation PlanarConfiguration ImagePositionPatient "
    "ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept GantryDetectorTilt "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence ExtendedOffsetTable ExtendedOffsetTableLengths "
    "LossyImageCompression PixelData FloatPixelData DoubleFloatPixelData"
)
# How many slices lie beside each other in one frame, by scanner: (group, creator, element of its block).
_TILES = (
    (0x0065, "Image Private Header", 0x50),
    (0x0065, "Image Private Header", 0x51),
    (0x0019, "SIEMENS MR HEADER", 0x0A),
)
_PRIVATE_TAGS = (0x00650010, 0x00651050, 0x00651051, 0x00190010, 0x0019100A)
READ_TAGS: list[str | int] = [*_READ_TAGS.split(), *_PRIVATE_TAGS]
"""What reading a stack needs of a file: for ``specific_tags`` of `pydicom.dcmread`."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class VolumeRefused(UserVisibleError):
    """A series that is not a volume. ``code`` names why; the message is for a radiologist."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, what_to_do="Please send the series again from the scanner.", code=code)


@dataclass(frozen=True, eq=False)
class ImagePlane:
    """One plane without its pixels.

    :param source: number of its data set, from 0, as given. :param frame: its frame in it, from 0.
    :param shape: (rows, columns).
    :param position: LPS mm of the first voxel's centre. :param orientation: six direction cosines, row then column.
    :param spacing: (between rows, between columns), mm. :param tilt: declared gantry tilt, degrees.
    :param scale: (slope, intercept) from stored to modality values.
    """

    source: int
    frame: int
    shape: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    tilt: float
    scale: tuple[float, float]


def image_planes(dataset: Dataset, source: int) -> Iterator[ImagePlane]:
    """The planes of one image, classic or enhanced multi-frame, from its header.

    :raises VolumeRefused: mosaic, not-a-volume, no-geometry, undecodable.
    """
    if is_tiled(dataset):
        raise tiles_refused()
    shape = (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
    if min(shape) < 1 or not any(name in dataset for name in _PIXELS):
        raise VolumeRefused("undecodable", "The pixels of this series cannot be decoded.")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise VolumeRefused("not-a-volume", "This series holds multi-frame or colour images without a place in space.")
    groups = FunctionalGroups(dataset)
    if groups.multi_frame:
        yield from _multi_frame(groups, int(dataset.get("NumberOfFrames") or 1), source, shape)
        return
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise VolumeRefused("not-a-volume", "This series holds multi-frame or colour images without a place in space.")
    tilt = dataset.get("GantryDetectorTilt")
    yield _plane(
        (source, 0, shape),
        (dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient"), dataset.get("PixelSpacing")),
        _scale(dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")),
        float(tilt) if tilt not in (None, "") else 0.0,
    )


def is_tiled(dataset: Dataset) -> bool:
    """Whether several slices lie beside each other in one frame: a Siemens mosaic, a United Imaging grid.

    An enhanced object made of such a mosaic still has the word in its Image Type, and its frames have their places: no tiles.
    """
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        return False
    value = dataset.get("ImageType") or []
    if {"MOSAIC", "VFRAME"} & {str(part) for part in ([value] if isinstance(value, str) else value)}:
        return True
    for group, creator, element in _TILES:
        try:
            found = dataset.private_block(group, creator)[element].value
        except KeyError:
            continue
        if not isinstance(found, (str, int, float)) or (str(found).strip() not in ("", "0", "1")):
            return True
    return False


def tiles_refused() -> VolumeRefused:
    """What is said of tiles in one frame."""
    return VolumeRefused("mosaic", "This series is a mosaic: its slices share one plane and cannot be placed.")


def _multi_frame(groups: FunctionalGroups, frames: int, source: int, shape: tuple[int, int]) -> Iterator[ImagePlane]:
    if len(groups) != frames:
        raise VolumeRefused("not-a-volume", "This multi-frame image does not describe each of its frames.")
    for number in range(frames):
        transform = groups.group("PixelValueTransformationSequence", number)
        yield _plane(
            (source, number, shape),
            (
                groups.group("PlanePositionSequence", number).get("ImagePositionPatient"),
                groups.group("PlaneOrientationSequence", number).get("ImageOrientationPatient"),
                groups.group("PixelMeasuresSequence", number).get("PixelSpacing"),
            ),
            _scale(transform.get("RescaleSlope"), transform.get("RescaleIntercept")),
        )


def _scale(slope: object, intercept: object) -> tuple[float, float]:
    try:
        factor = 1.0 if slope in (None, "") else float(str(slope))
        offset = 0.0 if intercept in (None, "") else float(str(intercept))
    except ValueError:
        factor, offset = np.nan, np.nan
    if not np.isfinite([factor, offset]).all() or factor == 0.0:
        raise VolumeRefused("undecodable", "The rescale slope of this series is not a number that can be used.")
    return factor, offset


def _plane(
    which: tuple[int, int, tuple[int, int]],
    geometry: tuple[object, object, object],
    scale: tuple[float, float],
    tilt: float = 0.0,
) -> ImagePlane:
    try:
        place, cosines, steps = ([float(value) for value in one] for one in geometry)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        place, cosines, steps = [], [], []
    if (len(place), len(cosines), len(steps)) != (3, 6, 2) or not np.isfinite([*place, *cosines, *steps]).all():
        raise VolumeRefused("no-geometry", "The images of this series do not say where they lie in the patient.")
    if min(steps) <= 0:
        raise VolumeRefused("no-geometry", "The pixel spacing of this series is not positive.")
    return ImagePlane(*which, np.array(place), np.array(cosines), (steps[0], steps[1]), tilt, scale)


def stored_type(datasets: Iterable[Dataset]) -> np.dtype[np.generic]:
    """One type that holds the stored values of all: integers, or float32 where a data set has floating point pixels."""
    kinds = set()
    for one in datasets:
        bits, signed = int(one.get("BitsAllocated") or 0), int(one.get("PixelRepresentation") or 0) == 1
        if "PixelData" not in one or bits not in (8, 16, 32):
            kinds.add(np.dtype(np.float32))
        else:
            kinds.add(np.dtype(f"{'i' if signed else 'u'}{bits // 8}"))
    common = np.result_type(*kinds)
    return common if common.kind in "iu" else np.dtype(np.float32)


def pixels_of(dataset: Dataset) -> NDArray[np.generic]:
    """Stored values (frames, rows, columns).

    :raises VolumeRefused: undecodable.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    shape = (int(dataset.get("NumberOfFrames") or 1), rows, columns)
    try:
        found = _native(dataset, shape)
        if found is None:
            found = np.asarray(dataset.pixel_array).reshape(shape)
    except Exception as error:  # decoders raise anything; their text may quote the data
        raise VolumeRefused("undecodable", "The pixels of this series cannot be decoded.") from error
    return found


def _native(dataset: Dataset, shape: tuple[int, int, int]) -> NDArray[np.generic] | None:
    """Uncompressed 16 bit values without a copy; None where the library must decode."""
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if syntax not in NATIVE_LITTLE or dataset.get("BitsAllocated") != 16 or "PixelData" not in dataset:
        return None
    stored, high = int(dataset.get("BitsStored") or 16), int(dataset.get("HighBit") or 0)
    if not 1 <= stored <= 16 or high != stored - 1:
        return None
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    count = int(np.prod(shape))
    values = np.frombuffer(dataset.PixelData, dtype="<i2" if signed else "<u2", count=count).reshape(shape)
    if stored < 16:
        # What a scanner leaves in the unused bits (old overlays, PS3.5 8.1.1) is no part of the value.
        values = np.right_shift(np.left_shift(values, 16 - stored), 16 - stored)
    return values
