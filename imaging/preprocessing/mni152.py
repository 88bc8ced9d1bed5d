"""MNI152 on a patient's brain by an affine map: what location and the way into atlas space stand on. Arrays and grids only.

The template is ICBM 2009a symmetric (Fonov et al., NeuroImage 2011;54:313), skull-stripped, as nilearn carries it: its
plane x = 0 is its mid-sagittal plane. The map is found by correlation inside the two brains at 4 and 3 mm.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)
from numpy.typing import NDArray
from scipy import ndimage

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.geometry.sitk import LPS_FROM_RAS, to_sitk
from imaging.preprocessing.itk_descent import Descent, descend
from imaging.schemas.measurement import AtlasMap

__all__ = ["AtlasFit", "atlas_grid", "atlas_template", "fit_atlas", "from_atlas", "to_atlas"]

LEAST_CORRELATION = 0.35  # inside the brain; simulated patients 0.6 and more, real ones 0.7, another organ below 0.2
_HOPELESS = 0.2  # at 5 mm: no brain; the finer level is spared
_DESCENT = Descent(step_mm=2.0, smallest_step_mm=0.02, iterations=80, sampled=(0.5,), seed=20234)


@dataclass(frozen=True)
class AtlasFit:
    """MNI152 against one brain.

    :param matrix: 4x4 affine, RAS mm of MNI152 -> RAS mm of the patient.
    :param correlation: of the two images inside the template's brain.
    :param reason: why it must not be used; empty when it may.
    """

    matrix: NDArray[np.float64]
    correlation: float
    reason: str = ""

    def map(self) -> AtlasMap:
        """For the record, the matrix whole."""
        a, b, c, d = ((float(w), float(x), float(y), float(z)) for w, x, y, z in self.matrix)
        return AtlasMap(atlas="MNI152 2009a symmetric", matrix_ras=(a, b, c, d), correlation=round(self.correlation, 3))


@lru_cache(maxsize=1)
def atlas_template() -> tuple[NDArray[np.float32], Grid]:
    """T1 of MNI152, skull-stripped, (z, y, x) at 1 mm, and its grid."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise RuntimeError("nilearn, which carries the MNI152 template, is not installed")
    path = Path(found.origin).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    data = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0))
    z, y, x = data.shape
    return data, Grid(np.asarray(image.affine), (x, y, z))


def atlas_grid() -> Grid:
    """The 1 mm grid of MNI152."""
    return atlas_template()[1]


def fit_atlas(image: NDArray[Any], brain: NDArray[np.bool_], grid: Grid, *, threads: int = 2) -> AtlasFit:
    """Find MNI152 on a brain.

    :param image: T1 or T1c, (z, y, x) on ``grid``. :param brain: its brain mask.
    """
    if not brain.any():
        return AtlasFit(np.eye(4), 0.0, "there is no brain mask")
    data, template_grid = atlas_template()
    # The middle of the brains, and their sizes, are a start that no turning of a head in a scanner upsets.
    mine, size = _box(brain, grid)
    theirs, full = _box(data > 0, template_grid)
    lps = LPS_FROM_RAS[:3, :3]
    start = sitk.AffineTransform(3)
    start.SetCenter(tuple(float(v) for v in lps @ theirs))
    start.SetMatrix(tuple(float(v) for v in np.diag(np.clip(size / full, 0.7, 1.3)).ravel()))
    start.SetTranslation(tuple(float(v) for v in lps @ (mine - theirs)))
    masked = np.where(brain, image, 0).astype(np.float32)
    high = float(np.percentile(masked[brain], 98)) or 1.0
    moving = to_sitk(np.clip(masked, 0, high), grid)
    fixed = to_sitk(data, template_grid)
    inside = to_sitk(ndimage.binary_dilation(data > 0, iterations=3), template_grid)
    value = 0.0
    try:
        for mm in (5, 3):
            if mm == 3 and value < _HOPELESS:
                break
            mask = sitk.Shrink(inside, [mm] * 3)
            metric, _ = descend(_shrunk(fixed, mm), _shrunk(moving, mm), mask, start, _DESCENT, threads=threads)
            value = float(np.sqrt(max(0.0, -metric)))  # the metric is the negated square of the correlation coefficient
    except RuntimeError:  # ITK throws when the images stop overlapping
        return AtlasFit(np.eye(4), 0.0, "the atlas does not fit onto this brain")
    matrix = np.eye(4)
    linear, centre = np.asarray(start.GetMatrix()).reshape(3, 3), np.asarray(start.GetCenter())
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.asarray(start.GetTranslation()) + centre - linear @ centre
    matrix = np.asarray(LPS_FROM_RAS @ matrix @ LPS_FROM_RAS)
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    reason = ""
    if value < LEAST_CORRELATION:
        reason = "what lies inside does not look like the atlas brain"
    elif stretch.max() > 1.35 or stretch.min() < 0.65:
        reason = "the atlas had to be stretched more than brains differ"
    return AtlasFit(matrix, value, reason)


def to_atlas(image: NDArray[Any], grid: Grid, fit: AtlasFit, *, nearest: bool = False) -> tuple[NDArray[Any], Grid]:
    """An image or label map (``nearest``) of the patient on MNI152's 1 mm grid: (z, y, x) and that grid."""
    onto = atlas_grid()
    return resample(image, grid, onto, fit.matrix, nearest=nearest), onto


def from_atlas(image: NDArray[Any], fit: AtlasFit, grid: Grid, *, nearest: bool = True) -> NDArray[Any]:
    """Inverse of `to_atlas`: something in atlas space on the patient's grid."""
    inverse = np.asarray(np.linalg.inv(fit.matrix), dtype=np.float64)
    return resample(image, atlas_grid(), grid, inverse, nearest=nearest)


def _box(mask: NDArray[np.bool_], grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle (RAS mm) and extent (mm) of a brain from its top 130 mm: necks and stems are cut off differently."""
    z, y, x = np.nonzero(mask[::2, ::2, ::2])
    world = grid.world(np.stack([x, y, z], axis=1) * 2)
    world = world[world[:, 2] > world[:, 2].max() - 110.0]
    low, high = np.percentile(world, 0.5, axis=0), np.percentile(world, 99.5, axis=0)
    return (low + high) / 2.0, high - low


def _shrunk(image: sitk.Image, mm: int) -> sitk.Image:
    factors = [max(1, round(mm / s)) for s in image.GetSpacing()]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image
