"""From boxes on a few slices to region probabilities: a classical decoder that asks no other expert.

Between the slices that were shown the boxes are interpolated. Inside them the images decide: oedema and tumour by FLAIR,
enhancement by T1c against T1, the core by what enhancement encloses or by a dark T1. Each threshold is Otsu's (IEEE
Trans. SMC 9 (1979) 62) between the values inside the boxes and a margin around them, kept within plausible limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from inference.experts.base import REGIONS

__all__ = ["PlacedBox", "decode"]

SLOPE = 0.35  # z-scores over which a voxel goes from unlikely to likely
LIMITS = {"WT": (0.5, 2.0), "ET": (0.2, 1.2)}
MARGIN = 6


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
    flair, t1c, t1 = (ndimage.gaussian_filter(channel, 0.5) for channel in z)
    contrast = t1c - t1
    prior = {region: _prior([b for b in boxes if b.region == region], shown, brain.shape) for region in REGIONS}
    whole = prior["WT"] * _likely(flair, prior["WT"] > 0.2, brain, "WT")
    enhancing = prior["ET"] * _likely(contrast, prior["ET"] > 0.2, brain, "ET")
    core = prior["TC"] * np.maximum(_enclosed(enhancing), _dark(t1, flair, prior["TC"] > 0.2, brain))
    core = np.maximum(core, enhancing)
    # Enhancement and core are tumour whatever FLAIR shows there (a cyst or necrosis may be dark).
    whole = np.maximum(whole, core)
    found = {"ET": enhancing, "TC": core, "WT": whole}
    return {region: np.asarray(p * brain, np.float32) for region, p in found.items()}


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


def _likely(
    image: NDArray[np.float32], area: NDArray[np.bool_], brain: NDArray[np.bool_], region: str
) -> NDArray[np.float32]:
    """Logistic of the image around Otsu's threshold; 0 without an area."""
    if not area.any():
        return np.zeros(image.shape, np.float32)
    around = ndimage.binary_dilation(area, iterations=MARGIN) & brain
    values = image[around]
    low, high = LIMITS[region]
    limit = float(np.clip(threshold_otsu(values) if np.ptp(values) > 0 else high, low, high))
    steep = np.clip((image - limit) / SLOPE, -30, 30)
    return np.asarray(1 / (1 + np.exp(-steep)), np.float32)


def _enclosed(enhancing: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a rim of enhancement encloses, slice by slice."""
    rim = ndimage.binary_closing(enhancing >= 0.5, structure=np.ones((1, 3, 3)), iterations=2)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in rim]) if rim.any() else rim
    return np.where(filled, np.maximum(enhancing, 0.8), enhancing).astype(np.float32)


def _dark(
    t1: NDArray[np.float32], flair: NDArray[np.float32], area: NDArray[np.bool_], brain: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """A core without enhancement: darker in T1 than the brain, and no fluid (dark in FLAIR)."""
    if not area.any():
        return np.zeros(t1.shape, np.float32)
    limit = float(np.percentile(t1[area & brain], 35)) if (area & brain).any() else -0.5
    likely = 1 / (1 + np.exp(np.clip((t1 - min(limit, -0.2)) / SLOPE, -30, 30)))
    return np.asarray(0.9 * likely * (flair > -1.0), np.float32)
