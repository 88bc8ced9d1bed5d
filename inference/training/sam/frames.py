"""The second stage of the small SAM 2: one object, prompted on one slice, followed over its neighbours as frames of a film.

Memory attention and memory encoder learn only here. A step runs the network as the package's own training does: the image
encoder over all frames at once, then frame after frame with what the memory holds of those before, gradients through it.
Method: Ravi et al., SAM 2, arXiv 2408.00714, section 4 and appendix D.2. The film may outlast the object, and then the
network has to say that nothing is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from inference.experts.common.slices import MAXIMUM_WINDOW, Window, box_of
from inference.training.sam.slices import LOSS_SIZE, MEAN, STD, SliceCase, SliceSampler
from oncoflow_site.foundation.errors import required

__all__ = ["Film", "FilmSampler", "films_loss", "follow", "held_films"]

LENGTH = 4
SURE = 20.0
"""Logits are cut here: where the network says that no object is there, it writes -1024, and cross-entropy would explode."""


@dataclass
class Film:
    """images (frames, n, 3, s, s) normalised; targets (frames, n, 1, t, t) in 0..1, the object on every frame.

    prompt: point tokens of the first frame as in Batch.
    """

    images: torch.Tensor
    targets: torch.Tensor
    prompt: tuple[torch.Tensor, torch.Tensor]

    def to(self, device: torch.device) -> Film:
        """The film on a device."""
        points, kinds = self.prompt
        return Film(self.images.to(device), self.targets.to(device), (points.to(device), kinds.to(device)))


class FilmSampler:
    """Draws films of tumour regions. Window, flips and looks are one for the whole film, as they are for a real study."""

    def __init__(self, cases: list[SliceCase], image_size: int, seed: int, length: int = LENGTH) -> None:
        self.still = SliceSampler(cases, image_size, seed)
        self.length = length

    def batch(self, n: int) -> Film:
        """n films of the same length."""
        drawn = [self._one() for _ in range(n)]
        return Film(
            torch.stack([d[0] for d in drawn], dim=1),
            torch.stack([d[1] for d in drawn], dim=1),
            (torch.stack([d[2] for d in drawn]), torch.stack([d[3] for d in drawn])),
        )

    def _one(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        rng, still = self.still.rng, self.still
        while True:
            case = still.with_tumour[rng.integers(len(still.with_tumour))]
            axis = int(rng.integers(3))
            labels = np.moveaxis(case.labels, axis, 0)
            kinds = [k for k in ((1, 2, 3), (1, 3), (3,), (2,)) if np.isin(labels, k).any()]
            target = np.isin(labels, kinds[rng.integers(len(kinds))])
            shown = np.flatnonzero(target.sum(axis=(1, 2)) >= 8)
            if shown.size:
                break
        start = int(shown[rng.integers(shown.size)])
        step = int(rng.choice([-2, -1, 1, 2], p=[0.15, 0.35, 0.35, 0.15]))
        indices = np.clip(start + step * np.arange(self.length), 0, len(target) - 1)
        box = required(box_of(target[start]), "the box of the target")
        side = int(rng.integers(88, MAXIMUM_WINDOW + 1))
        corner = [round((low + high) / 2 - side / 2) for low, high in ((box[1], box[3]), (box[0], box[2]))]
        window = Window(corner[0] + int(rng.integers(-10, 11)), corner[1] + int(rng.integers(-10, 11)), side)
        frames = np.moveaxis(case.unit, axis + 1, 0)[indices].astype(np.float32)
        picture = window.cut(frames.reshape(-1, *frames.shape[2:])).reshape(-1, 3, side, side)
        masks = window.cut(target[indices].astype(np.float32))
        if not masks[0].any():  # a hollow object can lie around the window
            return self._one()
        for flipped in (2, 3):
            if rng.random() < 0.5:
                picture, masks = np.flip(picture, flipped), np.flip(masks, flipped - 1)
        picture = still.looks(picture)
        points, marks = still.prompt_for(masks[0] > 0.5)
        return (*_scaled(picture, masks, still.size), points * (still.size / side), marks)


def _scaled(picture: NDArray[np.float32], masks: NDArray[np.float32], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(picture)), (size, size), mode="bilinear", align_corners=False
    )
    targets = torch.from_numpy(np.ascontiguousarray(masks))[:, None]
    targets = F.interpolate(targets, (LOSS_SIZE, LOSS_SIZE), mode="bilinear", align_corners=False)
    return (images - MEAN) / STD, targets


def follow(
    model: Any, images: torch.Tensor, prompt: tuple[torch.Tensor, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mask logits (n, 1, s/4, s/4) and object score logits (n, 1) of every frame; gradients where they are on."""
    length, n = images.shape[:2]
    _, features, positions, sizes = model._prepare_backbone_features(model.forward_image(images.flatten(0, 1)))
    seen: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    answers = []
    for frame in range(length):
        own = slice(frame * n, (frame + 1) * n)
        current = [f[:, own] for f in features]
        first = frame == 0
        points = {"point_coords": prompt[0], "point_labels": prompt[1]} if first else None
        out, heads, _, _ = model._track_step(
            frame, first, current, [p[:, own] for p in positions], sizes, points, None, seen, length, False, None
        )
        _, _, _, low, high, pointer, score = heads
        out.update(pred_masks=low, pred_masks_high_res=high, obj_ptr=pointer)
        model._encode_memory_in_output(current, sizes, points, True, high, score, out)
        seen["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = out
        answers.append((low, score))
    return answers


def films_loss(model: Any, film: Film) -> torch.Tensor:
    """Mean over frames: BCE and Dice of the mask where the object is on the frame, BCE of whether it is."""
    total = film.images.new_zeros(())
    answers = follow(model, film.images, film.prompt)
    for (low, score), target in zip(answers, film.targets, strict=True):
        there = (target.amax((2, 3)) > 0.5).float()
        logits = F.interpolate(low.float(), target.shape[-2:], mode="bilinear", align_corners=False).clamp(-SURE, SURE)
        p = torch.sigmoid(logits)
        dice = (2 * (p * target).sum((2, 3)) + 20) / (p.sum((2, 3)) + target.sum((2, 3)) + 20)
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))
        total = total + ((2 * bce + 1 - dice) * there).sum() / there.sum().clamp(min=1)
        total = total + 0.2 * F.binary_cross_entropy_with_logits(score.float(), there)
    return total / len(answers)


