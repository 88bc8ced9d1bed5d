"""Beside voxel Dice: surfaces, lesions and volumes of one region of one case.

Masks are bool (z, y, x), spacing (z, y, x) in mm. Voxel Dice forgets what matters where lesions are small or many: a missed
metastasis costs a mean Dice of the whole mask nothing.

- NSD: share of both surfaces that lies within a tolerance of the other (Nikolov et al., J Med Internet Res 2021; on voxels that
  border the outside, as panoptica counts them).
- Lesion-wise Dice as in BraTS 2023: lesions of the truth are its components after dilation by 3 mm, each is compared with the
  predicted components that touch it; a predicted component that touches none counts 0, as does a missed lesion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.fusion.agreement import dice, hd95

__all__ = [
    "DILATION_MM",
    "LEAST_LESION_MM3",
    "NSD_TOLERANCE_MM",
    "LesionScore",
    "RegionScore",
    "lesion_wise",
    "nsd",
    "score_region",
]

NSD_TOLERANCE_MM = 1.0
DILATION_MM = 3.0
LEAST_LESION_MM3 = 50.0
"""Components of the truth below this are not counted as lesions (BraTS 2023)."""

_FULL = np.ones((3, 3, 3), bool)
Spacing = tuple[float, float, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionScore:
    """dice: mean over the truth's lesions and the false ones, 1 where there are neither; found of lesions; false components."""

    dice: float
    lesions: int
    found: int
    false: int


@dataclass(frozen=True)
class RegionScore:
    """One region of one case. hd95_mm is None where exactly one mask is empty; volume_error_ml is predicted minus true.

    volume_error: the same by the true volume, None where that is 0.
    """

    dice: float
    nsd: float
    hd95_mm: float | None
    lesion: LesionScore
    volume_error_ml: float
    volume_error: float | None


def _surface(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)


def nsd(a: Mask, b: Mask, spacing: Spacing, tolerance_mm: float = NSD_TOLERANCE_MM) -> float:
    """Normalised surface distance, 0-1: 1 for two empty masks, 0 for exactly one."""
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    # Padded, so that a mask at the edge of the array has a surface there.
    surface_a, surface_b = _surface(np.pad(a, 1)), _surface(np.pad(b, 1))
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=spacing)[surface_a]
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=spacing)[surface_b]
    return float(((to_b <= tolerance_mm).sum() + (to_a <= tolerance_mm).sum()) / (to_b.size + to_a.size))


def lesion_wise(predicted: Mask, truth: Mask, spacing: Spacing) -> LesionScore:
    """Compare lesion by lesion (see the module's text)."""
    pieces, count = ndimage.label(predicted, _FULL)
    near = truth
    if truth.any():
        near = ndimage.distance_transform_edt(~truth, sampling=spacing) <= DILATION_MM
    grown, lesions = ndimage.label(near, _FULL)
    own = np.where(truth, grown, 0)
    voxel = float(np.prod(spacing))
    scores: list[float] = []
    matched: set[int] = set()
    found = 0
    for number, box in enumerate(ndimage.find_objects(grown, lesions), start=1):
        lesion = own[box] == number
        touching = set(np.unique(pieces[box][grown[box] == number])) - {0}
        # A component matched with a lesion too small to count is no false one either.
        matched |= touching
        if lesion.sum() * voxel < LEAST_LESION_MM3:
            continue
        found += bool(touching)
        # The matched components may reach beyond the lesion's box.
        size = np.isin(pieces, list(touching)).sum() if touching else 0
        both = np.isin(pieces[box], list(touching))[lesion].sum() if touching else 0
        scores.append(float(2 * both / (size + lesion.sum())))
    false = count - len(matched)
    counted = len(scores)
    scores += [0.0] * false
    return LesionScore(float(np.mean(scores)) if scores else 1.0, counted, found, false)


def score_region(predicted: Mask, truth: Mask, spacing: Spacing) -> RegionScore:
    """All measures of one region. Raises ValueError when shapes differ."""
    if predicted.shape != truth.shape:
        raise ValueError("the masks have different shapes")
    ml = float(np.prod(spacing)) / 1000.0
    true_ml, error = float(truth.sum()) * ml, (float(predicted.sum()) - float(truth.sum())) * ml
    return RegionScore(
        dice(predicted, truth),
        nsd(predicted, truth, spacing),
        hd95(predicted, truth, spacing),
        lesion_wise(predicted, truth, spacing),
        error,
        error / true_ml if true_ml else None,
    )
