"""The nested regions of BraTS and the labels they are made of. Pure; every room that speaks of a region imports it from here.

Labels: 1 NCR (necrotic core), 2 ED/SNFH (oedema), 3 ET (enhancing tumour). Regions: ET within TC within WT (Baid et al.,
arXiv:2107.02314). Arrays have any shape; label maps are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LARGEST_LABEL",
    "OWN_LABEL",
    "REGIONS",
    "REGION_LABELS",
    "REGION_NAMES",
    "Region",
    "labels_from_regions",
    "labels_inner_wins",
    "nest",
    "region_mask",
    "region_masks",
]

Region = Literal["ET", "TC", "WT"]
REGIONS: Final[tuple[Region, Region, Region]] = ("ET", "TC", "WT")
"""Innermost first."""
REGION_NAMES: Final[Mapping[str, str]] = {"ET": "Enhancing tumour", "TC": "Tumour core", "WT": "Whole tumour"}
REGION_LABELS: Final[Mapping[str, tuple[int, ...]]] = {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}
OWN_LABEL: Final[Mapping[str, int]] = {"ET": 3, "TC": 1, "WT": 2}
"""The label that only this region brings into a label map: what it has beyond the next inner region."""
LARGEST_LABEL: Final = 3


def region_mask(labels: NDArray[Any], region: str) -> NDArray[np.bool_]:
    """Voxels of ``region`` (ET, TC or WT) in a label map (uint8), same shape."""
    table = np.zeros(256, dtype=bool)
    table[list(REGION_LABELS[region])] = True
    return np.asarray(table[labels])


def region_masks(labels: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Region -> mask of a label map, innermost first, same shape."""
    return {region: np.isin(labels, REGION_LABELS[region]) for region in REGIONS}


def labels_from_regions(masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Label map (uint8) of all three region masks. Outer regions bound inner ones: TC outside WT, ET outside TC are dropped."""
    whole = np.asarray(masks["WT"], dtype=bool)
    core = np.asarray(masks["TC"], dtype=bool) & whole
    enhancing = np.asarray(masks["ET"], dtype=bool) & core
    return labels_inner_wins({"WT": whole, "TC": core, "ET": enhancing})


def labels_inner_wins(masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Label map (uint8) of those region masks that are given. Inner regions win; a region that is absent leaves no label."""
    labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for region in reversed(REGIONS):
        if region in masks:
            labels[masks[region]] = OWN_LABEL[region]
    return labels


def nest(
    probabilities: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_] | None = None
) -> dict[str, NDArray[np.float16]]:
    """Make ET <= TC <= WT by taking the smaller, and 0 outside `mask`. Regions that are absent stay so.

    The inner region never exceeds the outer: a voxel is no enhancing tumour with more certainty than it is tumour.
    """
    out: dict[str, NDArray[np.float16]] = {}
    # In float32: numpy's float16 arithmetic is emulated and ten times as slow. Rounding at the end keeps the order.
    outer: NDArray[np.float32] | None = None
    for region in reversed(REGIONS):
        if region not in probabilities:
            continue
        p = np.clip(np.asarray(probabilities[region], np.float32), 0.0, 1.0)
        if mask is not None:
            p *= mask
        if outer is not None:
            np.minimum(p, outer, out=p)
        outer = p
        out[region] = p.astype(np.float16)
    return {region: out[region] for region in REGIONS if region in out}
