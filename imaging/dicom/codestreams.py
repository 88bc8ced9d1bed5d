"""Compressed frames before any decoder sees them: where each begins, and how large it says that it is.

A decoder takes memory and time for the size that stands in the code stream, not in the data set: a JPEG of one kilobyte may
claim 65,535 x 65,535 pixels. So the two must agree (PS3.5 section 8.2).

Sources: ISO/IEC 10918-1 B.2.2 (JPEG), 14495-1 C.2.2 (JPEG-LS), 15444-1 A.5.1 and 15444-15 (JPEG 2000); PS3.5 Annex G (RLE).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imaging.dicom.transfer_syntaxes import JPEG_FAMILY, RLE

__all__ = ["ALONE", "END", "SCAN", "is_jp2", "size_of", "streams", "wrong_size"]

_JP2 = b"\0\0\0\x0cjP  "  # a file around the code stream, against PS3.5 section A.4.4; some toolkits wrote it
_BEGIN = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", _JP2)
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, SOF55
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
SCAN, END, _HIERARCHICAL = 0xDA, 0xD9, 0xDE


def streams(fragments: Iterable[bytes | memoryview]) -> list[list[bytes | memoryview]]:
    """Fragments (PS3.5 section A.4) by the code stream they belong to; each begins where a fragment begins with its marker.

    :raises ValueError: the first fragment is no beginning.
    """
    found: list[list[bytes | memoryview]] = []
    for fragment in fragments:
        if bytes(fragment[:8]).startswith(_BEGIN):
            found.append([])
        elif not found:
            raise ValueError("no code stream")
        found[-1].append(fragment)
    return found


def is_jp2(stream: bytes | bytearray | memoryview) -> bool:
    """Whether it is a JP2 file, whose other boxes may hold text, instead of a code stream."""
    return bytes(stream[:8]) == _JP2


def size_of(stream: bytes | memoryview) -> tuple[int, int, int] | None:
    """Columns, rows and components that a code stream says it has; None where it does not say one size."""
    if is_jp2(stream):
        stream = _inside_jp2(stream)
    if bytes(stream[:4]) == _BEGIN[1]:
        return _size_of_jpeg_2000(stream)
    if bytes(stream[:3]) != _BEGIN[0]:
        return None
    found, position = None, 2
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in ALONE:
            position += 2
            continue
        length = _number(stream, position + 2, 2)
        if marker in (SCAN, END):
            return found
        if marker == _HIERARCHICAL or length < 2 or position + 2 + length > len(stream):
            return None
        if marker in _FRAME_HEADERS:
            if found is not None or length < 8:
                return None
            found = _number(stream, position + 7, 2), _number(stream, position + 5, 2), int(stream[position + 9])
        position += 2 + length
    return None


def _size_of_jpeg_2000(stream: bytes | memoryview) -> tuple[int, int, int] | None:
    if len(stream) < 42:
        return None
    right, bottom, left, top = (_number(stream, place, 4) for place in (8, 12, 16, 20))
    return right - left, bottom - top, _number(stream, 40, 2)


def _inside_jp2(stream: bytes | memoryview) -> bytes | memoryview:
    """The code stream of a JP2 file (ISO/IEC 15444-1 I.4); empty where there is none."""
    position = 0
    while position + 8 <= len(stream):
        length = _number(stream, position, 4)
        if bytes(stream[position + 4 : position + 8]) == b"jp2c":
            return stream[position + (16 if length == 1 else 8) :]
        if length < 8:
            break
        position += length
    return b""


def _number(stream: bytes | memoryview, place: int, size: int) -> int:
    return int.from_bytes(stream[place : place + size], "big")


def wrong_size(
    fragments: Sequence[bytes | memoryview], syntax: str, *, columns: int, rows: int, samples: int, bits: int
) -> bool:
    """Whether any frame says another size than the data set, or (RLE) is longer than such a frame can become.

    :param fragments: without the Basic Offset Table. :param bits: allocated for a sample.
    """
    if syntax == RLE:
        # The worst packing adds one byte to 128, and a segment its padding (PS3.5 section G.3).
        most = 64 + samples * ((bits + 7) // 8) * (columns * rows * 129 // 128 + rows + 4)
        return any(len(one) > most for one in fragments)
    if syntax not in JPEG_FAMILY:
        return False
    try:
        found = streams(fragments)
    except ValueError:
        return True
    return any(size_of(one[0] if len(one) == 1 else b"".join(one)) != (columns, rows, samples) for one in found)
