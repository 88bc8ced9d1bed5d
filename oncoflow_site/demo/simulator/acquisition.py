"""From tissue to images: what a scanner, and then the usual preparation, do to the picture.

Two chains end in the same look. `prepared_images` gives at once what a study looks like after registration, brain
masking and resampling (training data); `scan` gives what leaves the scanner (see patient.py), to go that way itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .anatomy import Maps
from .fields import Axes, FieldSource, Floats, soft_step

__all__ = ["Degradation", "ScanGrid", "bias_field", "brain_mask", "prepared_images", "random_degradation", "scan"]


@dataclass(frozen=True)
class Degradation:
    """What goes wrong with one sequence.

    noise: standard deviation of each channel of the complex signal, white matter = 1; bias: standard deviation of the
    log of the receive field; blur: mm (Gaussian sigma); slice_thickness: mm; gamma: exponent of the display curve;
    ghost: amplitude of a motion ghost; shift: mm by which this sequence is out of register (x, y, z).
    """

    noise: float
    bias: float
    blur: float
    slice_thickness: float
    gamma: float = 1.0
    ghost: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    missing: bool = False


def random_degradation(rng: np.random.Generator, index: int, *, thick: bool) -> Degradation:
    """A prepared sequence's remaining flaws; `index` in SEQUENCES; T2 and FLAIR are often thick-sliced."""
    u = rng.uniform
    thickness = u(3.0, 5.5) if thick and index >= 2 else u(1.0, 2.0)
    return Degradation(
        noise=float(np.exp(u(np.log(0.006), np.log(0.05)))),
        bias=u(0.0, 0.13),
        blur=u(0.35, 1.1),
        slice_thickness=thickness,
        gamma=u(0.85, 1.18),
        ghost=u(0.02, 0.06) if rng.random() < 0.06 else 0.0,
        shift=tuple(rng.normal(0, 0.35, 3).tolist()) if rng.random() < 0.35 else (0.0, 0.0, 0.0),
    )


def bias_field(source: FieldSource, axes: Axes, deviation: float, *names: int) -> Floats:
    """A receive field, mean about 1, varying over some 15 cm."""
    return np.exp(np.float32(deviation) * source.field(axes, 70.0, *names)).astype(np.float32)


def rician(image: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    """Magnitude of the signal with complex Gaussian noise of standard deviation sigma per channel."""
    real = image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.sqrt(real * real + imaginary * imaginary)


def add_ghost(image: Floats, amplitude: float, axis: int, shift: int) -> Floats:
    """Periodic motion during acquisition: displaced copies along the phase-encoding axis."""
    ghost = np.roll(image, shift, axis) + np.roll(image, -shift, axis)
    return (image * (1 - amplitude) + np.float32(amplitude) * ghost).astype(np.float32)


def brain_mask(maps: Maps, source: FieldSource) -> NDArray[np.bool_]:
    """A brain mask as tools make them: eroded here, dilated there, now and then with a piece of something else left in."""
    rng = source.rng(70)
    offset = rng.uniform(-2.4, 2.2)
    wobble = source.field(maps.grid.axes, 16.0, 71) * np.float32(rng.uniform(0.2, 1.2))
    limit = np.float32(offset) + wobble
    if rng.random() < 0.3:
        patches = source.field(maps.grid.axes, 12.0, 72)
        limit += 6.0 * soft_step(patches - np.float32(rng.uniform(1.4, 2.2)), 0.2)
    mask = maps.brain_distance < limit
    # The stem is cut somewhere.
    mask &= maps.mni[2] > np.float32(rng.uniform(-72.0, -55.0))
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return mask


def prepared_images(
    images: Floats, maps: Maps, mask: NDArray[np.bool_], flaws: tuple[Degradation, ...], source: FieldSource
) -> NDArray[np.int16]:
    """Images (4, x, y, z) as they come out of preparation: int16 in arbitrary units, exactly 0 outside `mask`.

    A missing sequence is all zero.
    """
    rng = source.rng(80)
    spacing = maps.grid.spacing
    out = np.zeros(images.shape, np.int16)
    for n, (image, flaw) in enumerate(zip(images, flaws, strict=True)):
        gain = float(np.exp(rng.uniform(np.log(150.0), np.log(1500.0))))
        if flaw.missing:
            continue
        inplane = np.sqrt(max(flaw.blur**2 - (0.3 * spacing) ** 2, 0.0)) / spacing
        # A box of the slice's thickness has a deviation of thickness / sqrt(12); interpolation adds to it.
        through = np.sqrt(max((flaw.slice_thickness * 0.36) ** 2 + flaw.blur**2 - (0.45 * spacing) ** 2, 0.0)) / spacing
        out_image = ndimage.gaussian_filter(image, (inplane, inplane, through), truncate=2.5)
        if any(flaw.shift):
            out_image = ndimage.shift(out_image, [s / spacing for s in flaw.shift], order=1, mode="nearest")
        if flaw.ghost:
            out_image = add_ghost(out_image, flaw.ghost, 1, int(rng.integers(6, 20)))
        out_image = np.maximum(out_image, 0.01) ** np.float32(flaw.gamma)
        out_image = out_image * bias_field(source, maps.grid.axes, flaw.bias, 81, n)
        out_image = rician(out_image, flaw.noise, rng)
        out[n] = np.where(mask, np.clip(np.rint(out_image * gain), 1, 32000), 0)
    return out


@dataclass(frozen=True)
class ScanGrid:
    """A scanner's slices. `affine`: voxel (column, row, slice) to scanner coordinates (RAS mm), 4 x 4.

    shape (columns, rows, slices); spacing in mm along the same axes (the third: between slice centres).
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    slice_thickness: float


def scan(image: Floats, to_voxel: NDArray[np.float64], grid: ScanGrid, working: float) -> Floats:
    """Sample a head-space image on a scanner's slices; thick slices average over their thickness.

    to_voxel: scanner voxel (column, row, slice) to voxel of `image`, 4 x 4; working: spacing of `image`, mm.
    """
    import SimpleITK as sitk  # noqa: N813  (its own convention; half a second that only scanning should pay)

    source = sitk.GetImageFromArray(image)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(sitk.sitkLinear)
    filter_.SetOutputPixelType(sitk.sitkFloat32)
    # Both images stay in voxel units; SimpleITK's index order is the reverse of the array's.
    filter_.SetSize(grid.shape[::-1])
    samples = max(1, round(grid.slice_thickness / working))
    total: Floats | None = None
    for k in range(samples):
        across = ((k + 0.5) / samples - 0.5) * grid.slice_thickness / grid.spacing[2]
        matrix, offset = to_voxel[:3, :3], to_voxel[:3, 3] + to_voxel[:3, 2] * across
        transform = sitk.AffineTransform(matrix[::-1, ::-1].ravel().tolist(), offset[::-1].tolist())
        filter_.SetTransform(transform)
        sampled = filter_.Execute(source)  # kept by name: a view does not keep a temporary image's memory alive
        part = sitk.GetArrayViewFromImage(sampled).copy()
        total = part if total is None else total + part
    if total is None:
        raise ValueError("a slice needs at least one sample")
    return total / np.float32(samples)
