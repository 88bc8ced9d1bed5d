"""Patches with cheap augmentation, drawn in-process from cases in RAM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.training.common.preprocess import PreparedCase

__all__ = ["REDUCED", "PatchSampler", "region_targets", "shown_regions"]

REDUCED: tuple[tuple[str, ...], ...] = (
    ("T1c",),
    ("T1", "T1c"),
    ("T1c", "FLAIR"),
    ("T1c", "T2"),
    ("T1", "T1c", "FLAIR"),
    ("T1c", "T2", "FLAIR"),
    ("FLAIR",),
    ("T2", "FLAIR"),
)
"""What is left of studies with missing sequences, the usual ones."""


def region_targets(labels: torch.Tensor) -> torch.Tensor:
    """Label maps (n, z, y, x) -> float targets (n, 3, z, y, x) in the order WT, TC, ET."""
    return torch.stack([labels > 0, (labels == 1) | (labels == 3), labels == 3], dim=1).float()


def shown_regions(data: torch.Tensor) -> torch.Tensor:
    """Which regions the sequences of each patch can show. data (n, 4, z, y, x) -> (n, 3) of 0 and 1, order WT, TC, ET.

    Enhancement, and with it the border of the core, is drawn on T1c: without it a network can only learn to guess them.
    """
    contrast = (data[:, PANEL_SEQUENCES.index("T1c")] != 0).flatten(1).any(1).float()
    brain = (data != 0).flatten(1).any(1)
    contrast = torch.where(brain, contrast, torch.ones_like(contrast))  # an empty patch is free of everything
    return torch.stack([torch.ones_like(contrast), contrast, contrast], dim=1)


class PatchSampler:
    """Draws batches of (data (n, 4, *patch) float32, labels (n, *patch) int8).

    empty_share of the patches come from tumour-free cases, background_share of the others from anywhere in the brain,
    the rest is centred near a voxel of a region picked at random, so that small regions are seen as often as large.
    drop_channel of them lose one channel; reduced_share keep only the sequences of one of REDUCED, as studies with missing
    sequences have them.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch: tuple[int, int, int],
        seed: int,
        *,
        empty_share: float = 0.30,
        background_share: float = 1 / 3,
        drop_channel: float = 0.06,
        reduced_share: float = 0.0,
    ) -> None:
        self.with_tumour = [c for c in cases if not c.empty]
        self.without = [c for c in cases if c.empty]
        if not self.with_tumour:
            raise ValueError("no training case has a tumour")
        self.patch = np.asarray(patch)
        self.rng = np.random.default_rng(seed)
        self.empty_share = empty_share if self.without else 0.0
        self.background_share = background_share
        self.drop_channel = drop_channel
        self.reduced_share = reduced_share

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch. Its order of empty and tumour cases is random."""
        drawn = [self._one() for _ in range(size)]
        return torch.stack([d[0] for d in drawn]), torch.stack([d[1] for d in drawn])

    def _one(self) -> tuple[torch.Tensor, torch.Tensor]:
        rng = self.rng
        if rng.random() < self.empty_share:
            case = self.without[rng.integers(len(self.without))]
        else:
            case = self.with_tumour[rng.integers(len(self.with_tumour))]
        shape = np.asarray(case.labels.shape)
        present = [f for f in case.foreground if len(f)]
        if present and rng.random() >= self.background_share:
            region = present[rng.integers(len(present))]
            centre = region[rng.integers(len(region))].astype(float)
            centre += rng.uniform(-0.3, 0.3, 3) * self.patch
        else:
            centre = rng.uniform(0.25, 0.75, 3) * shape
        # keep the patch over the brain where the brain is larger than the patch
        half = self.patch / 2
        centre = np.where(shape > self.patch, np.clip(centre, half - 4, shape - half + 4), shape / 2 + centre % 5 - 2)
        if rng.random() < 0.3:
            data, labels = self._rotated(case, centre)
        else:
            data, labels = self._cropped(case, centre)
        for axis in range(3):
            if rng.random() < 0.5:
                data, labels = data.flip(axis + 1), labels.flip(axis)
        return self._intensities(data), labels.contiguous()

    def _cropped(self, case: PreparedCase, centre: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        start = np.round(centre - self.patch / 2).astype(int)
        stop = start + self.patch
        low = np.maximum(start, 0)
        high = np.maximum(np.minimum(stop, case.labels.shape), low)
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        target = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        data = np.zeros((4, *self.patch), np.float32)
        labels = np.zeros(tuple(self.patch), np.int8)
        data[(slice(None), *target)] = case.data[(slice(None), *source)]
        labels[target] = case.labels[source]
        return torch.from_numpy(data), torch.from_numpy(labels)

    def _rotated(self, case: PreparedCase, centre: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        """The patch under a random rotation (up to 20 degrees an axis) and scale (0.85 to 1.2)."""
        rng = self.rng
        matrix = np.eye(3)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            angle = np.deg2rad(rng.uniform(-20, 20))
            turn = np.eye(3)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        matrix = matrix * rng.uniform(0.85, 1.2)
        shape = np.asarray(case.labels.shape, float)
        # voxel = centre + matrix @ offset; grid_sample wants (x, y, z) in -1..1 (align_corners)
        linear = matrix * (self.patch - 1)[None, :] / (shape - 1)[:, None]
        shift = 2 * centre / (shape - 1) - 1
        theta = np.concatenate([linear[::-1, ::-1], shift[::-1, None]], axis=1)
        grid = F.affine_grid(
            torch.from_numpy(theta[None].copy()).float(), [1, 1, *[int(p) for p in self.patch]], align_corners=True
        )
        data = torch.from_numpy(case.data.astype(np.float32))[None]
        labels = torch.from_numpy(case.labels.astype(np.float32))[None, None]
        moved = F.grid_sample(data, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
        moved_labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0]
        return moved, moved_labels.to(torch.int8)

    def _intensities(self, data: torch.Tensor) -> torch.Tensor:
        rng = self.rng
        inside = (data != 0).any(dim=0)
        for channel in range(data.shape[0]):
            image = data[channel]
            if rng.random() < 0.15:
                image = F.avg_pool3d(image[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
            image = image * float(rng.uniform(0.85, 1.18)) + float(rng.normal(0, 0.12))
            if rng.random() < 0.25:
                low, high = float(image.min()), float(image.max())
                span = max(high - low, 1e-3)
                image = ((image - low) / span).clamp(0, 1).pow(float(np.exp(rng.uniform(-0.35, 0.35)))) * span + low
            if rng.random() < 0.2:
                image = image + torch.randn(image.shape) * float(rng.uniform(0.02, 0.2))
            data[channel] = image
        if rng.random() < self.drop_channel:
            data[int(rng.integers(data.shape[0]))] = 0
        # Nothing is drawn where it is not asked for: earlier trainings can be repeated with their seeds.
        if self.reduced_share and rng.random() < self.reduced_share:
            kept = REDUCED[int(rng.integers(len(REDUCED)))]
            data[[index for index, name in enumerate(PANEL_SEQUENCES) if name not in kept]] = 0
        data[:, ~inside] = 0
        return data
