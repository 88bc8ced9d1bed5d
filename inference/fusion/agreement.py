"""How far experts agree with each other and with the consensus.

Masks are bool (z, y, x); spacing (z, y, x) mm. Dice and IoU of two empty masks are 1: both say there is nothing.
HD95 is the 95th percentile of the distances between the two surfaces, both directions pooled, in mm; None where exactly
one mask is empty, 0 where both are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGIONS

__all__ = ["Agreement", "Overlap", "dice", "hd95", "iou", "measure_agreement", "overlap"]

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Overlap:
    """Two masks compared. hd95_mm is None when it is not defined or was not asked for."""

    dice: float
    iou: float
    hd95_mm: float | None


@dataclass(frozen=True)
class Agreement:
    """Per expert and region against the consensus, and per pair of experts.

    volume_mm3 holds every expert's and, under "consensus", the consensus's volumes. volume_spread is (largest -
    smallest) / mean over the experts per region, None where the mean is 0. A region that one of two outlines says nothing
    about is absent where they are compared: that is no agreement and no disagreement.
    """

    vs_consensus: Mapping[str, Mapping[str, Overlap]]
    pairwise: Mapping[tuple[str, str], Mapping[str, Overlap]]
    volume_mm3: Mapping[str, Mapping[str, float]]
    volume_spread: Mapping[str, float | None]


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice coefficient, 1 for two empty masks."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else float(2 * int((a & b).sum()) / total)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union, 1 for two empty masks."""
    union = int((a | b).sum())
    return 1.0 if union == 0 else float(int((a & b).sum()) / union)


def hd95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float | None:
    """95th percentile of surface distances in mm; 0 for two empty masks, None for exactly one."""
    if not a.any() or not b.any():
        return 0.0 if a.any() == b.any() else None
    either = a | b
    box = tuple(
        slice(max(int(i[0]) - 1, 0), int(i[-1]) + 2)
        for i in (np.flatnonzero(either.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3))
    )
    a, b = np.pad(a[box], 1), np.pad(b[box], 1)
    surface_a, surface_b = a & ~ndimage.binary_erosion(a), b & ~ndimage.binary_erosion(b)
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=spacing)[surface_a]
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=spacing)[surface_b]
    return float(np.percentile(np.concatenate([to_a, to_b]), 95))


def overlap(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float], distances: bool = True
) -> Overlap:
    """All three measures of two masks. Raises ValueError when shapes differ."""
    if a.shape != b.shape:
        raise ValueError("the masks have different shapes")
    return Overlap(dice(a, b), iou(a, b), hd95(a, b, spacing) if distances else None)


def measure_agreement(
    experts: Mapping[str, Masks], consensus: Masks, spacing: tuple[float, float, float], distances: bool = True
) -> Agreement:
    """Compare experts {name: {region: mask}} with the consensus and with each other.

    `distances` False leaves HD95 out, which takes most of the time.
    """
    voxel = float(np.prod(spacing))
    names = sorted(experts)
    volumes: dict[str, dict[str, float]] = {
        n: {r: float(m[r].sum()) * voxel for r in REGIONS if r in m}
        for n, m in (*experts.items(), ("consensus", consensus))
    }
    spread: dict[str, float | None] = {}
    for region in volumes["consensus"]:
        values = [volumes[n][region] for n in names if region in volumes[n]]
        mean = float(np.mean(values)) if values else 0.0
        spread[region] = (max(values) - min(values)) / mean if mean > 0 else None

    def compared(one: Masks, other: Masks) -> dict[str, Overlap]:
        both = [r for r in REGIONS if r in one and r in other]
        return {r: overlap(one[r], other[r], spacing, distances) for r in both}

    return Agreement(
        {n: compared(experts[n], consensus) for n in names},
        {(a, b): compared(experts[a], experts[b]) for a, b in combinations(names, 2)},
        volumes,
        spread,
    )
