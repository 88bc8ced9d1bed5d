"""Where the brain is: an image that is skull-stripped already says so; otherwise an atlas and the tissue borders tell.

The atlas is MNI152 (ICBM 2009a symmetric, skull-stripped, as nilearn carries it): found on the head by a similarity, an
affine and a B-spline registration; its mask is then corrected by the images at its border: the skull is dark in every
sequence, while brain and cerebrospinal fluid are bright in at least one. Works at 2 mm; the mask is brought back to the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)
from numpy.typing import NDArray
from scipy import ndimage

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.geometry.sitk import LPS_FROM_RAS, from_sitk, to_sitk
from imaging.preprocessing.brain_size import BRAIN_ML
from imaging.preprocessing.itk_descent import Descent, descend
from imaging.preprocessing.mni152 import atlas_template

__all__ = ["BrainFinder", "BrainMask", "find_brain", "skull_stripped_mask"]

sitk.ProcessObject.GlobalWarningDisplayOff()  # a start that does not overlap is given up, and nothing to warn of
_WORK_MM = 2.0
_SCALED = Descent(step_mm=3.0, smallest_step_mm=0.01, iterations=60, sampled=(0.5,), seed=20232)
_OF_FIXED_SCALE = replace(_SCALED, weights=(1, 1, 1, 1, 1, 1, 0))  # of a similarity's parameters the last is its scale
_SHEARED = replace(_SCALED, step_mm=2.0, iterations=100)
# Top of the scalp to the middle of the MNI152 brain, RAS z: half the brain's height, 12 mm of skull and scalp.
_TOP_TO_CENTRE_MM = 90.0
_HEAD_ML = 2300.0  # what skull-stripped images may hold at most
# The head's radius less the brain's at the height of the hemispheres: simulated heads have 13 to 18 mm.
_SCALP_AND_SKULL_MM = 15.0
_LARGEST_SCALE = 1.06
_SCALES = (0.80, 1.05)  # of MNI152, whose brain has 2.0 l
_SCALE_TOLERANCE = 0.08  # how much an affine fit may change the size that was found
_BEND_TOLERANCE = 0.15  # of the volume
_MOST_GROWTH = 1.2
_LEAST_CORRELATION = 0.25  # simulated heads: 0.44, faint and noisy ones 0.34, fits that ended on the scalp 0.22


@dataclass(frozen=True)
class BrainMask:
    """A brain mask (z, y, x) and how it was found.

    :param mask: bool, on the grid of the images.
    :param method: one line for the record.
    :param plausible: False when size or fit speak against it; ``reason`` says what.
    :param quality: ``volume_ml``, ``atlas_ml``, ``atlas_correlation``, ``atlas_dice`` (the final mask against the atlas alone).
    """

    mask: NDArray[np.bool_]
    method: str
    plausible: bool = True
    reason: str = ""
    quality: dict[str, float] = field(default_factory=dict)


class BrainFinder(Protocol):
    """What finds a brain: `find_brain`, or a tool that a setting names."""

    def __call__(self, images: Mapping[str, NDArray[Any]], grid: Grid, *, threads: int = 2) -> BrainMask:
        """As `find_brain`."""
        ...


def skull_stripped_mask(
    images: Mapping[str, NDArray[Any]], grid: Grid, *, spacing_known: bool = True
) -> NDArray[np.bool_] | None:
    """The brain mask that skull-stripped images carry in their exact zeros, or None when they do not.

    :param images: sequence -> (z, y, x), all on ``grid``.
    :param spacing_known: whether millilitres mean anything; without, only the share of zeros and their agreement count.
    """
    inside = [image != 0 for image in images.values()]
    if not inside:
        return None
    union = np.any(inside, axis=0)
    share = float(union.mean())
    if not 0.02 < share < 0.7:
        return None
    for one in inside:
        overlap = 2.0 * float(np.count_nonzero(one & union)) / float(np.count_nonzero(one) + np.count_nonzero(union))
        if overlap < 0.95:
            return None
    opened = ndimage.binary_opening(union, iterations=1)
    parts, count = ndimage.label(opened)
    if count == 0:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < 0.9 * union.sum():
        return None
    filled = ndimage.binary_fill_holes(union)
    # A whole head on a background set to zero by the scanner has the same zeros, but is twice as large as a brain.
    if spacing_known and not BRAIN_ML[0] <= filled.sum() * grid.voxel_volume_mm3() / 1000.0 <= _HEAD_ML:
        return None
    return np.asarray(filled)


def find_brain(images: Mapping[str, NDArray[Any]], grid: Grid, *, threads: int = 2) -> BrainMask:
    """Brain mask of co-registered images that show the whole head.

    :param images: sequence -> (z, y, x), all on ``grid`` (RAS+, mm); T1, T1c or FLAIR must be among them. The atlas is a T1
        image: found on FLAIR alone, the brain is said to be doubtful.
    :raises ValueError: none of them is there.
    """
    base_name = next((name for name in ("T1", "T1c", "FLAIR") if name in images), None)
    if base_name is None:
        raise ValueError("a T1-weighted or FLAIR image is needed to find the brain")
    coarse_grid = grid.with_spacing((_WORK_MM,) * 3)
    coarse = {name: _coarse(image, grid, coarse_grid) for name, image in images.items()}
    base = coarse[base_name]
    template, template_grid = _template()
    # T1 times FLAIR finds the brain better than T1; FLAIR alone stands for itself.
    second = coarse.get("FLAIR") if base_name != "FLAIR" else None
    to_template, correlation = _fit_atlas(template, template_grid, base, second, coarse_grid, threads)
    atlas = _warped(template > 0, template_grid, to_template, coarse_grid)
    if atlas.sum() * coarse_grid.voxel_volume_mm3() < BRAIN_ML[0] * 500.0:
        empty = np.zeros(grid.shape_zyx, dtype=bool)
        return BrainMask(empty, "MNI152 B-spline", False, "the atlas brain does not fit onto this head")
    refined = _refine(atlas, coarse)
    if refined.sum() > _MOST_GROWTH * atlas.sum():
        # Noise or blur filled the dark gap between brain and scalp: then the atlas alone knows where the brain ends.
        refined = atlas
    full = resample(ndimage.gaussian_filter(refined.astype(np.float32), 0.7), coarse_grid, grid) >= 0.5
    volume_ml = float(full.sum()) * grid.voxel_volume_mm3() / 1000.0
    dice = 2.0 * float((refined & atlas).sum()) / float(max(1, refined.sum() + atlas.sum()))
    quality = {
        "volume_ml": round(volume_ml, 1),
        "atlas_ml": round(float(atlas.sum()) * coarse_grid.voxel_volume_mm3() / 1000.0, 1),
        "atlas_correlation": round(correlation, 3),
        "atlas_dice": round(dice, 3),
    }
    reason = ""
    if not BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]:
        reason = "the brain found is not of a brain's size"
    elif dice < 0.8:
        reason = "the brain found and the atlas disagree"
    elif correlation < _LEAST_CORRELATION:
        reason = "what lies inside does not look like the atlas brain"
    elif base_name == "FLAIR":
        reason = "it was found without a T1-weighted series"
    return BrainMask(full, "MNI152 B-spline, corrected by the skull's darkness", not reason, reason, quality)


@lru_cache(maxsize=1)
def _template() -> tuple[NDArray[np.float32], Grid]:
    """MNI152 T1 on the grid of the registration, skull-stripped: (z, y, x)."""
    data, grid = atlas_template()
    coarse_grid = grid.with_spacing((_WORK_MM,) * 3)
    coarse = _coarse(data, grid, coarse_grid)
    coarse[coarse < 10] = 0  # the blur of the resampling at the border
    return coarse, coarse_grid


def _coarse(image: NDArray[Any], grid: Grid, onto: Grid) -> NDArray[np.float32]:
    sigma = [max(0.0, 0.4 * _WORK_MM / s) if s < _WORK_MM else 0.0 for s in grid.spacing_zyx()]
    return resample(ndimage.gaussian_filter(image.astype(np.float32, copy=False), sigma), grid, onto)


def _head(base: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The head against the air, holes filled."""
    sample = base[base > 0]
    if sample.size == 0:
        return np.zeros(base.shape, dtype=bool)
    threshold = 0.18 * float(np.percentile(sample, 97))
    mask = ndimage.binary_opening(base > threshold, iterations=2)
    parts, count = ndimage.label(mask)
    if count == 0:
        return np.asarray(mask)
    mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_closing(np.pad(mask, 6), iterations=5)[6:-6, 6:-6, 6:-6])


