"""A person's word stands above the network's: clicks it did not follow change the mask where the picture looks like them.

A network trained on few prompts may answer the same whatever is clicked. Then a negative click inside its mask takes away,
and a positive click outside it adds, what is near the click along a path of like intensities: the geodesic distance of
Criminisi, Sharp and Blake (GeoS, ECCV 2008), as DeepIGeoS (Wang et al., TPAMI 41 (2019) 1559) uses it for corrections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.experts.common.slices import Box
from inference.experts.sam.contract import Click

__all__ = ["enforce_clicks", "linked"]

REACH = 8.0
"""Geodesic reach of a click in voxels of the working grid (16 mm) over tissue that looks the same."""
STEEPNESS = 40.0
"""How much dearer a voxel is that differs from the click by the whole range of the picture."""
MARGIN = 2.0
SURE, UNSURE = np.float32(0.75), np.float32(0.25)


def enforce_clicks(
    picture: NDArray[np.float32], answer: NDArray[np.float32], clicks: Sequence[Click], box: Box | None
) -> tuple[NDArray[np.float32], int]:
    """(probability (side, side), number of clicks that the network had not followed).

    picture: (3, side, side) in 0..1. clicks, box: in its pixels. Without a box only what holds a positive click remains;
    a person's box holds the whole object, so nothing remains outside it.
    """
    out = answer.copy()
    places = [(*_pixel(click, out.shape), click[2]) for click in clicks]
    wrong = [place for place in places if (out[place[0], place[1]] >= 0.5) != place[2]]
    if wrong:
        smooth = ndimage.gaussian_filter(picture, (0, 0.7, 0.7))
        near = {place: _geodesic(smooth, place[0], place[1]) for place in places}
        for place in wrong:
            rivals = [near[other] for other in places if other[2] != place[2]]
            own = near[place] < REACH
            for rival in rivals:
                own &= near[place] < rival
            own[place[0], place[1]] = True
            out[own] = np.maximum(out[own], SURE) if place[2] else np.minimum(out[own], UNSURE)
    if box is not None:
        out = _within(out, box)
    elif any(positive for *_, positive in places):
        seeds = np.zeros(out.shape, bool)
        for row, column, positive in places:
            seeds[row, column] |= positive
        out = linked(out, seeds)
    return out, len(wrong)


def linked(answer: NDArray[np.float32], seeds: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The probability with those of its components (8-connected, from 0.5) pushed below 0.5 that touch no seed."""
    labelled, _ = ndimage.label(answer >= 0.5, np.ones((3, 3)))
    kept = np.isin(labelled, np.unique(labelled[seeds]))
    return np.where((labelled > 0) & ~kept, np.minimum(answer, UNSURE), answer).astype(np.float32)


def _pixel(click: Click, shape: tuple[int, ...]) -> tuple[int, int]:
    return int(np.clip(click[1], 0, shape[0] - 1)), int(np.clip(click[0], 0, shape[1] - 1))


def _geodesic(picture: NDArray[np.float32], row: int, column: int) -> NDArray[np.float64]:
    from skimage.graph import MCP_Geometric

    apart = np.abs(picture - picture[:, row, column][:, None, None]).max(axis=0)
    distance, _ = MCP_Geometric(1.0 + STEEPNESS * apart.astype(np.float64)).find_costs([(row, column)])
    return np.asarray(distance, np.float64)


def _within(answer: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    inside = np.zeros(answer.shape, bool)
    y0, x0 = max(int(np.floor(box[1] - MARGIN)), 0), max(int(np.floor(box[0] - MARGIN)), 0)
    inside[y0 : int(np.ceil(box[3] + MARGIN)), x0 : int(np.ceil(box[2] + MARGIN))] = True
    return np.where(inside, answer, np.minimum(answer, UNSURE)).astype(np.float32)
