"""What a vision-language model is shown: axial slices as pictures, in radiological convention, and the way back.

A picture is square, holds the whole brain, and shows the patient's right on its left and the front on top. Boxes are
[y0, x0, y1, x1] in thousandths of its side, as Gemma's family of models writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.experts.common.flair_baseline import salient_tumour
from inference.experts.common.slices import Window

__all__ = ["SCALE", "View", "brain_window", "key_slices", "picture"]

SCALE = 1000
MARGIN = 4

ThousandthBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """One axial slice. z: on the working grid. window: the part of it that the pictures show."""

    z: int
    window: Window

    def to_slice(self, box: ThousandthBox) -> tuple[float, float, float, float]:
        """A box of the picture -> (y0, x0, y1, x1) in slice pixels (RAS axes), upper edges exclusive."""
        y0, x0, y1, x1 = (v * self.window.side / SCALE for v in box)
        side = self.window.side
        return (
            self.window.y + side - y1,
            self.window.x + side - x1,
            self.window.y + side - y0,
            self.window.x + side - x0,
        )

    def to_picture(self, box: tuple[float, float, float, float], step: int = 1) -> ThousandthBox:
        """Inverse of `to_slice`, rounded to multiples of `step` thousandths."""
        side = self.window.side
        y0, x0, y1, x1 = (
            self.window.y + side - box[2],
            self.window.x + side - box[3],
            self.window.y + side - box[0],
            self.window.x + side - box[1],
        )
        values = [int(np.clip(round(v / side * SCALE / step) * step, 0, SCALE)) for v in (y0, x0, y1, x1)]
        return values[0], values[1], values[2], values[3]


def brain_window(brain: NDArray[np.bool_]) -> Window:
    """The square that holds the brain (z, y, x) in every axial slice, with a margin of 4 pixels."""
    rows, columns = np.flatnonzero(brain.any(axis=(0, 2))), np.flatnonzero(brain.any(axis=(0, 1)))
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1 + 2 * MARGIN
    return Window(round((rows[0] + rows[-1] + 1 - side) / 2), round((columns[0] + columns[-1] + 1 - side) / 2), side)


def key_slices(flair_z: NDArray[np.float32], brain: NDArray[np.bool_], count: int) -> list[int]:
    """At most `count` axial slices, evenly spread over the salient region and a little beyond, else over the brain."""
    salient = salient_tumour(flair_z, brain)
    filled = np.flatnonzero((salient if salient.any() else brain).any(axis=(1, 2)))
    inside = np.flatnonzero(brain.any(axis=(1, 2)))
    reach = 3 if salient.any() else 0
    first, last = max(int(filled[0]) - reach, int(inside[0])), min(int(filled[-1]) + reach, int(inside[-1]))
    return sorted({round(z) for z in np.linspace(first, last, min(count, last - first + 1))})


def picture(unit: NDArray[np.float32], channels: Sequence[int], view: View) -> NDArray[np.uint8]:
    """RGB (side, side, 3) of a slice of `unit` (c, z, y, x) in 0..1: three channels as colours, or one as grey."""
    cut = view.window.cut(unit[list(channels), view.z])[:, ::-1, ::-1]
    colours = np.repeat(cut, 3, axis=0) if len(channels) == 1 else cut
    return np.ascontiguousarray(np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