def _fit_atlas(
    template: NDArray[np.float32],
    template_grid: Grid,
    base: NDArray[np.float32],
    flair: NDArray[np.float32] | None,
    grid: Grid,
    threads: int,
) -> tuple[sitk.Transform, float]:
    """Transform head -> template (LPS mm), and the correlation of template and head within the template's brain."""
    head = _head(base)
    z, y, x = np.nonzero(head)
    if z.size == 0:
        return sitk.Transform(3, sitk.sitkIdentity), 0.0
    world = grid.world(np.stack([x, y, z], axis=1))
    top = float(np.percentile(world[:, 2], 99.8))
    slab = world[world[:, 2] > top - 130.0]
    middle = np.array([np.median(slab[:, 0]), (slab[:, 1].min() + slab[:, 1].max()) / 2.0, top - _TOP_TO_CENTRE_MM])
    brain = template > 0
    bz, by, bx = np.nonzero(brain)
    template_centre = template_grid.world(np.array([np.mean(bx), np.mean(by), np.mean(bz)]))

    # T1 times FLAIR: brain is bright in both; fluid, marrow and most of the scalp in one at most.
    combined = base
    if flair is not None:
        combined = np.sqrt(np.maximum(base / np.median(base[head]), 0) * np.maximum(flair / np.median(flair[head]), 0))
    fixed = to_sitk(template, template_grid)
    moving = _moving(combined, head, grid)
    inner = to_sitk(brain, template_grid)
    # One voxel around the brain counts too: it is what says where the brain ends. More would let the scalp pull.
    edge = to_sitk(ndimage.binary_dilation(brain), template_grid)
    small = (sitk.BinShrink(fixed, [3] * 3), sitk.BinShrink(moving, [3] * 3), _shrunk_mask(inner, 3))
    middling = (sitk.BinShrink(fixed, [2] * 3), sitk.BinShrink(moving, [2] * 3), _shrunk_mask(edge, 2))
    lps = LPS_FROM_RAS[:3, :3]
    starts = []
    for dz, pitch in itertools.product((0.0, -18.0), (0.0, 0.2, -0.2)):
        start = sitk.Similarity3DTransform()
        start.SetCenter(tuple(float(v) for v in lps @ template_centre))
        start.SetRotation((1.0, 0.0, 0.0), pitch)
        offset = middle + np.array([0.0, 0.0, dz]) - template_centre
        start.SetTranslation(tuple(float(v) for v in lps @ offset))
        starts.append(start)
    # First by what is inside the brain alone, by correlation and from below: MNI152 is larger than most brains, and the
    # scalp's outline would draw a larger start onto itself. It sometimes does all the same: the fit is larger than a brain,
    # or grows when it may change its form. Then the head's own size says how large its brain is.
    size = _expected_scale(head, grid, top, brain, template_grid)
    affine: sitk.AffineTransform | None = None
    for scales, free in (((0.85, 0.95), True), ((size,), False)):
        best = _best(starts, scales, small, threads, free=free)
        if best is None:
            continue
        affine = _affine(best)
        with suppress(RuntimeError):  # the images stopped overlapping: the size then says that the fit is not to be had
            descend(*middling, affine, _SHEARED, threads=threads)
        spread = abs(_scale(affine) / best.GetScale() - 1.0) > _SCALE_TOLERANCE
        if not spread and best.GetScale() <= _LARGEST_SCALE:
            break
        if spread:
            affine = _affine(best)
    if affine is None:
        return sitk.Transform(3, sitk.sitkIdentity), 0.0

    bent = _bend(fixed, edge, sitk.Resample(moving, fixed, affine, sitk.sitkLinear, 0.0), threads)
    if abs(_growth(bent, edge) - 1.0) > _BEND_TOLERANCE:
        bent = sitk.BSplineTransformInitializer(fixed, [5, 6, 5], 3)  # of no displacement
    both = sitk.CompositeTransform([affine, bent])
    warped, _ = from_sitk(sitk.Resample(_moving(base, head, grid), fixed, both, sitk.sitkLinear, 0.0))
    inside = ndimage.binary_erosion(brain, iterations=1)
    correlation = float(np.corrcoef(template[inside], warped[inside])[0, 1]) if np.ptp(warped[inside]) > 0 else 0.0
    field = sitk.TransformToDisplacementField(bent, sitk.sitkVectorFloat64, middling[0].GetSize(), *_frame(middling[0]))
    back = sitk.DisplacementFieldTransform(sitk.InvertDisplacementField(field, 20, 0.2, 0.1, True))
    return sitk.CompositeTransform([back, affine.GetInverse()]), correlation


