"""The pixel data of a de-identified data set: the picture as it was, and nothing beside it in which text could lie.

Native ones are cut behind the last pixel and lose their unused bits, compressed ones lose their comments; nothing else
changes (PS3.5 section 8).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from imaging.deidentification.codestream_comments import HiddenText, without_comments
from imaging.deidentification.unused_bits import overlay_in_pixels, without_unused_bits
from imaging.dicom.elements import Element, ElementReader, ElementWriter, MalformedDataSet

__all__ = ["PIXEL_DATA", "pixel_data"]

PIXEL_DATA = 0x7FE00010
_SAMPLES, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280008, 0x00280010, 0x00280011
_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103


def pixel_data(
    reader: ElementReader, writer: ElementWriter, syntax: str, elements: Sequence[Element], element: Element
) -> bytes:
    """Pixel Data (7FE0,0010) written anew.

    :param syntax: transfer syntax UID. :param elements: all of the data set, which say how large the image is.
    :raises MalformedDataSet: the image does not say how large it is, or its pixels are of no kind that pixels have.
    :raises HiddenText: there is room for text that cannot be taken out.
    """
    vr = element.vr or "OW"
    if vr not in ("OB", "OW"):
        raise MalformedDataSet("the pixel data have no value representation of pixel data")
    image = _Image(reader.data, writer.order, {one.tag: one for one in elements})
    if element.undefined:
        if overlay_in_pixels(image.elements):
            raise HiddenText("an overlay lies in its compressed pixels, and may hold text")
        return _encapsulated(reader.data, writer, syntax, element.fragments or [], element.tag, vr)
    value = reader.data[element.start : min(element.end, element.start + image.octets())]
    allocated = image.number(_ALLOCATED)
    stored = image.number(_STORED, allocated)
    value = without_unused_bits(
        value,
        allocated=allocated,
        stored=stored,
        high=image.number(_HIGH_BIT, stored - 1),
        signed=image.number(_SIGNED, 0) == 1,
        # In OB a cell of 16 bits lies little endian, whatever the data set is in (PS3.5 section 8.2).
        little=writer.little or vr == "OB",
    )
    return writer.element(element.tag, vr, _even(value))


def _encapsulated(
    data: bytes, writer: ElementWriter, syntax: str, fragments: list[tuple[int, int]], tag: int, vr: str
) -> bytes:
    cleaned = without_comments([data[start:end] for start, end in fragments[1:]], syntax)
    items = [writer.item(_even(one)) for one in cleaned]
    starts = {start - fragments[1][0] for start, _ in fragments[1:]}
    table = data[slice(*fragments[0])] if fragments else b""
    if len(table) % 4 or not starts.issuperset(struct.unpack(f"<{len(table) // 4}I", table)):
        table = b""  # no table of offsets; readers do without
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return writer.element(tag, vr, writer.item(table) + b"".join(items) + end, undefined=True)


class _Image:
    """What the Image Pixel Module (PS3.3 C.7.6.3) says of its size."""

    def __init__(self, data: bytes, order: str, elements: dict[int, Element]) -> None:
        self._data = data
        self._short = struct.Struct(f"{order}H").unpack_from
        self.elements = elements

    def number(self, tag: int, default: int | None = None) -> int:
        """A value of US. :raises MalformedDataSet: absent, and there is no ``default``."""
        element = self.elements.get(tag)
        if element is None or element.end - element.start < 2:
            if default is None:
                raise MalformedDataSet("the image does not say how large it is")
            return default
        return int(self._short(self._data, element.start)[0])

    def octets(self) -> int:
        """How many bytes the native pixels need: what lies behind them is no image."""
        element = self.elements.get(_FRAMES)
        frames = b"" if element is None else self._data[element.start : element.end].strip(b" \0")
        if not (frames or b"1").isdigit():
            raise MalformedDataSet("the image does not say how large it is")
        cells = self.number(_ROWS) * self.number(_COLUMNS) * self.number(_SAMPLES, 1)
        return (cells * self.number(_ALLOCATED) * int(frames or b"1") + 7) // 8


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)
