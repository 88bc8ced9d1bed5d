"""Frames of a stored DICOM file: as they lie there, decoded, and as pictures. Bytes and numbers only, no database.

Bulk data of frames: PS3.18 section 8.7.3.6 and Table 8.7.3-5; pictures: section 8.7.4, window per PS3.3 C.11.2.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRLittleEndian

from imaging.dicom.content_hash import MAX_DECODED
from imaging.dicom.functional_groups import FunctionalGroups
from imaging.rendering.window import apply_window, grey_levels, percentile_range
from oncoflow_site.foundation.errors import EngineError

__all__ = [
    "MAX_SIDE",
    "Presentation",
    "Undecodable",
    "draw",
    "native_frame",
    "to_explicit_little",
]

MAX_SIDE = 4096


class Undecodable(EngineError):
    """The pixels cannot be decoded; the message holds nothing of them."""


@dataclass(frozen=True)
class Presentation:
    """How a picture is to look.

    :param window: centre, width and function (``linear``, ``linear-exact``, ``sigmoid``); None: the image's own.
    :param viewport: width and height that the picture must fit in, pixels.
    :param region: x, y, width, height of the source region, pixels.
    """

    window: tuple[float, float, str] | None = None
    viewport: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    media_type: str = "image/jpeg"
    quality: int = 90

    def fitted(self, side: int) -> Presentation:
        """The same, in a square of ``side`` pixels unless a viewport is given."""
        return self if self.viewport else replace(self, viewport=(side, side))


def native_frame(data: bytes, index: int) -> bytes:
    """Frame ``index`` (from 0) of a file as octets of Explicit VR Little Endian; bits packed where one bit a pixel.

    :raises Undecodable: no decoder takes it.
    """
    dataset = dcmread(BytesIO(data))
    array = _decoded(dataset, index, raw=True)
    if int(dataset.BitsAllocated) == 1:
        return pack_bits(array)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def pack_bits(array: NDArray[Any]) -> bytes:
    """Pixels of one bit each as octets, the first in the lowest bit (PS3.5 section 8.1.1), padded to whole octets."""
    return np.packbits(np.asarray(array).ravel() != 0, bitorder="little").tobytes()


def bit_frame(octets: bytes, index: int, count: int) -> bytes:
    """Frame ``index`` of ``count`` one-bit pixels, which need not begin on an octet, from the octets that hold it."""
    first = index * count % 8
    bits = np.unpackbits(np.frombuffer(octets, dtype=np.uint8), bitorder="little")[first : first + count]
    return np.packbits(bits, bitorder="little").tobytes()


def to_explicit_little(data: bytes) -> bytes:
    """The file in Explicit VR Little Endian, its pixels decoded.

    :raises Undecodable: its pixels cannot be decoded.
    """
    dataset = dcmread(BytesIO(data))
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == ExplicitVRLittleEndian:
        return data
    if "PixelData" in dataset and (syntax.is_encapsulated or not syntax.is_little_endian):
        frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        bits = int(dataset.BitsAllocated)
        samples = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
        if frames * samples * bits > 8 * MAX_DECODED:
            raise Undecodable("decoded, it would be too large: ask for it as it is stored, or for its frames")
        pieces = [_decoded(dataset, index, raw=True) for index in range(frames)]
        if bits == 1:
            pixels = pack_bits(np.concatenate([piece.ravel() for piece in pieces]))
        else:
            pixels = b"".join(piece.astype(piece.dtype.newbyteorder("<"), copy=False).tobytes() for piece in pieces)
        dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
        dataset["PixelData"].is_undefined_length = False
        if int(dataset.get("SamplesPerPixel") or 1) > 1:
            dataset.PlanarConfiguration = 0
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in dataset:
                delattr(dataset, keyword)
    try:
        return _rewritten(dataset, swap=not syntax.is_little_endian)
    except Exception as error:
        raise Undecodable(f"the data set cannot be rewritten ({type(error).__name__})") from None


_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def _rewritten(dataset: Dataset, *, swap: bool) -> bytes:
    """The data set in Explicit VR Little Endian; ``swap``: binary words were big endian (all but the pixels' already)."""

    def visit(_: Dataset, element: DataElement) -> None:
        size = _WORDS.get(str(element.VR), 0)
        if swap and size and element.tag != 0x7FE00010 and isinstance(element.value, bytes):
            words = np.frombuffer(element.value[: len(element.value) // size * size], dtype=f">u{size}")
            element.value = words.astype(f"<u{size}").tobytes()

    dataset.walk(visit)  # reads every element, so that none is copied in its old encoding
    fresh = Dataset(dataset)
    fresh.file_meta = dataset.file_meta
    fresh.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    dcmwrite(out, fresh, enforce_file_format=True)
    return out.getvalue()


def _decoded(dataset: Dataset, index: int, *, raw: bool = False) -> NDArray[Any]:
    try:
        return np.asarray(pixel_array(dataset, index=index, raw=raw))
    except Exception as error:  # decoders raise anything
        raise Undecodable(f"the pixels cannot be decoded ({type(error).__name__})") from None


def draw(data: bytes, index: int, how: Presentation) -> bytes:
    """Frame ``index`` (from 0) as JPEG or PNG, windowed. For looking at, not for reading.

    :raises Undecodable: its pixels cannot be decoded.
    """
    dataset = dcmread(BytesIO(data))
    array = _decoded(dataset, index)
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        picture = Image.fromarray(array[..., :3].astype(np.uint8), "RGB")
    else:
        picture = Image.fromarray(_grey(dataset, array, index, how.window), "L")
    if how.region is not None:
        x, y, width, height = how.region
        picture = picture.crop((round(x), round(y), round(x + width), round(y + height)))
    if how.viewport is not None:
        scale = min(how.viewport[0] / picture.width, how.viewport[1] / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    if how.media_type == "image/png":
        picture.save(out, format="PNG", compress_level=3)
    else:
        picture.save(out, format="JPEG", quality=how.quality)
    return out.getvalue()


def _grey(
    dataset: Dataset, array: NDArray[Any], index: int, window: tuple[float, float, str] | None
) -> NDArray[np.uint8]:
    values = array.astype(np.float32)
    if int(dataset.get("BitsAllocated") or 8) == 1:
        return (values * 255).astype(np.uint8)
    groups = FunctionalGroups(dataset)
    transform = groups.group("PixelValueTransformationSequence", index)
    slope, intercept = _number(transform.get("RescaleSlope"), 1.0), _number(transform.get("RescaleIntercept"), 0.0)
    values = values * np.float32(slope) + np.float32(intercept)
    if window is None:
        voi = groups.group("FrameVOILUTSequence", index)
        centre, width = _number(voi.get("WindowCenter"), None), _number(voi.get("WindowWidth"), None)
        if centre is None or width is None or width < 1:
            low, high = percentile_range(values[::2, ::2])
            centre, width = (low + high) / 2, max(high - low, 1e-6)
            window = (centre, width, "linear-exact")
        else:
            function = str(voi.get("VOILUTFunction") or "LINEAR").lower().replace("_", "-")
            window = (centre, width, function)
    shown = apply_window(values, *window)
    if str(dataset.get("PhotometricInterpretation")) == "MONOCHROME1":
        shown = 1.0 - shown
    return grey_levels(shown)


def _number(value: object, default: Any) -> Any:
    if value is None or value == "":
        return default
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
    try:
        return float(str(first))
    except ValueError:
        return default