def _best(
    starts: list[sitk.Similarity3DTransform],
    scales: tuple[float, ...],
    images: tuple[sitk.Image, sitk.Image, sitk.Image],
    threads: int,
    *,
    free: bool,
) -> sitk.Similarity3DTransform | None:
    """The best fit from all starts at all scales; one of a brain's size before any that is larger. None: no fit at all.

    :param images: template, head, mask of the template. :param free: False keeps the scale as given.
    """
    best: tuple[bool, float, sitk.Similarity3DTransform] | None = None
    for start, scale in itertools.product(starts, scales):
        fit = sitk.Similarity3DTransform(start)
        fit.SetScale(scale)
        try:
            value, _ = descend(*images, fit, _SCALED if free else _OF_FIXED_SCALE, threads=threads)
        except RuntimeError:  # the images stopped overlapping
            continue
        rank = (fit.GetScale() > _LARGEST_SCALE, value)
        if best is None or rank < best[:2]:
            best = (*rank, fit)
    return None if best is None else best[2]


def _expected_scale(
    head: NDArray[np.bool_], grid: Grid, top: float, brain: NDArray[np.bool_], template_grid: Grid
) -> float:
    """The brain's size against MNI152's, from the head's radius where the hemispheres are widest."""
    template_top = float(template_grid.world(np.array([0.0, 0.0, float(np.nonzero(brain)[0].max())]))[2])
    around = _radius(head, grid, top - 12.0) - _SCALP_AND_SKULL_MM
    return float(np.clip(around / _radius(brain, template_grid, template_top), *_SCALES))


