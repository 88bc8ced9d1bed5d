"""STAPLE (Warfield et al., IEEE TMI 23 (2004) 903) over patterns of votes.

Voxels with the same votes have the same posterior: expectation maximisation over the 2^R patterns of R raters, each with
its number of voxels, is exact and some forty times as fast as over voxels. The votes may be NumPy arrays or torch tensors on
any device; patterns are counted and the posterior is spread where the votes are, and the 2^R numbers of the estimation,
float64, always on the host: the result does not depend on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["Estimate", "Staple", "box_of_marked", "estimate", "staple", "staple_on_device"]

MAXIMUM_RATERS = 16


@dataclass(frozen=True)
class Estimate:
    """weight: posterior of each pattern of votes (2^R,). sensitivity, specificity: one per rater, in order."""

    weight: NDArray[np.float64]
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]
    iterations: int


@dataclass(frozen=True)
class Staple:
    """posterior: probability of foreground (z, y, x) float32. sensitivity, specificity: one per rater, in order."""

    posterior: NDArray[np.float32]
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]
    iterations: int


def estimate(
    counts: NDArray[np.float64], raters: int, *, maximum_iterations: int = 10_000, tolerance: float = 1e-14
) -> Estimate:
    """The estimation from the number of voxels of each pattern (2^R,); bit r of a pattern is rater r's vote.

    Same start, prior and stopping rule as ITK's STAPLEImageFilter. Where nobody, or everybody, marked every voxel there is
    nothing to estimate: the weights are the votes, sensitivity and specificity 1.
    """
    decisions = (np.arange(1 << raters)[:, None] >> np.arange(raters)) & 1 == 1
    weight = decisions.mean(axis=1)
    prior = float((counts * weight).sum() / counts.sum())
    if prior in (0.0, 1.0):
        ones = (1.0,) * raters
        return Estimate(np.full(1 << raters, prior), ones, ones, 0)
    last = np.full((2, raters), -10.0)
    sensitivity = specificity = np.ones(raters)
    iterations = 0
    while iterations < maximum_iterations:
        iterations += 1
        inside, outside = counts * weight, counts * (1 - weight)
        sensitivity = (inside[:, None] * decisions).sum(0) / max(inside.sum(), 1e-300)
        specificity = (outside[:, None] * ~decisions).sum(0) / max(outside.sum(), 1e-300)
        alpha = prior * np.where(decisions, sensitivity, 1 - sensitivity).prod(axis=1)
        beta = (1 - prior) * np.where(decisions, 1 - specificity, specificity).prod(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = np.where(alpha + beta > 0, alpha / (alpha + beta), 0.0)
        now = np.stack([sensitivity, specificity])
        if ((last - now) ** 2).sum(axis=1).max() <= tolerance:
            break
        last = now
    return Estimate(weight, tuple(map(float, sensitivity)), tuple(map(float, specificity)), iterations)


def staple(votes: Sequence[NDArray[np.bool_]], *, unseen: int = 0) -> Staple:
    """STAPLE over binary votes of one shape.

    `unseen` voxels outside the arrays, which nobody marked, count like any other. Raises ValueError without votes, with
    more than 16, or with different shapes.
    """
    _check(votes)
    shape, raters = votes[0].shape, len(votes)
    # Where nobody marked anything every voxel has the same pattern: only the box around all votes is looked at.
    box = box_of_marked(votes)
    cut = [vote[box] for vote in votes]
    kind = np.uint8 if raters <= 8 else np.uint16
    pattern: NDArray[Any] = cut[0].astype(kind)
    for index, vote in enumerate(cut[1:], start=1):
        pattern |= np.left_shift(vote.astype(kind), index, dtype=kind)
    counts = np.bincount(pattern.ravel(), minlength=1 << raters).astype(np.float64)
    counts[0] += float(np.prod(shape)) - pattern.size + unseen
    found = estimate(counts, raters)
    posterior = np.full(shape, found.weight[0], np.float32)
    posterior[box] = found.weight.astype(np.float32)[pattern]
    return Staple(posterior, found.sensitivity, found.specificity, found.iterations)


def staple_on_device(votes: Sequence[torch.Tensor], *, unseen: int = 0) -> tuple[torch.Tensor, Estimate]:
    """As `staple`, for bool tensors on one device: the posterior, float32, on that device, and the estimation."""
    import torch

    _check(votes)
    raters = len(votes)
    pattern = votes[0].to(torch.int32)
    for index, vote in enumerate(votes[1:], start=1):
        pattern |= vote.to(torch.int32) << index
    counts = torch.bincount(pattern.flatten(), minlength=1 << raters).double().cpu().numpy()
    counts[0] += unseen
    found = estimate(counts, raters)
    table = torch.from_numpy(found.weight.astype(np.float32)).to(pattern.device)
    return table[pattern], found


def _check(votes: Sequence[Any]) -> None:
    if not votes or len(votes) > MAXIMUM_RATERS:
        raise ValueError("STAPLE needs 1 to 16 raters")
    if any(vote.shape != votes[0].shape for vote in votes):
        raise ValueError("the votes have different shapes")


def box_of_marked(masks: Sequence[NDArray[np.bool_] | NDArray[np.uint16]]) -> tuple[slice, ...]:
    """The smallest box that holds every marked voxel of all masks; empty slices where there is none."""
    box = []
    for axis in range(masks[0].ndim):
        others = tuple(k for k in range(masks[0].ndim) if k != axis)
        marked = np.flatnonzero(np.any([mask.any(axis=others) for mask in masks], axis=0))
        box.append(slice(int(marked[0]), int(marked[-1]) + 1) if marked.size else slice(0, 0))
    return tuple(box)
