"""Removal of islands too small to mean anything, with limits chosen on validation cases and kept in model.json.

A few stray voxels make Dice 0 in a brain without tumour, and would be drawn in a report. The limits are in cubic
millimetres, so they mean the same on every grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.experts.base import REGIONS, nest

__all__ = ["minimum_volumes", "suppress_small"]

BELOW = np.float16(0.49)
THRESHOLD = 0.5


def minimum_volumes(model: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a model.json: {"minimum_mm3": {"WT": 200, ...}}; regions without one have none."""
    limits = model.get("minimum_mm3") or {}
    return {region: float(limits[region]) for region in REGIONS if float(limits.get(region, 0)) > 0}


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
        mask = np.asarray(out[region]) >= THRESHOLD
        if not mask.any():
            continue
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        labelled, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
        small = np.bincount(labelled.ravel()) * voxel < limit
        small[0] = False
        if small.any():
            changed = np.array(out[region], np.float16)
            changed[box] = np.where(small[labelled], np.minimum(changed[box], BELOW), changed[box])
            out[region] = changed
            touched = True
    return nest(out) if touched else out
