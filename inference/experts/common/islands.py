"""Removal of islands too small to mean anything, with limits chosen on validation cases and kept in model.json.

A few stray voxels make Dice 0 in a brain without tumour, and would be drawn in a report. The limits are in cubic
millimetres, so they mean the same on every grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGIONS, nest

__all__ = ["least_voxels", "minimum_volumes", "small_islands", "suppress_small"]

BELOW = np.float16(0.49)
THRESHOLD = 0.5


def minimum_volumes(model: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a model.json: {"minimum_mm3": {"WT": 200, ...}}; regions without one have none."""
    limits = model.get("minimum_mm3") or {}
    return {region: float(limits[region]) for region in REGIONS if float(limits.get(region, 0)) > 0}


def least_voxels(models: Iterable[Mapping[str, Any]], spacing: Sequence[float]) -> dict[str, float]:
    """Region -> the largest of several models' limits, in voxels of a grid of that spacing, (z, y, x) mm.

    What one of the models would not show, all of them together do not show.
    """
    found: dict[str, float] = {}
    for model in models:
        for region, limit in minimum_volumes(model).items():
            found[region] = max(limit / float(np.prod(spacing)), found.get(region, 0.0))
    return found


def small_islands(mask: NDArray[np.bool_], least_voxels: float) -> NDArray[np.bool_]:
    """The components (26-connected) of a mask (z, y, x) that have fewer voxels than that."""
    found = np.zeros(mask.shape, bool)
    if least_voxels > 1 and mask.any():
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        labelled, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
        small = np.bincount(labelled.ravel()) < least_voxels
        small[0] = False
        found[box] = small[labelled]
    return found


def suppress_small(
    probabilities: Mapping[str, NDArray[np.float16]],
    spacing: tuple[float, float, float],
    minimum_mm3: Mapping[str, float],
) -> dict[str, NDArray[np.float16]]:
    """Cap a region's probability at 0.49 in its components (26-connected) that are smaller than its limit.

    The probability stays visible just below the threshold, and the regions stay nested. spacing is (z, y, x) mm.
    """
    out = dict(probabilities)
    voxel = float(np.prod(spacing))
    touched = False
    for region, limit in minimum_mm3.items():
        small = small_islands(np.asarray(out[region]) >= THRESHOLD, limit / voxel)
        if small.any():
            changed = np.array(out[region], np.float16)
            changed[small] = np.minimum(changed[small], BELOW)
            out[region] = changed
            touched = True
    return nest(out) if touched else out
