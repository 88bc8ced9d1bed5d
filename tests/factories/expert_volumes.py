"""Volumes that an expert can read, and weights that are in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from imaging.brats.regions import region_masks
from inference.experts.contract import Volumes

WEIGHTS = Path(__file__).resolve().parents[2] / "inference" / "weights"


def phantom(spacing: float = 2.0, seed: int = 1) -> tuple[Volumes, dict[str, NDArray[np.bool_]]]:
    """A head of ellipsoids with one ring-enhancing tumour; truth beside it."""
    rng = np.random.default_rng(seed)
    shape = tuple(round(n * 2 / spacing) for n in (72, 90, 74))
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    brain = (z / 0.92) ** 2 + (y / 0.94) ** 2 + (x / 0.92) ** 2 < 1
    texture = gaussian_filter(rng.normal(size=shape), 4 / spacing)
    texture = texture / texture.std()
    grey = gaussian_filter(rng.normal(size=shape), 6 / spacing) > 0
    r = np.sqrt(((z - 0.2) * 72) ** 2 + ((y + 0.1) * 90) ** 2 + ((x - 0.35) * 74) ** 2) + texture
    labels = np.zeros(shape, np.uint8)
    labels[(r < 26) & brain] = 2
    labels[(r < 15) & brain] = 3
    labels[(r < 9) & brain] = 1
    base = {"T1": (1.0, 0.75), "T1c": (1.0, 0.8), "T2": (1.0, 1.4), "FLAIR": (1.0, 1.2)}
    tumour = {"T1": (0.6, 0.8, 0.8), "T1c": (0.6, 0.75, 1.6), "T2": (2.6, 2.4, 1.6), "FLAIR": (1.5, 2.0, 1.6)}
    images = {}
    for name, (white, gray) in base.items():
        image = np.where(grey, gray, white) + 0.03 * texture
        for label, value in zip((1, 2, 3), tumour[name], strict=True):
            image[labels == label] = value + 0.03 * texture[labels == label]
        image = gaussian_filter(image, 0.5) + rng.normal(size=shape) * 0.03
        images[name] = np.where(brain, np.maximum(image, 0.01) * 300, 0).astype(np.float32)
    return Volumes(images, (spacing,) * 3, brain), region_masks(labels)


def committed(name: str) -> Path:
    folder = WEIGHTS / name
    if not (folder / "model.json").is_file():
        pytest.skip(f"the weights {name} are not in the repository yet")
    return folder


def study() -> Volumes:
    """A phantom of few slices, so that random networks are quick."""
    volumes, _ = phantom(4.0)
    return volumes
