"""Dice and binary cross-entropy over nested regions, with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

__all__ = ["deep_supervision_loss", "dice_bce"]


def dice_bce(
    logits: torch.Tensor, targets: torch.Tensor, smooth: float = 20.0, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Batch Dice plus BCE, mean over regions. logits, targets: (n, regions, z, y, x); weights: (n, regions) or none.

    A weight of 0 takes a patch out of a region's loss: what its sequences cannot show teaches nothing.

    Dice is taken over the whole batch, and `smooth` voxels are added above and below: a batch without the region then
    still pulls false positives down, and a lone false voxel does not cost as much as a missed tumour.
    """
    logits = logits.float()
    dims = (0, *range(2, logits.ndim))
    p = torch.sigmoid(logits)
    if weights is None:
        entropy = F.binary_cross_entropy_with_logits(logits, targets)
    else:
        shown = weights.to(logits)[(...,) + (None,) * (logits.ndim - 2)]
        voxels = shown.sum().clamp(min=1.0) * logits[0, 0].numel()
        entropy = (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * shown).sum() / voxels
        p, targets = p * shown, targets * shown
    overlap = (p * targets).sum(dims)
    dice = (2 * overlap + smooth) / (p.sum(dims) + targets.sum(dims) + smooth)
    return entropy + (1 - dice).mean()


def deep_supervision_loss(
    outputs: Sequence[torch.Tensor], targets: torch.Tensor, levels: int = 3, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Loss over the first `levels` resolutions, each weighing half of the one above it; weights as in dice_bce."""
    total = targets.new_zeros(())
    divisor = 0.0
    for level, logits in enumerate(outputs[:levels]):
        if level:
            targets = F.avg_pool3d(targets, 2)
        share = 0.5**level
        total = total + share * dice_bce(logits, targets, weights=weights)
        divisor += share
    return total / divisor
