"""Transfer syntaxes that are taken, kept and offered here (PS3.5 section 10, Annex A), and what each is called on the web."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "ACCEPTED",
    "EXPLICIT_LITTLE",
    "FRAME_MEDIA_TYPES",
    "IMPLICIT_LITTLE",
    "JPEG_2000",
    "JPEG_FAMILY",
    "NATIVE_LITTLE",
    "RLE",
]

_ROOT = "1.2.840.10008.1.2"
IMPLICIT_LITTLE: Final = _ROOT
EXPLICIT_LITTLE: Final = f"{_ROOT}.1"
_EXPLICIT_BIG: Final = f"{_ROOT}.2"
RLE: Final = f"{_ROOT}.5"
NATIVE_LITTLE: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""Uncompressed, as every implementation reads them. For what holds no pixels, and for associations that we open: without
Deflated, which libraries propose too, an answer cannot unpack without a limit."""
ACCEPTED: Final = (
    *NATIVE_LITTLE,
    _EXPLICIT_BIG,
    RLE,
    f"{_ROOT}.4.70",  # JPEG Lossless, first-order prediction
    f"{_ROOT}.4.57",  # JPEG Lossless
    f"{_ROOT}.4.80",  # JPEG-LS Lossless
    f"{_ROOT}.4.81",  # JPEG-LS near-lossless
    f"{_ROOT}.4.90",  # JPEG 2000 Lossless
    f"{_ROOT}.4.91",  # JPEG 2000
    f"{_ROOT}.4.50",  # JPEG Baseline
    f"{_ROOT}.4.51",  # JPEG Extended
    f"{_ROOT}.4.201",  # High-Throughput JPEG 2000 Lossless
    f"{_ROOT}.4.202",  # High-Throughput JPEG 2000 with RPCL Options, Lossless
    f"{_ROOT}.4.203",  # High-Throughput JPEG 2000
)
"""Of images that are sent to us, in the order of preference: the first that a sender proposes too is taken. Deflated is left
out on purpose: it would let a small data set unpack without a limit."""
FRAME_MEDIA_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys((f"{_ROOT}.4.{number}" for number in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"{_ROOT}.4.{number}" for number in (80, 81)), "image/jls"),
    **dict.fromkeys((f"{_ROOT}.4.{number}" for number in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"{_ROOT}.4.{number}" for number in (201, 202, 203)), "image/jphc"),
    RLE: "image/dicom-rle",
}
"""Media type of a compressed frame (PS3.18 Table 8.7.3-5); uncompressed ones are octets."""
JPEG_2000: Final = frozenset(uid for uid, media in FRAME_MEDIA_TYPES.items() if media in ("image/jp2", "image/jphc"))
"""ISO/IEC 15444-1 and 15444-15."""
JPEG_FAMILY: Final = frozenset(FRAME_MEDIA_TYPES) - {RLE}
"""Frames are code streams with markers: JPEG, JPEG-LS, JPEG 2000."""
