"""From several experts' probabilities to one mask.

Arrays are (z, y, x). Majority: with two experts the mean probability decides, because two votes can tie. The
confidence-weighted fusion of two gives the same mask: with d = 2p - 1 both ask for the sign of what the surer of the two
says, d1 + d2 and d1|d1| + d2|d2| having the same one. STAPLE has a module of its own. Where sequences are missing an
expert answers for some regions only: fused are those that all of them answered for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, nest
from inference.experts.common.islands import BELOW, small_islands
from inference.fusion.staple import box_of_marked, staple
from oncoflow_site.foundation.errors import required

__all__ = ["METHODS", "Fused", "disagreement_map", "fuse", "masks_of", "nest_masks"]

METHODS = ("majority", "staple", "weighted", "confidence")
THRESHOLD = 0.5
_HALF = np.float16(THRESHOLD).view(np.uint16)

Probabilities = Mapping[str, NDArray[np.float16]]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Fused:
    """The consensus, of the regions that all experts answered for.

    masks: nested {region: bool}. probability: nested mean (or posterior) {region: float16}.
    disagreement: float16 (z, y, x), 0 where all experts say the same, 1 where they contradict each other with certainty.
    performance: per region and expert what STAPLE estimated, empty for other methods.
    """

    masks: Mapping[str, NDArray[np.bool_]]
    probability: Mapping[str, NDArray[np.float16]]
    disagreement: NDArray[np.float16]
    method: str
    experts: tuple[str, ...]
    performance: Mapping[str, Mapping[str, Mapping[str, float]]]


def _bits(p: NDArray[np.float16]) -> NDArray[np.uint16]:
    """The same memory as integers: of numbers that are not negative these have the same order, and numpy compares them
    twenty times as fast as float16."""
    return p.view(np.uint16)


def _positive(p: NDArray[np.float16]) -> NDArray[np.bool_]:
    """p >= 0.5."""
    found: NDArray[np.bool_] = _bits(p) >= _HALF
    return found


def masks_of(probabilities: Probabilities) -> dict[str, NDArray[np.bool_]]:
    """Nested masks of one expert at probability 0.5, of the regions it answered for."""
    return nest_masks({r: _positive(np.asarray(p, np.float16)) for r, p in probabilities.items()})


def nest_masks(masks: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """ET within TC within WT: a voxel outside the outer region leaves the inner one."""
    nested: dict[str, NDArray[np.bool_]] = {}
    outer: NDArray[np.bool_] | None = None
    for region in reversed(REGIONS):
        if region in masks:
            outer = nested[region] = masks[region] if outer is None else masks[region] & outer
    return {region: nested[region] for region in REGIONS if region in nested}


def disagreement_map(outputs: Sequence[Probabilities]) -> NDArray[np.float16]:
    """Largest difference between any two experts' probabilities, over the regions of all; 0 with a single expert."""
    worst: NDArray[np.float32] | None = None
    for region in _common(outputs):
        low = high = _bits(np.asarray(outputs[0][region], np.float16))
        for output in outputs[1:]:
            bits = _bits(np.asarray(output[region], np.float16))
            low, high = np.minimum(low, bits), np.maximum(high, bits)
        spread = high.view(np.float16).astype(np.float32) - low.view(np.float16)
        worst = spread if worst is None else np.maximum(worst, spread, out=worst)
    return required(worst, "a region that all experts answered for").astype(np.float16)


def _common(outputs: Sequence[Probabilities]) -> tuple[str, ...]:
    """The regions that every expert answered for, innermost first."""
    return tuple(region for region in REGIONS if all(region in one for one in outputs))


def _mean(stack: Sequence[NDArray[np.float16]], weights: Sequence[float]) -> NDArray[np.float32]:
    total = np.zeros(stack[0].shape, np.float32)
    for p, weight in zip(stack, weights, strict=True):
        total += np.float32(weight) * p.astype(np.float32)
    return total / np.float32(sum(weights))