def _radius(mask: NDArray[np.bool_], grid: Grid, top: float) -> float:
    """Radius (mm) of a disc with the median area of the axial slices 25 to 75 mm below ``top``."""
    z = np.arange(mask.shape[0], dtype=np.float64)
    height = grid.world(np.stack([np.zeros_like(z), np.zeros_like(z), z], axis=1))[:, 2]
    slices = mask[(height < top - 25.0) & (height > top - 75.0)]
    _, row_mm, column_mm = grid.spacing_zyx()
    areas = slices.sum(axis=(1, 2)) * row_mm * column_mm
    return float(np.median(np.sqrt(areas / np.pi))) if areas.size else 0.0


def _affine(similar: sitk.Similarity3DTransform) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetCenter(similar.GetCenter())
    affine.SetMatrix(similar.GetMatrix())
    affine.SetTranslation(similar.GetTranslation())
    return affine


def _scale(affine: sitk.AffineTransform) -> float:
    return float(np.cbrt(abs(np.linalg.det(np.reshape(affine.GetMatrix(), (3, 3))))))


def _growth(bent: sitk.Transform, brain: sitk.Image) -> float:
    """By what factor the transform changes the volume of ``brain``."""
    small = sitk.BinShrink(sitk.Cast(brain, sitk.sitkFloat32), [3] * 3)
    field = sitk.TransformToDisplacementField(bent, sitk.sitkVectorFloat64, small.GetSize(), *_frame(small))
    volume = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    inside = sitk.GetArrayFromImage(small) >= 0.5
    return float(volume[inside].mean())


