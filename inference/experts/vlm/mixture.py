"""Which tissue a voxel in a box is: healthy, oedema, core or enhancement, from this study's own intensities.

A Gaussian for each tumour tissue and a mixture of three for what is healthy, fitted by expectation maximisation; boxes say
where each tissue can be, and neighbours pull a voxel towards what they are. This is GrabCut's idea (Rother, Kolmogorov and
Blake, ACM TOG 23 (2004) 309: colours inside a box against those around it) with the hidden Markov random field of brain
segmentation (Zhang, Brady and Smith, IEEE TMI 20 (2001) 45) solved by mean field. What tumour tissue tends to look like
enters as a weak prior of its mean and spread, so that a class with few voxels is not free to become another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["TISSUES", "Features", "features", "tissues"]

TISSUES = ("healthy", "oedema", "core", "enhancing")
ROUNDS = 8
COUPLING = 2.4
"""How strongly the 26 neighbours and the voxel itself pull, times the mean of their probabilities."""
HEALTHY_PARTS = 3
LEAST_VARIANCE = 0.01
FAR = 12
LEAST_VOXELS = 500


@dataclass(frozen=True)
class _Appearance:
    """z-scores of one tissue relative to the healthy median: offsets, their variances, and for how many voxels they count."""

    offset: Mapping[str, float]
    variance: Mapping[str, float]
    voxels: int


APPEARANCES: Mapping[str, _Appearance] = {
    "oedema": _Appearance(
        {"flair": 1.6, "t1": -0.5, "contrast": 0.0}, {"flair": 0.5, "t1": 0.3, "contrast": 0.08}, voxels=600
    ),
    "core": _Appearance(
        {"flair": 0.8, "t1": -1.2, "contrast": 0.0}, {"flair": 1.5, "t1": 0.6, "contrast": 0.15}, voxels=600
    ),
    "enhancing": _Appearance(
        {"flair": 0.8, "t1": -0.3, "contrast": 1.6}, {"flair": 0.8, "t1": 0.5, "contrast": 0.5}, voxels=300
    ),
}
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """values (f, z, y, x): what there is of FLAIR, T1 and contrast (T1c less T1, or T1c alone), in the order of names."""

    names: tuple[str, ...]
    values: NDArray[np.float32]


def features(z: NDArray[np.float32]) -> Features:
    """From z-scores (FLAIR, T1c, T1; z, y, x); a sequence that is all zero is missing and gives no feature."""
    flair, t1c, t1 = z
    found = {"flair": flair, "t1": t1, "contrast": t1c - t1 if t1c.any() else t1c}
    kept = {name: image for name, image in found.items() if image.any()}
    return Features(tuple(kept), np.stack(list(kept.values())) if kept else np.zeros((0, *z.shape[1:]), np.float32))


def tissues(
    found: Features, possible: Mapping[str, NDArray[np.float32]], brain: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(4, z, y, x) probabilities in the order of TISSUES, summing to 1 in the brain.

    :param possible: tissue -> how likely it is at each voxel from the boxes alone (z, y, x), 0..1, all but "healthy".
    """
    result = np.zeros((4, *brain.shape), np.float32)
    result[0] = brain
    tumour = np.sum([possible[name] for name in TISSUES[1:]], axis=0)
    area = ndimage.binary_dilation(tumour > 0.05) & brain
    if not area.any() or not found.names:
        return result
    inside = found.values[:, area].T.astype(np.float64)
    around = found.values[:, _surroundings(tumour, area, brain)].T.astype(np.float64)
    healthy = _healthy(inside, around, found.names)
    middle = np.median(around, axis=0)
    prior = np.stack([np.zeros(len(inside)), *(possible[name][area] for name in TISSUES[1:])]) + 1e-6
    prior[0] = np.maximum(1 - prior[1:].sum(axis=0), 1e-6)
    prior /= prior.sum(axis=0)
    centres = {n: middle + [APPEARANCES[n].offset[f] for f in found.names] for n in TISSUES[1:]}
    spreads = {n: np.diag([APPEARANCES[n].variance[f] for f in found.names]) for n in TISSUES[1:]}
    expected, expected_spread = dict(centres), dict(spreads)
    weight = prior
    for _ in range(ROUNDS):
        likely = [healthy, *(_log_density(inside, centres[n], spreads[n]) for n in TISSUES[1:])]
        share = _normalised(np.stack(likely) + np.log(weight))
        for own, name in zip(share[1:], TISSUES[1:], strict=True):
            # The posterior mean and covariance under a normal-inverse-Wishart prior of LOOKS[name].voxels voxels.
            count, known = own.sum(), APPEARANCES[name].voxels
            centres[name] = (own @ inside + known * expected[name]) / (count + known)
            apart = inside - centres[name]
            spreads[name] = ((own[:, None] * apart).T @ apart + known * expected_spread[name]) / (count + known)
            spreads[name] = spreads[name] + LEAST_VARIANCE * np.eye(len(found.names))
        result[:, area] = share
        around_each = np.stack([ndimage.uniform_filter(one, 3)[area] for one in result])
        weight = prior * np.exp(COUPLING * around_each)
        weight /= weight.sum(axis=0)
    return result


def _surroundings(tumour: NDArray[np.float32], area: NDArray[np.bool_], brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Healthy tissue to compare with: near the boxes where there is enough of it, else all the brain outside them."""
    outside = brain & (tumour <= 0.05)
    near = ndimage.binary_dilation(area, iterations=FAR) & outside
    for candidate in (near, outside):
        if candidate.sum() >= LEAST_VOXELS:
            return np.asarray(candidate, bool)
    return brain


def _healthy(inside: Rows, around: Rows, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Log density of the rows of `inside` under a mixture fitted to `around`: fluid, grey and white matter, by T1 if there."""
    order = around[:, names.index("t1") if "t1" in names else 0]
    group = np.digitize(order, np.quantile(order, (0.15, 0.55)))
    share = np.stack([group == part for part in range(HEALTHY_PARTS)]).astype(np.float64)
    eye = np.eye(len(names))
    for _ in range(6):
        counts = share.sum(axis=1) + 1e-6
        centres = share @ around / counts[:, None]
        spreads = []
        for own, centre, count in zip(share, centres, counts, strict=True):
            apart = around - centre
            spreads.append((own[:, None] * apart).T @ apart / count + 2 * LEAST_VARIANCE * eye)
        parts = np.log(counts / counts.sum())
        share = _normalised(_each(around, centres, spreads) + parts[:, None])
    together: NDArray[np.float64] = np.logaddexp.reduce(_each(inside, centres, spreads) + parts[:, None])
    return together


def _each(rows: Rows, centres: Rows, spreads: list[Rows]) -> Rows:
    return np.stack([_log_density(rows, c, s) for c, s in zip(centres, spreads, strict=True)])


def _log_density(rows: Rows, centre: NDArray[np.float64], spread: Rows) -> NDArray[np.float64]:
    """Of a Gaussian, without the constant that all have."""
    root = np.linalg.cholesky(spread)
    away = np.linalg.solve(root, (rows - centre).T)
    return np.asarray(-0.5 * (away**2).sum(axis=0) - np.log(np.diag(root)).sum(), np.float64)


def _normalised(log: Rows) -> Rows:
    p = np.exp(log - log.max(axis=0))
    return np.asarray(p / p.sum(axis=0), np.float64)