def _confident(stack: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    """Each expert weighs by its own certainty at the voxel, |2p - 1|; plain mean where nobody is certain."""
    weighted = np.zeros(stack[0].shape, np.float32)
    certainty = np.zeros(stack[0].shape, np.float32)
    for p in stack:
        p32 = p.astype(np.float32)
        c = np.abs(2 * p32 - 1)
        weighted += c * p32
        certainty += c
    mean = _mean(stack, [1.0] * len(stack))
    result: NDArray[np.float32] = np.where(certainty > 1e-3, weighted / np.maximum(certainty, 1e-3), mean)
    return result


def _weight(weights: Mapping[str, float | Mapping[str, float]], name: str, region: str) -> float:
    """An expert's weight for a region; 0 where there is none."""
    found = weights.get(name, 0.0)
    return float(found.get(region, 0.0) if isinstance(found, Mapping) else found)


def fuse(
    outputs: Mapping[str, Probabilities],
    method: str = "auto",
    weights: Mapping[str, float | Mapping[str, float]] | None = None,
    least_voxels: Mapping[str, float] | None = None,
) -> Fused:
    """Fuse experts' nested probabilities {expert: {region: (z, y, x)}}.

    method: "auto" is majority for one or two experts and STAPLE for three or more; "weighted" takes `weights` per
    expert, or per expert and region (for example their mean Dice). Islands of a region with fewer voxels than `least_voxels`
    leave the mask, their probability capped at 0.49: what is left where one expert's finding and another's doubt meet is
    smaller than anything either would have shown. Raises ValueError for an unknown method, no expert, no
    region that all answered for, shapes that differ or weights that are missing or not positive.
    """
    if not outputs:
        raise ValueError("there is no expert to fuse")
    names = tuple(sorted(outputs))
    regions = _common([outputs[n] for n in names])
    if not regions:
        raise ValueError("there is no region that all experts answered for")
    shapes = {outputs[n][r].shape for n in names for r in regions}
    if len(shapes) != 1:
        raise ValueError("the experts' arrays have different shapes")
    if method == "auto":
        method = "staple" if len(names) >= 3 else "majority"
    if method not in METHODS:
        raise ValueError(f"unknown fusion method {method!r}: one of {', '.join(METHODS)}")
    by_region = {r: [_weight(weights or {}, n, r) for n in names] for r in regions}
    if method == "weighted" and any(not weight > 0 for row in by_region.values() for weight in row):
        raise ValueError("weighted fusion needs a positive weight for every expert")
    masks: dict[str, NDArray[np.bool_]] = {}
    probability: dict[str, NDArray[np.float32]] = {}
    performance: dict[str, dict[str, dict[str, float]]] = {}
    equal = [1.0] * len(names)
    shape = next(iter(shapes))
    # Probabilities are 0 outside the brain, and the outermost region holds the others: outside its box there is nothing to fuse.
    box = box_of_marked([_bits(np.asarray(outputs[n][regions[-1]], np.float16)) for n in names])
    cut = [{r: np.asarray(outputs[n][r], np.float16)[box] for r in regions} for n in names]
    for region in regions:
        stack = [one[region] for one in cut]
        if method == "staple":
            estimated = staple([_positive(p) for p in stack], unseen=int(np.prod(shape)) - stack[0].size)
            masks[region] = estimated.posterior >= THRESHOLD
            probability[region] = _mean(stack, equal)
            performance[region] = {
                n: {"sensitivity": estimated.sensitivity[i], "specificity": estimated.specificity[i]}
                for i, n in enumerate(names)
            }
            continue
        if method == "weighted":
            mean = _mean(stack, by_region[region])
        elif method == "confidence":
            mean = _confident(stack)
        else:
            mean = _mean(stack, equal)
        probability[region] = mean
        if method == "majority" and len(names) > 2:
            votes = np.sum([_positive(p) for p in stack], axis=0, dtype=np.uint8)
            masks[region] = (2 * votes > len(names)) | ((2 * votes == len(names)) & (mean >= THRESHOLD))
        else:
            masks[region] = mean >= THRESHOLD
    masks = nest_masks(masks)
    for region, least in (least_voxels or {}).items():
        if region in masks and (small := small_islands(masks[region], least)).any():
            masks[region] = masks[region] & ~small
            probability[region][small] = np.minimum(probability[region][small], np.float32(BELOW))
    return Fused(
        {r: _whole(mask, shape, box) for r, mask in nest_masks(masks).items()},
        {r: _whole(p, shape, box) for r, p in nest(probability).items()},
        _whole(disagreement_map(cut), shape, box),
        method,
        names,
        performance,
    )


def _whole(part: NDArray[T], shape: tuple[int, ...], box: tuple[slice, ...]) -> NDArray[T]:
    """`part` in its box, 0 around it."""
    full = np.zeros(shape, part.dtype)
    full[box] = part
    return full
