"""What acquisition, export and preparation do to a picture, by kind. All of it ends in the form that training data has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oncoflow_site.demo.simulator.acquisition import Degradation, brain_mask, prepared_images, random_degradation
from oncoflow_site.demo.simulator.anatomy import Maps
from oncoflow_site.demo.simulator.contrast import SEQUENCES
from oncoflow_site.demo.simulator.fields import FieldSource, Floats, soft_step

__all__ = ["flawed_images", "flawed_mask", "slice_profile"]


def flawed_mask(maps: Maps, source: FieldSource, kinds: Collection[str]) -> NDArray[np.bool_]:
    """The brain mask (x, y, z); with "strip-errors" pieces of scalp and dura are left in and pieces of cortex are missing."""
    mask = brain_mask(maps, source)
    if "strip-errors" not in kinds:
        return mask
    rng = source.rng(700)
    out = mask
    if rng.random() < 0.75:
        # Left in: up to 6-14 mm beyond the brain, most often at the skull base and the frontal and temporal poles.
        extra = soft_step(source.field(maps.grid.axes, 13.0, 701) - np.float32(rng.uniform(0.3, 1.3)), 0.3)
        low = soft_step(12.0 - maps.mni[2], 12.0)
        out = out | (maps.brain_distance < extra * np.float32(rng.uniform(5.0, 14.0)) * (0.4 + 0.6 * low))
    if rng.random() < 0.6:
        lost = soft_step(source.field(maps.grid.axes, 14.0, 702) - np.float32(rng.uniform(0.5, 1.4)), 0.3)
        out = out & (maps.brain_distance < -lost * np.float32(rng.uniform(4.0, 10.0)) + 12.0 * (lost < 0.02))
    pieces, count = ndimage.label(out)
    if count > 1:
        out = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return out


def slice_profile(length: int, spacing: float, thickness: float, offset: float) -> Floats:
    """Matrix (length, length) that averages an axis over slices of `thickness` mm and interpolates between their centres.

    offset: where the first slice lies, 0-1 of a slice. Rows sum to 1.
    """
    extent = length * spacing
    centres = np.arange(offset * thickness, extent + thickness, thickness)
    at = (np.arange(length) + 0.5) * spacing
    overlap = np.minimum(at + spacing / 2, centres[:, None] + thickness / 2) - np.maximum(
        at - spacing / 2, centres[:, None] - thickness / 2
    )
    sampled = np.clip(overlap, 0, None)
    filled = sampled.sum(axis=1) > 0
    sampled, centres = sampled[filled], centres[filled]
    sampled /= sampled.sum(axis=1, keepdims=True)
    rows = np.stack([np.interp(at, centres, one) for one in np.eye(len(centres))], axis=1)
    return (rows @ sampled).astype(np.float32)


def _moved(image: Floats, spacing: float, rng: np.random.Generator) -> Floats:
    """1-2 mm and up to 1.5 degrees away, about the middle of the grid."""
    angles = np.deg2rad(rng.uniform(-1.5, 1.5, 3))
    turn = np.eye(3)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    direction = rng.normal(size=3)
    shift = direction / np.linalg.norm(direction) * rng.uniform(1.0, 2.0) / spacing
    middle = (np.asarray(image.shape) - 1) / 2.0
    moved: Floats = ndimage.affine_transform(image, turn, middle - turn @ middle + shift, order=1, mode="nearest")
    return moved


def _coil(maps: Maps, rng: np.random.Generator) -> Floats:
    """A surface coil's profile: signal falls off from one side of the head."""
    x, y, z = maps.grid.open_coordinates()
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    along = (x * np.float32(direction[0]) + y * np.float32(direction[1]) + z * np.float32(direction[2])) / 70.0
    return np.exp(np.float32(rng.uniform(0.1, 0.4)) * along).astype(np.float32)


def _windowed(image: NDArray[np.int16], mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int16]:
    """As exported from a display: clipped at a window, with a monotone curve, in 8 to 12 bits."""
    inside = image[mask].astype(np.float32)
    low, high = np.percentile(inside, [rng.uniform(0.0, 3.0), rng.uniform(96.5, 99.9)])
    if high <= low:
        return image
    value = np.clip((inside - low) / (high - low), 0, 1)
    knots = np.sort(np.concatenate([[0.0, 1.0], np.linspace(0.2, 0.8, 4) + rng.normal(0, 0.05, 4)]))
    value = np.interp(value, np.linspace(0, 1, 6), np.clip(knots, 0, 1))
    out = np.zeros_like(image)
    out[mask] = 1 + np.rint(value * (2 ** int(rng.integers(8, 13)) - 1)).astype(np.int16)
    return out


def flawed_images(
    images: Floats, maps: Maps, mask: NDArray[np.bool_], source: FieldSource, kinds: Collection[str]
) -> tuple[NDArray[np.int16], tuple[Degradation, ...]]:
    """Images (4, x, y, z) as prepared, 0 outside `mask`, and each sequence's ordinary flaws; `images` are changed."""
    rng = source.rng(710)
    spacing = maps.grid.spacing
    thick = rng.random() < 0.5
    flaws = [random_degradation(rng, n, thick=thick) for n in range(len(SEQUENCES))]
    still = int(rng.integers(len(SEQUENCES)))
    axis = 2 if rng.random() < 0.75 else int(rng.integers(0, 2))
    for n in range(len(SEQUENCES)):
        # T1 and T1c are thick in older examinations only.
        if "thick-slices" in kinds and (n >= 2 or rng.random() < 0.4):
            along = axis if n >= 2 else int(rng.integers(0, 3))
            profile = slice_profile(images[n].shape[along], spacing, rng.uniform(5.0, 7.0), rng.uniform(0.0, 1.0))
            images[n] = np.moveaxis(np.tensordot(profile, images[n], axes=(1, along)), 0, along)
            flaws[n] = replace(flaws[n], slice_thickness=min(flaws[n].slice_thickness, 2.0))
        if "misregistered" in kinds and n != still and rng.random() < 0.7:
            images[n] = _moved(images[n], spacing, rng)
        if "coil-profile" in kinds:
            images[n] *= _coil(maps, rng)
            flaws[n] = replace(flaws[n], bias=float(rng.uniform(0.08, 0.22)))
        if "motion" in kinds and rng.random() < 0.6:
            along = int(rng.integers(0, 2))
            images[n] = ndimage.gaussian_filter1d(images[n], rng.uniform(0.4, 1.1), axis=along)
            flaws[n] = replace(flaws[n], ghost=float(rng.uniform(0.04, 0.11)))
    prepared = prepared_images(images, maps, mask, tuple(flaws), source)
    if "windowed" in kinds:
        for n in range(len(SEQUENCES)):
            if rng.random() < 0.8:
                prepared[n] = _windowed(prepared[n], mask, rng)
    return prepared, tuple(flaws)
