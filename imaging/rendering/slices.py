"""Pictures of slices: PNG bytes for the web and the report. Display only, nothing is measured on them.

Radiological convention: the patient's right is on the left of axial and coronal pictures, anterior at the top of axial
ones, superior at the top of coronal and sagittal ones, and sagittal ones face left (anterior on the left).
"""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from imaging.geometry.grid import Grid
from imaging.rendering.window import apply_range, grey_levels, percentile_range

__all__ = ["PALETTE", "VIEW_PLANES", "ViewPlane", "best_slices", "default_window", "render_slice", "slice_count"]

ViewPlane = Literal["axial", "coronal", "sagittal"]
VIEW_PLANES: tuple[ViewPlane, ...] = ("axial", "coronal", "sagittal")
_AXIS: dict[str, int] = {"axial": 0, "coronal": 1, "sagittal": 2}

# Okabe and Ito's colours: told apart with any common colour vision deficiency, on grey.
PALETTE: dict[str, tuple[int, int, int]] = {
    "WT": (86, 180, 233),
    "TC": (240, 228, 66),
    "ET": (213, 94, 0),
}
_LABELS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def slice_count(grid: Grid, plane: ViewPlane) -> int:
    """Number of slices of ``plane``."""
    return grid.shape_zyx[_AXIS[plane]]


def default_window(volume_zyx: NDArray[Any]) -> tuple[float, float]:
    """(low, high) grey window: 0 to the 99.5th percentile of the voxels that are not 0."""
    inside = volume_zyx[volume_zyx != 0]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = percentile_range(inside[:: max(1, inside.size // 200_000)])
    low = min(low, 0.0)
    return low, max(high, low + 1e-6)


def _oriented(array: NDArray[Any], plane: ViewPlane, index: int) -> NDArray[Any]:
    """The slice, rows from top to bottom and columns from left to right of the picture."""
    # RAS+: indices grow towards right, anterior, superior; all six picture axes grow towards the opposite.
    return np.take(array, index, axis=_AXIS[plane])[::-1, ::-1]


def render_slice(
    volume_zyx: NDArray[Any],
    grid: Grid,
    plane: ViewPlane,
    index: int,
    labels: NDArray[np.uint8] | None = None,
    window: tuple[float, float] | None = None,
    outline: bool = True,
    size: int | None = None,
) -> bytes:
    """One slice as PNG, grey with the regions drawn over it, in the convention of this module and true proportions.

    :param volume_zyx: (z, y, x) on ``grid``, which is RAS+ (as volume sets are).
    :param plane: slices across z (axial), y (coronal) or x (sagittal).
    :param index: slice number in array order; clipped into the array.
    :param labels: (z, y, x) uint8, 1 NCR, 2 ED, 3 ET, or None for the bare picture.
    :param window: grey values shown black and white; `default_window` of the volume when None.
    :param outline: contours of WT, TC and ET (colours in `PALETTE`); False fills them half transparent.
    :param size: pixels of the longer side; about two pixels per millimetre when None.
    :raises ValueError: unknown plane, or arrays that do not fit the grid.
    """
    if plane not in _AXIS:
        raise ValueError(f"plane must be one of {', '.join(VIEW_PLANES)}")
    if volume_zyx.shape != grid.shape_zyx or (labels is not None and labels.shape != grid.shape_zyx):
        raise ValueError("the array does not fit the grid")
    index = int(np.clip(index, 0, slice_count(grid, plane) - 1))
    low, high = window if window is not None else default_window(volume_zyx)
    values = _oriented(volume_zyx, plane, index).astype(np.float32)
    grey = grey_levels(apply_range(values, low, high))

    spacing = grid.spacing_zyx()
    row_mm, column_mm = (s for axis, s in enumerate(spacing) if axis != _AXIS[plane])
    height_mm, width_mm = grey.shape[0] * row_mm, grey.shape[1] * column_mm
    scale = size / max(height_mm, width_mm) if size else 2.0
    target = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    picture = Image.fromarray(grey, "L").resize(target, Image.Resampling.BICUBIC)
    rgb = np.asarray(picture.convert("RGB")).astype(np.float32)

    if labels is not None:
        drawn = _oriented(labels, plane, index)
        thickness = max(1, round(max(target) / 350))
        for region in ("WT", "TC", "ET"):
            mask = np.isin(drawn, _LABELS[region])
            if not mask.any():
                continue
            soft = Image.fromarray(mask.astype(np.float32), "F").resize(target, Image.Resampling.BILINEAR)
            area = np.asarray(soft) >= 0.5
            colour = np.asarray(PALETTE[region], dtype=np.float32)
            if outline:
                rgb[area & ~ndimage.binary_erosion(area, iterations=thickness)] = colour
            else:
                rgb[area] = 0.6 * rgb[area] + 0.4 * colour
    out = io.BytesIO()
    Image.fromarray(np.rint(rgb).astype(np.uint8), "RGB").save(out, format="PNG", compress_level=3)
    return out.getvalue()


def best_slices(labels: NDArray[np.uint8]) -> dict[ViewPlane, int]:
    """For each plane the slice that shows most tumour: enhancing and core first, else oedema, else the middle."""
    weight = (labels == 3) * 3.0 + (labels == 1) * 2.0
    if not weight.any():
        weight = (labels == 2) * 1.0
    found: dict[ViewPlane, int] = {}
    for plane in VIEW_PLANES:
        axis = _AXIS[plane]
        area = weight.sum(axis=tuple(a for a in range(3) if a != axis))
        found[plane] = int(np.argmax(area)) if area.any() else labels.shape[axis] // 2
    return found
