"""From boxes on a few slices to region probabilities: a classical decoder that asks no other expert.

Between the slices that were shown the boxes are interpolated. They say where oedema, core and enhancement can be; which of
them a voxel is, or healthy after all, is told by the images (mixture.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGIONS
from inference.experts.vlm.mixture import features, tissues

__all__ = ["PlacedBox", "decode"]

INSIDE = {"WT": 0.85, "TC": 0.75, "ET": 0.6}
"""How much of a region's box is that region, given that the voxel is of the region around it: boxes have corners."""
CORE_ELSEWHERE = 0.1
"""The same for a core outside its boxes, in a study that has some: models leave such boxes out more than they invent them."""


@dataclass(frozen=True)
class PlacedBox:
    """box: (y0, x0, y1, x1) in pixels of the working grid's slice z, upper edges exclusive."""

    region: str
    z: int
    box: tuple[float, float, float, float]
    confidence: float


def decode(
    boxes: Sequence[PlacedBox],
    shown: Sequence[int],
    z: NDArray[np.float32],
    brain: NDArray[np.bool_],
) -> dict[str, NDArray[np.float32]]:
    """Probabilities {region: (z, y, x)}; 0 everywhere for a region without a box.

    :param shown: slices that the model saw: a slice between two of them without boxes has none either.
    :param z: z-scores (FLAIR, T1c, T1; z, y, x). :param brain: (z, y, x).
    """
    inside = {r: _prior([b for b in boxes if b.region == r], shown, brain.shape) for r in REGIONS}
    inside["TC"] = np.maximum(inside["TC"], inside["ET"])
    inside["WT"] = np.maximum(inside["WT"], inside["TC"])
    whole, core, enhancing = (INSIDE[r] * inside[r] for r in ("WT", "TC", "ET"))
    if core.any():
        core = np.maximum(core, CORE_ELSEWHERE)
    core, enhancing = whole * core, whole * core * enhancing
    possible = {"oedema": whole - core, "core": core - enhancing, "enhancing": enhancing}
    found = tissues(features(z), possible, brain)
    regions = {
        "ET": found[3] * (enhancing > 0),
        "TC": (found[2] + found[3]) * (core > 0),
        "WT": (found[1] + found[2] + found[3]) * (whole > 0),
    }
    return {region: np.asarray(np.minimum(p, 1), np.float32) for region, p in regions.items()}


def _prior(boxes: Sequence[PlacedBox], shown: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """How much each voxel is inside boxes, 0..1: the ellipse in the box counts fully, its corners half."""
    prior = np.zeros(shape, np.float32)
    if not boxes:
        return prior
    rows, columns = np.mgrid[: shape[1], : shape[2]] + 0.5
    planes: dict[int, NDArray[np.float32]] = {int(k): np.zeros(shape[1:], np.float32) for k in shown}
    for one in boxes:
        y0, x0, y1, x1 = one.box
        radius = np.hypot((rows - (y0 + y1) / 2) / max(y1 - y0, 1), (columns - (x0 + x1) / 2) / max(x1 - x0, 1)) * 2
        inside = (rows >= y0) & (rows <= y1) & (columns >= x0) & (columns <= x1)
        weight = np.where(inside, np.where(radius <= 1, 1.0, 0.75), 0.0)
        # A border of two pixels, fading: boxes are never exact.
        weight = np.maximum(weight, 0.8 * ndimage.gaussian_filter(inside.astype(np.float32), 1.5) * ~inside)
        planes[one.z] = np.maximum(planes[one.z], (weight * (0.6 + 0.4 * one.confidence)).astype(np.float32))
    known = sorted(planes)
    for below, above in itertools.pairwise(known):
        for index in range(below, above + 1):
            share = (index - below) / max(above - below, 1)
            prior[index] = (1 - share) * planes[below] + share * planes[above]
    if len(known) == 1:
        prior[known[0]] = planes[known[0]]
    for end, step in ((known[0], -1), (known[-1], 1)):  # the last box fades out over the next slices
        for distance in (1, 2):
            if 0 <= end + step * distance < shape[0]:
                prior[end + step * distance] = planes[end] * (1 - distance / 3)
    return prior
