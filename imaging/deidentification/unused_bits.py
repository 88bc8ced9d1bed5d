"""Bits of a pixel cell that hold no pixel: older scanners drew overlays there, with the patient's name (PS3.5 section 8.1.1,
retired with PS3.3 2004 C.9.2). Removing groups 60xx does not remove those."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

__all__ = ["overlay_in_pixels", "without_unused_bits"]


def without_unused_bits(
    value: bytes, *, allocated: int, stored: int, high: int, signed: bool, little: bool = True
) -> bytes:
    """Native pixel data with the unused bits zero, or the sign where the values are signed. No pixel changes.

    :param allocated: Bits Allocated; 8, 16 and 32 are looked at, any other has no unused bits. :param high: High Bit.
    """
    if allocated not in (8, 16, 32) or not 0 < stored < allocated or not stored - 1 <= high < allocated:
        return value
    kind = f"{'<' if little else '>'}{'i' if signed else 'u'}{allocated // 8}"
    whole = len(value) // (allocated // 8) * (allocated // 8)
    cells = np.frombuffer(value[:whole], dtype=kind)
    pixels = np.right_shift(np.left_shift(cells, allocated - 1 - high), allocated - stored)
    cleaned = np.left_shift(pixels, high + 1 - stored)
    if np.array_equal(cells, cleaned):
        return value
    return cleaned.astype(kind).tobytes() + value[whole:]


def overlay_in_pixels(tags: Collection[int]) -> bool:
    """Whether an overlay lies in the pixel cells: it has Overlay Rows (60xx,0010) and no Overlay Data (60xx,3000) of its own."""
    return any(
        0x6000 <= tag >> 16 <= 0x60FF and tag & 0xFFFF == 0x0010 and (tag >> 16 << 16 | 0x3000) not in tags
        for tag in tags
    )
