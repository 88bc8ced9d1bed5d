"""Whether two DICOM files hold the same instance, however each is encoded: a SHA-256 that does not see the transfer syntax.

The canonical form of a data set (what is hashed, in this order):

- Attributes in ascending order of their tags, at every level of nesting, each as its tag (4 bytes, big endian), a letter for
  the form of its value, the length of the value (8 bytes, big endian) and the value. Left out: groups 0 and 2 and the
  delimiters, group lengths (gggg,0000), Data Set Trailing Padding (FFFC,FFFC), the offset tables (7FE0,0001 to 0003), and
  Lossy Image Compression (0028,2110) when it says 00, which is the same as its absence.
- The VR is the data dictionary's, never the file's: implicit encoding has none. Binary numbers are little endian. Text has no
  trailing spaces or NULs, in none of its values. A sequence is its items, one after another.
- Private and unknown attributes are kept, byte for byte. In a big endian file the VR that stands there says what to swap; a
  value that is a list of items in one encoding and raw bytes in another is read as items where it is one.
- Pixel Data are decoded: little endian samples, frame after frame (PS3.5 section 8), without colour conversion.

So the same image in little endian, big endian, implicit, RLE, lossless JPEG, JPEG-LS or lossless JPEG 2000 has one hash. A
lossy encoding has other pixels and therefore another.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.pixels import iter_pixels
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

__all__ = ["MAX_DECODED", "NotComparable", "canonical_sha256"]

MAX_DECODED = 1 << 30  # bytes of decoded pixels
_SWAP = {"AT": 2, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4,
         "US": 2, "UV": 8}  # fmt: skip
_BYTES = frozenset({*_SWAP, "OB", "UN"})
_LEFT_OUT = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003, 0xFFFCFFFC})
_LOSSY = 0x00282110
_PIXEL_DATA = 0x7FE00010
_ITEM = b"\xfe\xff\x00\xe0"


class NotComparable(Exception):
    """The pixels cannot be decoded here, or are too many. The message holds no value of the data set."""


def canonical_sha256(data: bytes) -> str:
    """SHA-256 of the canonical form of a DICOM file that `imaging.dicom.preflight.scan` has passed.

    :raises NotComparable: it cannot be read or decoded, or its pixels take more than `MAX_DECODED` bytes.
    """
    digest = hashlib.sha256()
    try:
        dataset = dcmread(BytesIO(data))
        for piece in _dataset(dataset, little=bool(UID(dataset.file_meta.TransferSyntaxUID).is_little_endian)):
            digest.update(piece)
    except NotComparable:
        raise
    except Exception as error:  # any parser's or decoder's; its text may quote the data
        raise NotComparable(f"it cannot be decoded ({type(error).__name__})") from None
    return digest.hexdigest()


def _dataset(dataset: Dataset, *, little: bool, top: bool = True) -> Iterator[bytes]:
    # All of them before any is converted: looking into one sequence converts what it depends on.
    elements = [(tag, dataset.get_item(tag)) for tag in sorted(dataset.keys())]
    for tag, element in elements:
        if tag.group in (0, 2) or tag.element == 0 or tag in _LEFT_OUT:
            continue
        if top and tag == _PIXEL_DATA:
            yield from _pixels(dataset)
            continue
        yield from _element(tag, element, dataset, little)


def _element(tag: BaseTag, element: Any, dataset: Dataset, little: bool) -> Iterator[bytes]:
    known = _known_vr(tag)
    if known == "SQ" or (known == "" and element.VR == "SQ"):
        yield from _sequence(tag, dataset[tag].value, little)
        return
    value, vr = _raw(element), known or str(element.VR or "UN")
    if not little:
        value = _swapped(value, str(element.VR or vr))
    if known == "" and value.startswith(_ITEM) and (items := _items(value)) is not None:
        yield from _sequence(tag, items, True)
        return
    if known and known not in _BYTES:
        value = b"\\".join(part.rstrip(b" \0") for part in value.split(b"\\"))
    if tag == _LOSSY and value == b"00":
        return
    yield _head(tag, b"v", len(value))
    yield value


def _known_vr(tag: BaseTag) -> str:
    """The dictionary's VR; empty for private and unknown attributes. One of two possible numeric VRs stands for both."""
    if tag.is_private:
        return ""
    try:
        return dictionary_VR(tag).split(" ")[0]
    except KeyError:
        return ""


def _raw(element: RawDataElement | DataElement) -> bytes:
    """The bytes of the value as they stand in the file."""
    if isinstance(element, RawDataElement):
        return bytes(element.value or b"")
    if isinstance(element.value, bytes):
        return element.value
    # Reading converts the character set, which is text; nothing else may come here.
    texts = [element.value] if isinstance(element.value, str) else list(element.value or ())
    if not all(isinstance(one, str) for one in texts):
        raise NotComparable("a value was converted while it was read")
    return b"\\".join(one.encode("ascii") for one in texts)


def _swapped(value: bytes, vr: str) -> bytes:
    width = _SWAP.get(vr, 1)
    return (
        value if width == 1 or len(value) % width else np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
    )


def _items(value: bytes) -> Sequence | None:
    """A private value read as a sequence of implicit little endian items, None where it is none."""
    try:
        stream = BytesIO(value)
        found = read_sequence(stream, True, True, len(value), "iso8859")
        return found if stream.tell() == len(value) else None
    except Exception:
        return None


def _sequence(tag: BaseTag, items: Any, little: bool) -> Iterator[bytes]:
    yield _head(tag, b"s", len(items))
    for item in items:
        digest = hashlib.sha256()
        for piece in _dataset(item, little=little, top=False):
            digest.update(piece)
        yield digest.digest()


def _pixels(dataset: Dataset) -> Iterator[bytes]:
    frames = int(dataset.get("NumberOfFrames") or 1)
    size = (
        int(dataset.Rows)
        * int(dataset.Columns)
        * int(dataset.SamplesPerPixel)
        * ((int(dataset.BitsAllocated) + 7) // 8)
    )
    if not 0 < size * frames <= MAX_DECODED:
        raise NotComparable("its pixels are too many to be compared")
    yield _head(BaseTag(_PIXEL_DATA), b"p", size * frames)
    for frame in iter_pixels(dataset, raw=True):
        yield np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()


def _head(tag: BaseTag, form: bytes, length: int) -> bytes:
    return struct.pack(">IcQ", int(tag), form, length)
