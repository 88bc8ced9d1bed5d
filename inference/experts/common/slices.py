"""From a volume to square pictures of its slices and back: shared by the experts that look at slices and their training.

A model sees three channels (FLAIR, T1c, T1) of one slice in 0..1, cut as a square window around a box. Volumes are at
2 mm isotropic here; a window is at least 64 voxels wide, so that one pixel of the mask decoder's output (a quarter of
the image's resolution) is about one voxel. Boxes are (x0, y0, x1, y1) in slice pixels, upper corner exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.experts.contract import Volumes
from oncoflow_site.foundation.errors import required

__all__ = [
    "CHANNELS",
    "MAXIMUM_WINDOW",
    "WORKING_SPACING",
    "Box",
    "Window",
    "box_of",
    "resize",
    "slice_boxes",
    "to_unit",
    "window_for",
    "working_grid",
]

CHANNELS: tuple[str, str, str] = ("FLAIR", "T1c", "T1")
WORKING_SPACING = 2.0
MINIMUM_WINDOW = 64
MAXIMUM_WINDOW = 128
UNIT_LOW, UNIT_HIGH = -2.5, 4.5

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Window:
    """A square part of a slice: top-left corner (y, x), may lie outside the slice, and its side in pixels."""

    y: int
    x: int
    side: int

    def cut(self, image: NDArray[np.float32], fill: float = 0.0) -> NDArray[np.float32]:
        """image (c, h, w) -> (c, side, side), `fill` where the window leaves the slice."""
        out = np.full((image.shape[0], self.side, self.side), fill, image.dtype)
        height, width = image.shape[1:]
        y0, x0 = max(self.y, 0), max(self.x, 0)
        y1, x1 = min(self.y + self.side, height), min(self.x + self.side, width)
        if y1 > y0 and x1 > x0:
            out[:, y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x] = image[:, y0:y1, x0:x1]
        return out

    def inside(self, box: Box) -> Box:
        """A box of the slice in the window's own pixels."""
        return box[0] - self.x, box[1] - self.y, box[2] - self.x, box[3] - self.y

    def paste(self, target: NDArray[np.float32], part: NDArray[np.float32]) -> None:
        """Write part (c, side, side) into target (c, h, w) where they overlap."""
        height, width = target.shape[1:]
        y0, x0 = max(self.y, 0), max(self.x, 0)
        y1, x1 = min(self.y + self.side, height), min(self.x + self.side, width)
        if y1 > y0 and x1 > x0:
            target[:, y0:y1, x0:x1] = part[:, y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x]


def to_unit(z: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """z-scores -> 0..1 as the model's image values; 0 outside the brain."""
    out = np.clip((z - UNIT_LOW) / (UNIT_HIGH - UNIT_LOW), 0.0, 1.0).astype(np.float32)
    out[..., ~brain] = 0.0
    return out


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """Bounding box of a 2D mask, or None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def window_for(box: Box) -> Window:
    """The window for a box: centred on it, a quarter wider, within the size limits."""
    side = int(np.clip(np.ceil(max(box[2] - box[0], box[3] - box[1]) * 1.25), MINIMUM_WINDOW, MAXIMUM_WINDOW))
    return Window(round((box[1] + box[3]) / 2 - side / 2), round((box[0] + box[2]) / 2 - side / 2), side)


def slice_boxes(salient: NDArray[np.bool_], axis: int, margin: int = 4) -> dict[int, Box]:
    """One box for each slice along `axis` that may hold tumour: of the saliency on it and its neighbours.

    Slices within `margin` beyond the salient region get the box of its last slice, because oedema fades at the ends.
    """
    moved = np.moveaxis(salient, axis, 0)
    indices = np.flatnonzero(moved.any(axis=(1, 2)))
    if indices.size == 0:
        return {}
    boxes: dict[int, Box] = {}
    first, last = int(indices[0]), int(indices[-1])
    for index in range(max(0, first - margin), min(moved.shape[0], last + margin + 1)):
        nearest = int(np.clip(index, first, last))
        low, high = max(nearest - 1, 0), nearest + 2
        box = box_of(np.any(moved[low:high], axis=0, keepdims=True)[0])
        boxes[index] = box if box is not None else _whole(moved)
    return boxes


def _whole(moved: NDArray[np.bool_]) -> Box:
    return required(box_of(np.any(moved, axis=0, keepdims=True)[0]), "the box of an outline")


def resize(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(c, z, y, x) to `shape` (z, y, x) by trilinear interpolation of cell centres, as nnU-Net's resample_torch does."""
    if array.shape[1:] == tuple(shape):
        return array
    import torch

    moved = torch.nn.functional.interpolate(torch.from_numpy(array)[None], tuple(shape), mode="trilinear")[0]
    resized: NDArray[np.float32] = moved.numpy()
    return resized


def working_grid(z: NDArray[np.float32], volumes: Volumes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """z-scores (c, z, y, x) of a study and its brain mask on the working grid.

    z-scored on the study's own grid and then resampled: the order in which nnU-Net prepares a case, and so training.
    """
    shape = tuple(max(1, round(n * s / WORKING_SPACING)) for n, s in zip(volumes.shape, volumes.spacing, strict=True))
    brain = resize(volumes.brain_mask[None].astype(np.float32), shape)[0] > 0.5
    return resize(z, shape), brain
