"""Text burned into pixels: is there any? Three opinions, and each alone keeps an image apart: rows of shapes like letters, a
small network that knows lettering when it sees it (`textnet`), and Tesseract, which reads several views of a frame.

Nothing that was read leaves this module: a word in a picture may be a name. The binary ``tesseract`` is optional; without it
nobody has looked, and the caller keeps the image apart.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytesseract
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from imaging.deidentification import lettering_network

os.environ.setdefault("OMP_THREAD_LIMIT", "1")  # one frame, one core: the machine's other processes go on
__all__ = ["SECONDS_PER_FRAME", "TextInspection", "available", "look_for_text"]

SECONDS_PER_FRAME = 60.0
SIDE = (
    640  # pixels that the longer side of a frame is brought to, enlarged twice at least: capitals of 8 pixels become 16
)
SURE = 78.0  # confidence (0 to 100) of Tesseract that alone says text; real slices without text stay below
LIKELY = 55.0  # that says text where two views read something in the same place
ROW = 7  # shapes like letters in one row that are taken for text, whatever they spell
_WORD = re.compile(r"[^\W_]{4,}")
_DIGITS = re.compile(r"\d.*\d.*\d")
_CONFIG = "--oem 1 --psm 11"


@dataclass(frozen=True)
class TextInspection:
    """What became of looking at one frame.

    :param clean: every view was read in time, and nothing that looks like a word was found in any.
    :param why: where not clean: ``text``, ``time`` (not finished) or ``unreadable``.
    """

    clean: bool
    why: str = ""


@dataclass(frozen=True)
class _Word:
    box: tuple[int, int, int, int]
    confidence: float
    view: int


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether the ``tesseract`` binary is installed."""
    return shutil.which("tesseract") is not None


def look_for_text(frame: NDArray[np.generic], *, seconds: float = SECONDS_PER_FRAME) -> TextInspection:
    """Whether one frame shows text: upright, on its side or upside down, light or dark, in bright or dark surroundings.

    :param frame: (rows, columns) or (rows, columns, 3).
    :param seconds: for all views together; a frame that takes longer is not clean.
    """
    deadline = time.monotonic() + seconds
    grey = _grey(frame)
    if grey is None:
        return TextInspection(False, "unreadable")
    if float(grey.max()) - float(grey.min()) < 1e-6:
        return TextInspection(True)
    if _row_of_shapes(grey) or lettering_network.lettering(_shown(grey)) >= lettering_network.THRESHOLD:
        return TextInspection(False, "text")
    for turns in (0, 1, 3, 2):
        words: list[_Word] = []
        for number, view in enumerate(_views(np.rot90(grey, turns))):
            left = deadline - time.monotonic()
            if left <= 0.1:
                return TextInspection(False, "time")
            try:
                words += _read(view, number, left)
            except RuntimeError:  # pytesseract's way to say that the time was over
                return TextInspection(False, "time")
            except (pytesseract.TesseractError, OSError):
                return TextInspection(False, "unreadable")
            if _says_text(words):
                return TextInspection(False, "text")
    return TextInspection(True)


def _grey(frame: NDArray[np.generic]) -> NDArray[np.float32] | None:
    """float32 0 to 1, colours joined by the strongest channel; None for what is no picture."""
    values = np.asarray(frame, dtype=np.float32)
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[:, :, :3].max(axis=2)
    if values.ndim != 2 or not values.size or not np.all(np.isfinite(values)):
        return None
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-9)


def _shown(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Up to its brightest half per cent, as a viewer shows it."""
    return np.clip(grey / max(float(np.percentile(grey, 99.5)), 1e-3), 0, 1)


def _bright_and_dark(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The frame up to its brightest half per cent, and what is brighter and darker than everything within four pixels of it:
    strokes of letters, whatever lies behind them."""
    shown = _shown(grey)
    return shown, shown - ndimage.grey_opening(shown, size=9), ndimage.grey_closing(shown, size=9) - shown


def _views(grey: NDArray[np.float32]) -> Iterator[NDArray[np.uint8]]:
    """The pictures that are read, dark on white: everything, from dark to bright and the other way round, and what differs from
    its surroundings with the contrast evened out, so that grey on grey stands out like black on white."""
    factor = min(max(SIDE / max(grey.shape), 1.5), 4.0, 2048 / max(grey.shape))
    large = np.clip(ndimage.zoom(grey, factor, order=3), 0, 1).astype(np.float32)
    low, high = np.percentile(large, (1, 99))
    shown = np.clip((large - low) / max(high - low, 1e-3), 0, 1)
    sigma = 6.0 * factor
    centred = shown - ndimage.gaussian_filter(shown, sigma)
    spread = np.sqrt(ndimage.gaussian_filter(centred**2, sigma)) + 0.02
    evened = np.clip(0.5 - centred / spread / 5, 0, 1)
    for picture in (1 - large, evened, 1 - evened):
        yield (255 * picture).astype(np.uint8)


def _row_of_shapes(grey: NDArray[np.float32]) -> bool:
    """Whether shapes of one height stand in a row, upright or on its side: a line of text in whatever script."""
    _, bright, dark = _bright_and_dark(grey)
    masks = [grey >= 0.9, bright > 0.2, bright > 0.4, dark > 0.2, dark > 0.4]
    return any(_longest_row(one) >= ROW for mask in masks for one in (mask, mask.T))


def _longest_row(mask: NDArray[np.bool_]) -> int:
    labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count < ROW:
        return 0
    areas = np.bincount(labelled.ravel())[1:]
    shapes = []
    for box, area in zip(ndimage.find_objects(labelled), areas, strict=True):
        height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
        if 5 <= height <= 60 and width <= 1.6 * height and area >= max(0.18 * height * width, 0.9 * height):
            shapes.append((box[1].start, box[0].stop, width, height))
    shapes.sort()
    longest = 0
    for index, (left, foot, width, height) in enumerate(shapes):
        run, behind = 1, left + width
        for left2, foot2, width2, height2 in shapes[index + 1 :]:
            if left2 > behind + 1.2 * height:
                break
            same = abs(foot2 - foot) <= max(1, 0.12 * height) and abs(height2 - height) <= max(1, 0.2 * height)
            if same and left2 >= behind - 1:
                run, behind = run + 1, left2 + width2
        longest = max(longest, run)
    return longest


def _read(view: NDArray[np.uint8], number: int, seconds: float) -> list[_Word]:
    found = pytesseract.image_to_data(
        Image.fromarray(view), config=_CONFIG, output_type=pytesseract.Output.DICT, timeout=max(seconds, 0.1)
    )
    return [
        _Word((left, top, left + width, top + height), float(confidence), number)
        for text, confidence, left, top, width, height in zip(
            found["text"], found["conf"], found["left"], found["top"], found["width"], found["height"], strict=True
        )
        if _WORD.search(text) or _DIGITS.search(text)
    ]


def _says_text(words: list[_Word]) -> bool:
    if any(word.confidence >= SURE for word in words):
        return True
    likely = [word for word in words if word.confidence >= LIKELY]
    return any(
        one.view != other.view and _overlap(one.box, other.box) > 0.5
        for index, one in enumerate(likely)
        for other in likely[index + 1 :]
    )


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Common area as a share of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height / smaller if width > 0 and height > 0 and smaller else 0.0
