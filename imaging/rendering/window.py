"""Grey levels of a picture from the values of an image: the VOI LUT functions of DICOM, and a plain range. Arrays only.

Display values run from 0 (black) to 1 (white). For looking at, nothing is measured on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["apply_range", "apply_window", "grey_levels", "percentile_range"]


def apply_window(values: NDArray[np.float32], centre: float, width: float, function: str) -> NDArray[np.float32]:
    """Display values by a window.

    :param function: ``linear`` (PS3.3 C.11.2.1.2), ``sigmoid`` (C.11.2.1.3.1) or ``linear-exact`` (C.11.2.1.3.2).
    """
    if function == "sigmoid":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -60, 60))), dtype=np.float32)
    if function == "linear" and width > 1:
        scaled = (values - (centre - 0.5)) / (width - 1.0) + 0.5
    else:
        scaled = (values - centre) / max(width, 1e-6) + 0.5
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)


def apply_range(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Display values with ``low`` black and ``high`` white."""
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0), dtype=np.float32)


def percentile_range(values: NDArray[Any]) -> tuple[float, float]:
    """The range that leaves half a percent of the values out at either end. :param values: at least one."""
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def grey_levels(shown: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Display values as 256 levels."""
    return np.asarray(np.rint(shown * 255.0), dtype=np.uint8)
