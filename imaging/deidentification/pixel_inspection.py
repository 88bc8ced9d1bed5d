"""Judging the pixels of one received instance: the table, the person who released it, and Tesseract where the table wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import apply_color_lut

from imaging.deidentification import burned_in_text
from imaging.deidentification.pixel_policy import PixelAction, PixelDecision

__all__ = ["apart_because", "frames_of"]

MOST_PIXELS = 1 << 28
_WHY = {
    "text": "text was seen in its pixels",
    "time": "its pixels could not be read in time",
    "unreadable": "its pixels could not be read",
}


def apart_because(data: bytes, decision: PixelDecision, beat: Callable[[], None]) -> str:
    """Why an instance stays in quarantine for its pixels; empty when nothing speaks against it.

    Every frame is read; frames with the same pixels once. One that shows text, or any doubt, is enough.

    :param data: the file as received. :param beat: called before each frame.
    """
    if decision.verdict == PixelAction.PASS:
        return ""
    if decision.verdict == PixelAction.QUARANTINE:
        return decision.reason
    if not burned_in_text.available():
        return f"{decision.reason}; only reading them could clear it, and Tesseract is not installed here"
    seen: set[bytes] = set()
    try:
        for frame in frames_of(data):
            digest = hashlib.sha256(np.ascontiguousarray(frame).tobytes()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            beat()
            look = burned_in_text.look_for_text(frame)
            if not look.clean:
                return f"{decision.reason}; {_WHY[look.why]}"
    except Exception:  # decoders raise anything, and their text may quote the data
        return f"{decision.reason}; {_WHY['unreadable']}"
    return ""


def frames_of(data: bytes) -> Iterator[NDArray[np.generic]]:
    """Each frame of a DICOM file: (rows, columns) or (rows, columns, 3), palettes applied.

    :raises ValueError: no pixels, or more than 2**28 of them.
    """
    dataset = dcmread(BytesIO(data))
    samples = int(dataset.get("SamplesPerPixel") or 1)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if int(dataset.Rows) * int(dataset.Columns) * samples * frames > MOST_PIXELS:
        raise ValueError("too many pixels to read")
    array = np.asarray(dataset.pixel_array)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        array = np.asarray(apply_color_lut(array, dataset))
        samples = 3
    if array.ndim == (2 if samples == 1 else 3):
        array = array[np.newaxis]
    yield from array
