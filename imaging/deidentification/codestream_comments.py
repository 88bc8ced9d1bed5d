"""Comments inside compressed images: JPEG, JPEG-LS and JPEG 2000 code streams can hold text beside the picture.

The text is overwritten where it lies, so that offsets and the picture stay as they are (ISO/IEC 10918-1 B.1, 14495-1 C.1,
15444-1 A.9).
"""

from __future__ import annotations

from collections.abc import Sequence

from imaging.dicom.codestreams import ALONE, END, SCAN, is_jp2, streams
from imaging.dicom.transfer_syntaxes import JPEG_2000, JPEG_FAMILY

__all__ = ["HiddenText", "without_comments"]

_COMMENT = 0xFE
_J2K_COMMENT, _J2K_TILE, _J2K_DATA = 0x64, 0x90, 0x93


class HiddenText(ValueError):
    """Text may lie where this module cannot find it. The message holds nothing of the image."""


def without_comments(fragments: Sequence[bytes], syntax: str) -> list[bytes]:
    """``fragments`` with the contents of comment and application segments zeroed, and zeros behind the end of each image.

    A frame may be cut into fragments anywhere: segments are looked for in the whole of it. Lengths never change. Fragments of
    other transfer syntaxes than the JPEG family's are returned as they are.

    :raises HiddenText: no code stream, one that cannot be walked to its end, or a JP2 file.
    """
    if syntax not in JPEG_FAMILY:
        return list(fragments)
    try:
        frames = streams(fragments)
    except ValueError:
        raise HiddenText("its compressed pixels are no code stream") from None
    cleaned: list[bytes] = []
    for frame in frames:
        whole = bytearray(b"".join(frame))
        if is_jp2(whole):
            raise HiddenText("its compressed pixels are a JP2 file, which may hold text")
        if syntax in JPEG_2000:
            _jpeg_2000(whole)
        else:
            _jpeg(whole)
        place = 0
        for fragment in frame:
            cleaned.append(bytes(whole[place : place + len(fragment)]))
            place += len(fragment)
    return cleaned


def _length(changed: bytearray, position: int) -> int:
    """Of the segment whose marker is at ``position``. :raises HiddenText: it does not fit."""
    length = int.from_bytes(changed[position + 2 : position + 4], "big")
    if length < 2 or position + 2 + length > len(changed):
        raise HiddenText("its compressed pixels contradict themselves")
    return length


def _jpeg(changed: bytearray) -> None:
    position = 2
    while position + 2 <= len(changed):
        if changed[position] != 0xFF:
            raise HiddenText("its compressed pixels contradict themselves")
        marker = changed[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == END:
            changed[position + 2 :] = bytes(len(changed) - position - 2)
            return
        if marker in ALONE:
            position += 2
            continue
        behind = position + 2 + _length(changed, position)
        if marker == _COMMENT or (0xE0 <= marker <= 0xEF and not _needed(marker, changed[position + 4 : behind])):
            changed[position + 4 : behind] = bytes(behind - position - 4)
        position = _behind_scan(changed, behind) if marker == SCAN else behind
    # Cut short: decoders make do, and everything in it was looked at.


def _behind_scan(changed: bytearray, position: int) -> int:
    """The next marker after coded data, in which 0xFF is followed by 0 (JPEG), by less than 0x80 (JPEG-LS) or by a restart."""
    while (position := changed.find(0xFF, position)) >= 0 and position + 1 < len(changed):
        following = changed[position + 1]
        if following >= 0x80 and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return position
        position += 1 if following == 0xFF else 2
    return len(changed)


def _needed(marker: int, content: bytearray) -> bool:
    """Application segments that say how colours are coded: JFIF's without a thumbnail, Adobe's, and HP's of JPEG-LS."""
    jfif = marker == 0xE0 and len(content) == 14 and content.startswith(b"JFIF\0")
    adobe = marker == 0xEE and len(content) == 12 and content.startswith(b"Adobe")
    hp = marker == 0xE8 and len(content) == 5 and content.startswith(b"mrfx")
    return jfif or adobe or hp


def _jpeg_2000(changed: bytearray) -> None:
    """Main header and the header of every tile-part (ISO/IEC 15444-1 A.3, A.4.2)."""
    position, tile_end = 2, 0
    while position + 2 <= len(changed):
        if changed[position] != 0xFF:
            raise HiddenText("its compressed pixels contradict themselves")
        marker = changed[position + 1]
        if marker == END:
            changed[position + 2 :] = bytes(len(changed) - position - 2)
            return
        if marker == _J2K_DATA:
            if tile_end <= position:  # the last tile-part: to the end of the code stream
                _zero_behind(changed)
                return
            position = tile_end
            continue
        length = _length(changed, position)
        if marker == _J2K_TILE:
            size = int.from_bytes(changed[position + 6 : position + 10], "big")
            tile_end = position + size if size else 0
            if tile_end > len(changed):  # cut short: decoders make do
                tile_end = len(changed)
        elif marker == _J2K_COMMENT and length > 4:
            changed[position + 6 : position + 2 + length] = bytes(length - 4)
        position += 2 + length


def _zero_behind(changed: bytearray) -> None:
    """What lies behind the end marker (the last one) is no image."""
    end = changed.rfind(b"\xff\xd9")
    if end >= 0:
        changed[end + 2 :] = bytes(len(changed) - end - 2)
