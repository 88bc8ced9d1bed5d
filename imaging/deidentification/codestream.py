"""Comments inside compressed images: JPEG, JPEG-LS and JPEG 2000 code streams can hold text beside the picture.

The text is overwritten where it lies, so that offsets and the picture stay as they are (ISO/IEC 10918-1 B.1, 14495-1 C.1,
15444-1 A.9).
"""

from __future__ import annotations

__all__ = ["without_comments"]

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_J2K_COMMENT, _J2K_TILE = 0x64, 0x90


def without_comments(fragment: bytes) -> bytes:
    """``fragment`` with the contents of comment and application segments zeroed, and zeros behind the end of the image.

    Anything but the beginning of a JPEG family code stream is returned as it is. Length never changes.
    """
    if fragment.startswith(_JPEG):
        return _jpeg(fragment)
    if fragment.startswith(_JPEG_2000):
        return _jpeg_2000(fragment)
    return fragment


def _jpeg(fragment: bytes) -> bytes:
    changed = bytearray(fragment)
    position = 2
    while position + 4 <= len(changed) and changed[position] == 0xFF:
        marker = changed[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        length = int.from_bytes(changed[position + 2 : position + 4], "big")
        behind = position + 2 + length
        if length < 2 or behind > len(changed) or marker in (_SCAN, _END):
            break
        if marker == _COMMENT or (0xE0 <= marker <= 0xEF and not _needed(marker, changed[position + 4 : behind])):
            changed[position + 4 : behind] = bytes(behind - position - 4)
        position = behind
    return _zero_behind(changed)


def _needed(marker: int, content: bytearray) -> bool:
    """Application segments that say how colours are coded: JFIF's without a thumbnail, Adobe's, and HP's of JPEG-LS."""
    jfif = marker == 0xE0 and len(content) == 14 and content.startswith(b"JFIF\0")
    adobe = marker == 0xEE and len(content) == 12 and content.startswith(b"Adobe")
    hp = marker == 0xE8 and len(content) == 5 and content.startswith(b"mrfx")
    return jfif or adobe or hp


def _jpeg_2000(fragment: bytes) -> bytes:
    changed = bytearray(fragment)
    position = 2
    while position + 4 <= len(changed) and changed[position] == 0xFF and changed[position + 1] != _J2K_TILE:
        length = int.from_bytes(changed[position + 2 : position + 4], "big")
        behind = position + 2 + length
        if length < 2 or behind > len(changed):
            break
        if changed[position + 1] == _J2K_COMMENT and length > 4:
            changed[position + 6 : behind] = bytes(behind - position - 6)
        position = behind
    return _zero_behind(changed)


def _zero_behind(changed: bytearray) -> bytes:
    """What lies behind the end marker (the last one) is no image."""
    end = changed.rfind(b"\xff\xd9")
    if end >= 0:
        changed[end + 2 :] = bytes(len(changed) - end - 2)
    return bytes(changed)
