"""Largest axial diameter of a region and the largest perpendicular to it, in millimetres (RANO: Wen et al., JCO 41:5187, 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from imaging.geometry.grid import Grid
from oncoflow_site.foundation.errors import required

__all__ = ["MEASURABLE_MM", "AxialDiameters", "axial_diameters"]


MEASURABLE_MM = 10.0
_SAMPLE_MM = 0.25
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class AxialDiameters:
    """Longest axial diameter and its perpendicular, mm, in slice ``slice_index`` (z) of the grid.

    :param measurable: both at least 10 mm, and the lesion reaches over at least two slices.
    """

    longest_mm: float
    perpendicular_mm: float
    slice_index: int
    measurable: bool


def axial_diameters(mask: NDArray[np.bool_], grid: Grid) -> AxialDiameters | None:
    """Diameters of one lesion, or None for an empty mask.

    Points are the midpoints of the outer faces of border voxels, in mm in the plane, so that a run of n voxels is n
    voxels long. A diameter counts when it leaves the lesion nowhere by more than one voxel. Parts of the lesion that
    are apart in a slice are measured each for itself.

    :param mask: (z, y, x), one lesion.
    """
    row_mm, column_mm = grid.spacing_zyx()[1:]
    candidates: list[tuple[float, int, NDArray[np.bool_], NDArray[np.float64]]] = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        plane = mask[z]
        rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        part = np.pad(plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2)
        parts, count = ndimage.label(part, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            one = parts == number
            points = _face_midpoints(one) * (row_mm, column_mm)
            bound = float(np.max(np.linalg.norm(_hull(points)[:, None] - _hull(points)[None], axis=-1)))
            candidates.append((bound, int(z), one, points))
    if not candidates:
        return None
    # The widest hull first: once a diameter inside beats the next hull, no later slice can be longer.
    candidates.sort(key=lambda item: -item[0])
    best: tuple[float, int, NDArray[np.bool_], NDArray[np.float64]] | None = None
    for bound, z, one, points in candidates:  # type: ignore[assignment]
        if best is not None and bound <= best[0]:
            break
        found = _longest_inside(one, points, row_mm, column_mm, at_least=best[0] if best else 0.0)
        if found is not None:
            best = (found[0], z, one, found[1])  # type: ignore[assignment]
    # The first candidate always has a diameter: one face to the opposite face.
    longest, z, one, direction = required(best, "a diameter of the region")  # type: ignore[assignment]
    perpendicular = _longest_run(one, np.array([-direction[1], direction[0]]), row_mm, column_mm)
    slices = int(np.count_nonzero(mask.any(axis=(1, 2))))
    measurable = longest >= MEASURABLE_MM and perpendicular >= MEASURABLE_MM and slices >= 2
    return AxialDiameters(longest, perpendicular, z, measurable)  # type: ignore[arg-type]


def _face_midpoints(plane: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 2) row, column of the midpoints of the faces between the part and the outside, in voxels."""
    points = []
    for axis, step in ((0, -1), (0, 1), (1, -1), (1, 1)):
        outside = plane & ~np.roll(plane, -step, axis=axis)
        found = np.argwhere(outside).astype(np.float64)
        found[:, axis] += 0.5 * step
        points.append(found)
    return np.concatenate(points)


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return np.asarray(points[ConvexHull(points).vertices])
    except QhullError:
        return points


def _inside(
    plane: NDArray[np.bool_], starts: NDArray[np.float64], ends: NDArray[np.float64], row_mm: float, column_mm: float
) -> NDArray[np.bool_]:
    """Which segments (mm) stay in ``plane`` or within one voxel of it."""
    near = ndimage.binary_dilation(plane)
    steps = max(2, int(np.ceil(float(np.max(np.linalg.norm(ends - starts, axis=1))) / (0.5 * min(row_mm, column_mm)))))
    fractions = np.linspace(0.0, 1.0, steps + 1)
    places = starts[:, None] + (ends - starts)[:, None] * fractions[None, :, None]
    index = np.rint(places / (row_mm, column_mm)).astype(int)
    index = np.clip(index, 0, np.asarray(plane.shape) - 1)
    return np.asarray(near[index[..., 0], index[..., 1]].all(axis=1))


def _longest_inside(
    plane: NDArray[np.bool_], points: NDArray[np.float64], row_mm: float, column_mm: float, *, at_least: float
) -> tuple[float, NDArray[np.float64]] | None:
    """Longest pair of border points whose connection stays inside: (mm, unit direction); None if not > ``at_least``."""
    hull = _hull(points)
    for subset in (hull, points):
        first, second = np.triu_indices(len(subset), 1)
        length = np.linalg.norm(subset[first] - subset[second], axis=1)
        wanted = np.flatnonzero(length > at_least)
        order = wanted[np.argsort(-length[wanted], kind="stable")]
        if subset is hull:
            # Between hull corners only the very longest is sure to be the answer; else every border point counts.
            order = order[:1]
        for begin in range(0, len(order), _PAIRS_AT_ONCE):
            part = order[begin : begin + _PAIRS_AT_ONCE]
            good = _inside(plane, subset[first[part]], subset[second[part]], row_mm, column_mm)
            if good.any():
                chosen = part[int(np.argmax(good))]
                vector = subset[second[chosen]] - subset[first[chosen]]
                return float(length[chosen]), vector / length[chosen]
    return None


def _longest_run(plane: NDArray[np.bool_], direction: NDArray[np.float64], row_mm: float, column_mm: float) -> float:
    """Longest unbroken run inside ``plane`` along ``direction`` (unit vector, mm), sampled every 0.25 mm."""
    spacing = np.array([row_mm, column_mm])
    middle = (np.asarray(plane.shape) - 1) / 2.0 * spacing
    radius = float(np.linalg.norm(np.asarray(plane.shape) * spacing)) / 2.0 + 1.0
    offsets = np.arange(-radius, radius + _SAMPLE_MM, _SAMPLE_MM)
    across = np.array([-direction[1], direction[0]])
    places = middle + offsets[:, None, None] * across + offsets[None, :, None] * direction
    index = np.rint(places / spacing).astype(int)
    valid = np.all((index >= 0) & (index < plane.shape), axis=-1)
    index = np.clip(index, 0, np.asarray(plane.shape) - 1)
    hit = plane[index[..., 0], index[..., 1]] & valid
    padded = np.pad(hit, ((0, 0), (1, 1)))
    change = np.diff(padded.astype(np.int8), axis=1)
    begin, end = np.nonzero(change == 1), np.nonzero(change == -1)
    if begin[1].size == 0:
        return 0.0
    return float(np.max(end[1] - begin[1])) * _SAMPLE_MM


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Holes closed slice by slice: an enhancing rim is measured across the necrosis that it encloses."""
    out = mask.copy()
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        out[z] = ndimage.binary_fill_holes(mask[z])
    return out


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count <= 1:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))
