"""Does a study look like those a model learned from? Measured on intensities and anatomy, against a recorded distribution.

A study becomes some thirty numbers that hardly depend on tumours: the shape of each sequence's histogram inside the brain,
its smoothness, how it changes from the brain's surface to its depth, how the sequences go together, size, shape and
symmetry of the brain. Two things are asked of them: how far they are from the usual together, and how far the one that
stands out most. The first is Mahalanobis' with a covariance shrunk as Ledoit and Wolf do (J. Multivar. Anal. 88
(2004) 365). The limit is the 99th percentile over training cases that were left out of the fit. A model's folder keeps its
distribution in distribution.json, made by `python -m inference.training.distribution`.

How a head is turned is not judged here (simulated ones lie in many ways): the brain mask, fitted to an atlas, does that. One
sequence alone whose grey scale is turned round may pass. Arrays are (z, y, x), RAS; numpy and scipy only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.weights import DISTRIBUTION
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["FILE", "Distribution", "DomainShift", "feature_names", "features", "fit", "from_json", "load"]

FILE = DISTRIBUTION
STEP_MM = 2.0
PERCENTILES = (1, 5, 95, 99)
PASS = 99.5
FOLDS = 10
_SEQUENCE = ("smoothness", "surface", "symmetry", "top to bottom", "front to back")
_BRAIN = (
    "brain: volume",
    "brain: length to width",
    "brain: height to width",
    "brain: compactness",
    "brain: lowest third",
    "brain: rearmost third",
)


@dataclass(frozen=True)
class DomainShift:
    """How unlike a study is.

    distance: root mean squared deviation of its features, decorrelated; 1 is usual. peak: the largest deviation of a single
    feature, in standard deviations. limits: of both. telling: names of the features that stand out.
    """

    distance: float
    peak: float
    limits: tuple[float, float]
    telling: tuple[str, ...]

    @property
    def outside(self) -> bool:
        """True when the study is further away than a limit."""
        return self.distance > self.limits[0] or self.peak > self.limits[1]

    def sentence(self) -> str:
        """What to tell about a study that is outside, with the figures; empty for one that is not."""
        if not self.outside:
            return ""
        told = f"; most unusual: {', '.join(self.telling)}" if self.telling else ""
        return (
            f"The images are unlike those the model learned from (distance {self.distance:.2f}, limit "
            f"{self.limits[0]:.2f}; largest deviation {self.peak:.1f}, limit {self.limits[1]:.1f}{told})."
        )


def feature_names(sequences: Sequence[str]) -> list[str]:
    """Names of the numbers of `features`, in order, for these sequences."""
    present = [s for s in PANEL_SEQUENCES if s in sequences]
    names = [f"{s}: {p}th percentile" for s in present for p in PERCENTILES]
    names += [f"{s}: {what}" for s in present for what in _SEQUENCE]
    names += [f"{a} with {b}" for a, b in combinations(present, 2)]
    return [*names, *_BRAIN]


def features(
    images: Mapping[str, NDArray[Any]], brain: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    """The numbers of one study. spacing is (z, y, x) mm. Raises ValueError where the brain is too small to say anything."""
    present = [s for s in PANEL_SEQUENCES if s in images]
    mask, coarse, steps = _coarse({s: np.asarray(images[s], np.float32) for s in present}, brain, spacing)
    if int(mask.sum()) < 2_000 or not present:
        raise ValueError("the brain is too small for a comparison")
    depth = ndimage.distance_transform_edt(mask, sampling=steps)
    indices: NDArray[np.float32] = np.indices(mask.shape, np.float32)
    places = (indices[0], indices[1])
    found: list[float] = []
    scaled: dict[str, NDArray[np.float32]] = {}
    for name in present:
        inside = coarse[name][mask]
        low, middle, high = (float(np.percentile(inside, p)) for p in (25, 50, 75))
        image = (coarse[name] - middle) / max(high - low, 1e-6)
        scaled[name] = np.clip(image, -20, 20).astype(np.float32)
        found += [float(np.percentile(scaled[name][mask], p)) for p in PERCENTILES]
    for name in present:
        image = scaled[name]
        found += [_smoothness(image, mask), _surface(image, mask, depth), _symmetry(image, mask)]
        found += [_correlation(image[mask], place[mask]) for place in places]
    for a, b in combinations(present, 2):
        found.append(_correlation(scaled[a][mask], scaled[b][mask]))
    return np.array([*found, *_shape(mask, steps)], np.float64)


def _coarse(
    images: Mapping[str, NDArray[np.float32]], brain: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.float32]], tuple[float, float, float]]:
    """Mask and images near 2 mm, averaged in blocks, cut to the brain; spacing of the result."""
    box = ndimage.find_objects(brain.astype(np.uint8))
    if not box:
        return np.zeros((1, 1, 1), bool), {s: np.zeros((1, 1, 1), np.float32) for s in images}, (1.0, 1.0, 1.0)
    factor = tuple(max(1, round(STEP_MM / s)) for s in spacing)
    mask = brain[box[0]]
    pad = [(0, -n % f) for n, f in zip(mask.shape, factor, strict=True)]

    def blocks(array: NDArray[np.float32]) -> NDArray[np.float32]:
        z, y, x = np.pad(array, pad).shape
        cut = np.pad(array, pad).reshape(
            z // factor[0], factor[0], y // factor[1], factor[1], x // factor[2], factor[2]
        )
        return np.asarray(cut.mean(axis=(1, 3, 5)), np.float32)

    share = blocks(mask.astype(np.float32))
    small = share >= 0.5
    means = {
        s: np.where(small, blocks(image[box[0]] * mask) / np.maximum(share, 1e-6), 0) for s, image in images.items()
    }
    steps = tuple(s * f for s, f in zip(spacing, factor, strict=True))
    return small, {s: np.asarray(m, np.float32) for s, m in means.items()}, (steps[0], steps[1], steps[2])


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    if a.size < 10 or float(np.ptp(a)) == 0.0 or float(np.ptp(b)) == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _smoothness(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Correlation of each voxel with its neighbour along y: about 0.8 in a head, 0 in noise."""
    both = mask[:, 1:] & mask[:, :-1]
    return _correlation(image[:, 1:][both], image[:, :-1][both])