def held_films(cases: list[SliceCase], image_size: int, reach: int = 8) -> list[Film]:
    """For validation: whole tumour and core of each case, boxed on their largest axial slice and followed upwards."""
    films = []
    for case in cases:
        for kinds in ((1, 2, 3), (1, 3)):
            target = np.isin(case.labels, kinds)
            areas = target.sum(axis=(1, 2))
            start = int(areas.argmax())
            box = box_of(target[start])
            if box is None or areas[start] < 20 or start + reach >= len(target):
                continue
            side = MAXIMUM_WINDOW
            window = Window(round((box[1] + box[3] - side) / 2), round((box[0] + box[2] - side) / 2), side)
            indices = np.arange(start, start + reach + 1)
            frames = np.moveaxis(case.unit, 1, 0)[indices].astype(np.float32)
            picture = window.cut(frames.reshape(-1, *frames.shape[2:])).reshape(-1, 3, side, side)
            images, targets = _scaled(picture, window.cut(target[indices].astype(np.float32)), image_size)
            inside = window.inside(box)
            points = torch.tensor([[[inside[0], inside[1]], [inside[2], inside[3]]]]).float() * (image_size / side)
            films.append(Film(images[:, None], targets[:, None], (points, torch.tensor([[2, 3]], dtype=torch.int32))))
    return films