def _frame(image: sitk.Image) -> tuple[Any, Any, Any]:
    return image.GetOrigin(), image.GetSpacing(), image.GetDirection()


def _moving(image: NDArray[np.float32], head: NDArray[np.bool_], grid: Grid) -> sitk.Image:
    return to_sitk(np.clip(image, 0, float(np.percentile(image[head], 99))).astype(np.float32), grid)


def _bend(fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, threads: int) -> sitk.Transform:
    """B-spline (control points some 35 mm apart) from ``fixed`` to ``moving``, which lies on the same grid. At 6 mm."""
    coarse = sitk.BinShrink(fixed, [3] * 3)
    bent = sitk.BSplineTransformInitializer(coarse, [5, 6, 5], 3)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(threads)
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(_shrunk_mask(mask, 3))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGSB(1e-5, 15, 5, 200)
    method.SetInitialTransform(bent, inPlace=True)
    try:
        method.Execute(coarse, sitk.BinShrink(moving, [2] * 3))
    except RuntimeError:
        return sitk.BSplineTransformInitializer(coarse, [5, 6, 5], 3)  # of no displacement
    return bent


def _warped(mask: NDArray[np.bool_], grid: Grid, transform: sitk.Transform, onto: Grid) -> NDArray[np.bool_]:
    """A mask brought to another grid by a transform from there (LPS mm)."""
    reference = to_sitk(np.zeros(onto.shape_zyx, dtype=np.uint8), onto)
    image = sitk.Resample(to_sitk(mask.astype(np.float32), grid), reference, transform, sitk.sitkLinear, 0.0)
    return np.asarray(sitk.GetArrayFromImage(image) >= 0.5)


def _shrunk_mask(mask: sitk.Image, factor: int) -> sitk.Image:
    return sitk.Shrink(mask, [factor] * 3)


def _refine(atlas: NDArray[np.bool_], coarse: Mapping[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Correct the atlas mask at its border. Works on the 2 mm grid; one voxel is 2 mm.

    Inside, what is dark in every sequence goes: bone. Outside, up to 6 mm, what is bright in T1 and in FLAIR stays: cortex,
    while fluid is dark in both and marrow mostly in one.
    """
    core = ndimage.binary_erosion(atlas, iterations=2)
    if not core.any():
        return atlas
    relative = {name: image / max(float(np.median(image[core])), 1e-6) for name, image in coarse.items()}
    brightest = np.max(list(relative.values()), axis=0)
    tissue = np.min([relative[name] for name in ("T1", "T1c", "FLAIR") if name in relative], axis=0)
    soft = ((brightest > 0.5) & atlas) | ((tissue > 0.6) & ndimage.binary_dilation(atlas, iterations=3))
    # Two opening steps cut the bridges that veins, optic nerves and marrow make through the skull.
    opened = ndimage.binary_erosion(soft, iterations=2) | core
    parts, _ = ndimage.label(opened)
    kept = np.isin(parts, np.unique(parts[core])) & opened
    grown = ndimage.binary_dilation(kept, iterations=2) & (soft | core)
    closed = ndimage.binary_closing(np.pad(grown, 4), iterations=2)[4:-4, 4:-4, 4:-4]
    return np.asarray(ndimage.binary_fill_holes(closed))
