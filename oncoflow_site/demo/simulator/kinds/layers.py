"""Layers: what is painted over a brain, and which label it has. And the shapes that kinds are made of.

Arrays are (x, y, z) on the grid of the maps; depths are mm, positive inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oncoflow_site.demo.simulator.anatomy import Maps, MassEffect
from oncoflow_site.demo.simulator.contrast import Four, Look
from oncoflow_site.demo.simulator.fields import FieldSource, Floats, Grid
from oncoflow_site.demo.simulator.tumour import Lesion, TumourMaps

__all__ = [
    "CAVITY",
    "UNLABELLED",
    "Layer",
    "Painter",
    "Scene",
    "blob",
    "largest_pieces",
    "paint_layers",
    "scaled",
    "texture",
]

UNLABELLED, CAVITY = 0, 4


@dataclass
class Layer:
    """alpha 0-1; values in T1, T1c, T2, FLAIR (white matter = 1), each times `texture` where there is one.

    label: None leaves the labels as they are; otherwise it is set where alpha > 0.5 (UNLABELLED clears, CAVITY marks the cavity).
    under: labels that this one does not replace.
    """

    alpha: Floats
    values: Four
    label: int | None = None
    texture: Floats | None = None
    under: tuple[int, ...] = ()


Painter = Callable[[Maps, TumourMaps, Look, FieldSource], Sequence[Layer]]


@dataclass
class Scene:
    """A case before it is painted. Painters before the tumour (mimics) see where it is; those after it belong to it.

    swell: changes the tissue maps in place before anything is painted (infiltration, shrinkage).
    """

    look: Look
    lesions: list[Lesion] = field(default_factory=list)
    masses: list[MassEffect] = field(default_factory=list)
    swell: list[Callable[[Maps, FieldSource], None]] = field(default_factory=list)
    before: list[Painter] = field(default_factory=list)
    after: list[Painter] = field(default_factory=list)


def blob(
    grid: Grid,
    centre: NDArray[np.float64],
    radius: float,
    source: FieldSource,
    *names: int,
    lumps: float = 0.2,
    stretch: NDArray[np.float64] | None = None,
) -> Floats:
    """Depth in mm inside a lumpy ellipsoid."""
    x, y, z = grid.open_coordinates()
    by = np.ones(3) if stretch is None else stretch
    r2 = sum(((a - np.float32(c)) / np.float32(s)) ** 2 for a, c, s in zip((x, y, z), centre, by, strict=True))
    wave = source.field(grid.axes, max(5.0, 0.55 * radius), *names)
    return np.asarray(np.float32(radius) - np.sqrt(np.asarray(r2)) + np.float32(lumps * radius) * wave, np.float32)


def texture(grid: Grid, source: FieldSource, scale: float, strength: float, *names: int) -> Floats:
    """A factor about 1."""
    return np.clip(1.0 + np.float32(strength) * source.field(grid.axes, scale, *names), 0.5, 1.6).astype(np.float32)


def scaled(four: Four, by: Four) -> Four:
    """The product, sequence by sequence."""
    a, b, c, d = (float(v * f) for v, f in zip(four, by, strict=True))
    return a, b, c, d


def largest_pieces(mask: NDArray[np.bool_], least_voxels: int) -> NDArray[np.bool_]:
    """Without pieces smaller than `least_voxels`."""
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 1:
        return mask
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= least_voxels)[pieces]
    return kept


def paint_layers(images: Floats, labels: NDArray[np.uint8], cavity: NDArray[np.bool_], layers: Sequence[Layer]) -> None:
    """Paint one over the other, in place."""
    for layer in layers:
        alpha = np.clip(layer.alpha, 0.0, 1.0)
        if not (alpha > 0.01).any():
            continue
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(alpha > 0.01))
        part = alpha[box]
        grain = None if layer.texture is None else layer.texture[box]
        for image, value in zip(images, layer.values, strict=True):
            target = np.float32(value) if grain is None else np.float32(value) * grain
            image[box] += part * (target - image[box])
        if layer.label is None:
            continue
        where = alpha > 0.5
        if layer.under:
            where &= ~np.isin(labels, layer.under)
        labels[where] = UNLABELLED if layer.label == CAVITY else layer.label
        cavity[where] = layer.label == CAVITY
