"""What the small SAM 2 learns from: windows of slices in three directions, each with two prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.common.flair_baseline import salient_tumour
from inference.experts.common.slices import CHANNELS, Box, Window, box_of, slice_boxes, to_unit, window_for
from inference.training.common.preprocess import PreparedCase

__all__ = ["LOSS_SIZE", "MEAN", "STD", "Batch", "SliceCase", "SliceSampler", "slice_case"]

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]  # those of sam2's SAM2Transforms
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
LOSS_SIZE = 128


@dataclass(frozen=True)
class SliceCase:
    """unit (3, z, y, x) float16 in 0..1; labels (z, y, x); boxes[axis][index] as the expert would draw them."""

    unit: NDArray[np.float16]
    labels: NDArray[np.int8]
    boxes: tuple[dict[int, Box], dict[int, Box], dict[int, Box]]
    tumour: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


def slice_case(case: PreparedCase) -> SliceCase:
    """Saliency and boxes of one preprocessed case."""
    data = case.data.astype(np.float32)
    brain = (data != 0).any(axis=0)
    stack = data[[PANEL_SEQUENCES.index(c) for c in CHANNELS]]
    salient = salient_tumour(stack[0], brain)
    b = (slice_boxes(salient, 0), slice_boxes(salient, 1), slice_boxes(salient, 2))
    whole = case.labels > 0
    t = (
        np.flatnonzero(whole.any(axis=(1, 2))),
        np.flatnonzero(whole.any(axis=(0, 2))),
        np.flatnonzero(whole.any(axis=(0, 1))),
    )
    return SliceCase(to_unit(stack, brain).astype(np.float16), case.labels, b, t)


@dataclass
class Batch:
    """images (n, 3, s, s) normalised; regions (n, 3, t, t) WT, TC, ET; one interactive target (n, 1, t, t).

    Prompts are point tokens as sam2 encodes them: coordinates in pixels (n, p, 2) as (x, y), labels (n, p) with
    2 and 3 for box corners, 1 and 0 for clicks, -1 for padding.
    """

    images: torch.Tensor
    regions: torch.Tensor
    target: torch.Tensor
    auto: tuple[torch.Tensor, torch.Tensor]
    interactive: tuple[torch.Tensor, torch.Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            self.images.to(device),
            self.regions.to(device),
            self.target.to(device),
            (self.auto[0].to(device), self.auto[1].to(device)),
            (self.interactive[0].to(device), self.interactive[1].to(device)),
        )


class SliceSampler:
    """Draws batches of windows from slices in all three directions."""

    def __init__(self, cases: list[SliceCase], image_size: int, seed: int) -> None:
        self.cases = cases
        self.with_tumour = [c for c in cases if c.tumour[0].size]
        self.without = [c for c in cases if not c.tumour[0].size and c.boxes[0]]
        if not self.with_tumour:
            raise ValueError("no training case has a tumour")
        self.size = image_size
        self.rng = np.random.default_rng(seed)

    def batch(self, n: int) -> Batch:
        """n windows with their prompts."""
        parts = [self._one() for _ in range(n)]
        return Batch(
            torch.stack([p[0] for p in parts]),
            torch.stack([p[1] for p in parts]),
            torch.stack([p[2] for p in parts]),
            (torch.stack([p[3] for p in parts]), torch.tensor([[2, 3]] * n, dtype=torch.int32)),
            (torch.stack([p[4] for p in parts]), torch.stack([p[5] for p in parts])),
        )

    def _jitter(self, box: Box, share: float) -> Box:
        width, height = box[2] - box[0], box[3] - box[1]
        moves = self.rng.uniform(-share, share, 4) * (width, height, width, height)
        x0, y0, x1, y1 = (b + m for b, m in zip(box, moves, strict=True))
        return min(x0, x1 - 2), min(y0, y1 - 2), max(x1, x0 + 2), max(y1, y0 + 2)

    def _one(self) -> tuple[torch.Tensor, ...]:
        rng = self.rng
        axis = int(rng.integers(3))
        empty = bool(self.without) and rng.random() < 0.22
        pool = self.without if empty else self.with_tumour
        case = pool[rng.integers(len(pool))]
        boxes = case.boxes[axis]
        from_saliency = bool(boxes) and (empty or rng.random() < 0.55)
        if from_saliency:
            keys = list(boxes)
            index = keys[rng.integers(len(keys))]
        else:
            index = int(case.tumour[axis][rng.integers(case.tumour[axis].size)]) if case.tumour[axis].size else 0
        image = np.moveaxis(case.unit, axis + 1, 1)[:, index].astype(np.float32)
        labels = np.moveaxis(case.labels, axis, 0)[index]
        box = boxes[index] if from_saliency else (box_of(labels > 0) or (0.0, 0.0, 20.0, 20.0))
        box = self._jitter(box, 0.08 if from_saliency else 0.18)
        window = window_for(box)
        shift = rng.integers(-6, 7, 2)
        window = Window(window.y + int(shift[0]), window.x + int(shift[1]), int(window.side * rng.uniform(1.0, 1.15)))
        picture = self.looks(window.cut(image))
        part = window.cut(labels[None].astype(np.float32))[0].astype(np.int8)
        box = (box[0] - window.x, box[1] - window.y, box[2] - window.x, box[3] - window.y)
        for flip_axis in (0, 1):
            if rng.random() < 0.5:
                picture, part = np.flip(picture, flip_axis + 1), np.flip(part, flip_axis)
                s = window.side
                box = (
                    (box[0], s - box[3], box[2], s - box[1])
                    if flip_axis == 0
                    else (s - box[2], box[1], s - box[0], box[3])
                )
        regions = np.stack([part > 0, (part == 1) | (part == 3), part == 3])
        target, coordinates, kinds = self._interactive(regions, part)
        scale = self.size / window.side
        x = torch.from_numpy(np.ascontiguousarray(picture))[None]
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)[0]
        masks = torch.from_numpy(np.concatenate([regions, target[None]]).astype(np.float32))[None]
        masks = F.interpolate(masks, (LOSS_SIZE, LOSS_SIZE), mode="bilinear", align_corners=False)[0]
        corners = torch.tensor([[box[0], box[1]], [box[2], box[3]]], dtype=torch.float32) * scale
        return (
            (x - MEAN) / STD,
            masks[:3],
            masks[3:],
            corners,
            torch.from_numpy(coordinates).float() * scale,
            torch.from_numpy(kinds),
        )

    def _interactive(
        self, regions: NDArray[np.bool_], part: NDArray[np.int8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int32]]:
        """A target and its prompt."""
        rng = self.rng
        side = part.shape[0]
        candidates = [m for m in (*regions, part == 1, part == 2) if m.sum() >= 6]
        if not candidates or rng.random() < 0.12:
            centre, radius = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(3, side / 4, 2)
            rows, columns = np.mgrid[:side, :side]
            target = ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 <= 1
        else:
            target = candidates[rng.integers(len(candidates))]
        return (target, *self._prompt(target))

    def prompt_for(self, target: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
        """A prompt for an object on a picture: coordinates (4, 2) in its pixels, kinds (4)."""
        coordinates, kinds = self._prompt(target)
        return torch.from_numpy(coordinates).float(), torch.from_numpy(kinds)

    def _prompt(self, target: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """A jittered box or not, then clicks inside and outside; four tokens, padded."""
        rng = self.rng
        coordinates = np.zeros((4, 2), np.float32)
        kinds = np.full(4, -1, np.int32)
        used = 0
        box = box_of(target)
        if box is not None and rng.random() < 0.7:
            x0, y0, x1, y1 = self._jitter(box, 0.17)
            coordinates[:2], kinds[:2] = [[x0, y0], [x1, y1]], [2, 3]
            used = 2
        while used < (3 if rng.random() < 0.7 else 4):
            positive = used in (0, 2) or rng.random() < 0.5
            where = np.argwhere(target if positive else ~target)
            row, column = where[rng.integers(len(where))]
            coordinates[used], kinds[used] = (column + 0.5, row + 0.5), int(positive)
            used += 1
        return coordinates, kinds

    def looks(self, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """Brightness, contrast and noise drawn anew; pictures (..., 3, h, w) in 0..1 of one study get the same."""
        rng = self.rng
        inside = (pictures > 0).any(axis=-3, keepdims=True)
        out = pictures * rng.uniform(0.85, 1.15, (3, 1, 1)) + rng.uniform(-0.06, 0.06, (3, 1, 1))
        out = np.clip(out, 0, 1) ** np.exp(rng.uniform(-0.25, 0.25, (3, 1, 1)))
        if rng.random() < 0.3:
            out = out + rng.normal(0, rng.uniform(0.005, 0.03), out.shape)
        if rng.random() < 0.04:
            out[..., int(rng.integers(3)), :, :] = 0
        result: NDArray[np.float32] = np.where(inside, np.clip(out, 0, 1), 0).astype(np.float32)
        return result