def _surface(image: NDArray[np.float32], mask: NDArray[np.bool_], depth: NDArray[np.float64]) -> float:
    """Difference of the medians of the outer 6 mm and of what lies deeper than 15 mm."""
    outer, inner = mask & (depth <= 6.0), mask & (depth > 15.0)
    return float(np.median(image[outer]) - np.median(image[inner])) if outer.any() and inner.any() else 0.0


def _symmetry(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Correlation of the smoothed image with itself, mirrored left to right about the middle of the mask's box."""
    both = mask & mask[:, :, ::-1]
    smooth = ndimage.gaussian_filter(image * mask, 2.0)
    return _correlation(smooth[both], smooth[:, :, ::-1][both])


def _shape(mask: NDArray[np.bool_], steps: tuple[float, float, float]) -> list[float]:
    volume = float(mask.sum() * np.prod(steps))
    height, length, width = (n * s for n, s in zip(mask.shape, steps, strict=True))
    edge = mask & ~ndimage.binary_erosion(mask)
    surface = float(edge.sum()) * float(np.prod(steps)) ** (2 / 3)
    low = float(mask[: mask.shape[0] // 3].sum() / mask.sum())
    rear = float(mask[:, : mask.shape[1] // 3].sum() / mask.sum())
    return [float(np.log(volume)), length / width, height / width, surface / volume ** (2 / 3), low, rear]


@dataclass(frozen=True)
class Distribution:
    """What is usual. names: of the features of all four sequences. limits: by the sequences present, joined by "+"."""

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    limits: Mapping[str, tuple[float, float]]
    cases: int

    def compare(
        self, images: Mapping[str, NDArray[Any]], brain: NDArray[np.bool_], spacing: tuple[float, float, float]
    ) -> DomainShift | None:
        """How unlike a study is; None where this cannot be said (no brain, or sequences that were not recorded)."""
        try:
            return self.judge(images, features(images, brain, spacing))
        except ValueError:
            return None

    def judge(self, sequences: Collection[str], values: NDArray[np.float64]) -> DomainShift | None:
        """As `compare`, from a study's sequences and its `features`: several models may judge the same numbers."""
        present = [s for s in PANEL_SEQUENCES if s in sequences]
        limit = self.limits.get("+".join(present))
        if limit is None:
            return None
        names = feature_names(present)
        where = [self.names.index(name) for name in names]
        covariance = self.covariance[np.ix_(where, where)]
        deviations = _deviations(values, self.mean[where], covariance)
        telling = tuple(names[i] for i in np.argsort(-deviations)[:3] if deviations[i] > 3)
        distance = _distance(values, self.mean[where], covariance)
        return DomainShift(distance, float(deviations.max()), limit, telling)

    def as_json(self) -> JsonDict:
        """For distribution.json."""
        return {
            "names": list(self.names),
            "mean": [round(float(v), 6) for v in self.mean],
            "covariance": [[round(float(v), 8) for v in row] for row in self.covariance],
            "limits": {key: [round(float(v), 4) for v in pair] for key, pair in self.limits.items()},
            "cases": self.cases,
            "passing_percent": PASS,
        }


def _distance(values: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    away = values - mean
    return float(np.sqrt(max(0.0, float(away @ np.linalg.solve(covariance, away))) / len(values)))


def _deviations(
    values: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.abs(values - mean) / np.sqrt(np.diag(covariance)))


def _shrunk(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ledoit and Wolf's covariance of standardised features, given back in their own units."""
    n, count = rows.shape
    scale = np.maximum(rows.std(axis=0), 1e-6)
    unit = (rows - rows.mean(axis=0)) / scale
    sample = unit.T @ unit / n
    middle = float(np.trace(sample)) / count
    spread = float(((sample - middle * np.eye(count)) ** 2).sum()) / count
    noise = float((((unit**2).T @ (unit**2)) / n - sample**2).sum()) / (n * count)
    share = min(1.0, noise / spread) if spread > 0 else 1.0
    return np.asarray(((1 - share) * sample + share * middle * np.eye(count)) * np.outer(scale, scale))


def fit(rows: NDArray[np.float64]) -> Distribution:
    """From the features (case, feature) of at least 40 cases with all four sequences.

    The limits for each subset of the sequences come from cases left out of the fit, a tenth at a time.
    """
    if len(rows) < 40:
        raise ValueError("a distribution needs at least 40 cases")
    names = feature_names(PANEL_SEQUENCES)
    limits: dict[str, tuple[float, float]] = {}
    for size in range(1, len(PANEL_SEQUENCES) + 1):
        for present in combinations(PANEL_SEQUENCES, size):
            where = [names.index(name) for name in feature_names(present)]
            part = rows[:, where]
            distances, peaks = [], []
            for fold in range(FOLDS):
                left = np.arange(len(part)) % FOLDS == fold
                mean, covariance = part[~left].mean(axis=0), _shrunk(part[~left])
                distances += [_distance(row, mean, covariance) for row in part[left]]
                peaks += [float(_deviations(row, mean, covariance).max()) for row in part[left]]
            limits["+".join(present)] = (float(np.percentile(distances, PASS)), float(np.percentile(peaks, PASS)))
    return Distribution(tuple(names), rows.mean(axis=0), _shrunk(rows), limits, len(rows))


def load(folder: Path) -> Distribution | None:
    """The distribution of a weights folder; None when it has none or it cannot be read."""
    try:
        return from_json(json.loads((folder / FILE).read_text("utf-8")))
    except (OSError, ValueError):
        return None


def from_json(data: Any) -> Distribution | None:
    """Inverse of `Distribution.as_json`; None where the record is none."""
    try:
        found = Distribution(
            tuple(map(str, data["names"])),
            np.array(data["mean"], np.float64),
            np.array(data["covariance"], np.float64),
            {str(k): (float(v[0]), float(v[1])) for k, v in data["limits"].items()},
            int(data["cases"]),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    count = len(found.names)
    return found if found.mean.shape == (count,) and found.covariance.shape == (count, count) else None
