"""Rigid registration of two images of one head, and resampling. Arrays and grids only; SimpleITK does the work.

Method: Mattes mutual information (Mattes et al., IEEE TMI 22:120, 2003) over a resolution pyramid of 8, 4 and 2 mm, a
twentieth of the finest voxels sampled with a fixed seed, regular-step gradient descent. The coarse levels run from two
different starts: how far their answers lie apart is the quality number, and an answer that depends on the start is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.geometry.resample import centroid_ras
from imaging.geometry.sitk import LPS_FROM_RAS, to_sitk
from imaging.preprocessing.itk_descent import Descent, descend
from imaging.schemas.volumes import TransformRecord

__all__ = ["Registration", "register_rigid"]


_SEED = 20231
_BINS = 32
_SAMPLED = 0.05
# The coarse levels are small: more of their voxels are sampled, evenly.
_COARSE = Descent(
    step_mm=2.0, smallest_step_mm=0.01, iterations=80, sampled=(1.0, 8 * _SAMPLED), seed=_SEED, bins=_BINS,
    point_gradients=True, flat=1e-6, shrinks=(2, 1), sigmas_mm=(2.0, 0.0),
)  # fmt: skip
_FINE = Descent(
    step_mm=0.5, smallest_step_mm=0.001, iterations=80, sampled=(_SAMPLED,), seed=_SEED, random=True, bins=_BINS,
    point_gradients=True, flat=1e-6, sigmas_mm=(0.5,),
)  # fmt: skip
_PYRAMID_MM = 2.0
_HEAD_RADIUS_MM = 70.0
MAX_DISAGREEMENT_MM = 5.0
MAX_ROTATION_DEG = 45.0


@dataclass(frozen=True)
class Registration:
    """Where a voxel of the fixed image is found in the moving one.

    :param matrix: 4x4, RAS mm of the fixed image -> RAS mm of the moving image.
    :param converged: False when the result must not be used.
    :param reason: why it did not converge; empty otherwise.
    :param quality: ``mutual_information`` (nats, higher is better), ``start_disagreement_mm`` (largest distance, on a
        sphere of 70 mm, between the answers from two starts), ``rotation_deg``, ``translation_mm``, ``iterations``.
    """

    matrix: NDArray[np.float64]
    converged: bool
    reason: str = ""
    method: str = "rigid"
    quality: Mapping[str, float] = field(default_factory=dict)

    def record(self, scanner_grid: Grid | None = None) -> TransformRecord:
        """For `Volume.transform`. The matrix is whole: read back, it makes the same bytes again."""
        return TransformRecord.model_validate(
            {
                "method": self.method,
                "matrix_ras": self.matrix.tolist(),
                "inverse_ras": np.linalg.inv(self.matrix).tolist(),
                "converged": self.converged,
                "reason": self.reason,
                "scanner_grid": scanner_grid.to_json() if scanner_grid is not None else None,
            }
        )

    @staticmethod
    def identity(method: str = "identity: same grid") -> Registration:
        """Nothing to do: the images are on one grid already."""
        return Registration(np.eye(4), True, method=method)


def register_rigid(
    fixed: NDArray[Any],
    fixed_grid: Grid,
    moving: NDArray[Any],
    moving_grid: Grid,
    *,
    fixed_mask: NDArray[np.bool_] | None = None,
    start_translation: NDArray[np.float64] | None = None,
    threads: int = 2,
) -> Registration:
    """Find the rigid motion between two images of the same head, of any contrast.

    :param fixed: (z, y, x) on ``fixed_grid``; ``moving`` likewise. Grids may be oblique and differ in spacing.
    :param fixed_mask: where the fixed image counts; everywhere when None.
    :param start_translation: first guess, RAS mm, of moving position minus fixed position. None: none if the grids'
        centres lie within 40 mm (one scanner session), else the difference of the centres.
    :returns: the transform with its quality. Not converged is a result, not an exception.
    """
    if float(np.ptp(fixed)) == 0.0 or float(np.ptp(moving)) == 0.0:
        return Registration(np.eye(4), False, "one of the images is uniform")
    fixed_image = _pyramid_base(fixed, fixed_grid)
    moving_image = _pyramid_base(moving, moving_grid)
    mask_image = None
    if fixed_mask is not None and fixed_mask.any():
        mask_image = to_sitk(fixed_mask, fixed_grid)
        mask_image = sitk.Resample(mask_image, fixed_image, sitk.Transform(), sitk.sitkNearestNeighbor)
    if start_translation is None:
        shift = moving_grid.centre() - fixed_grid.centre()
        start_translation = shift if float(np.linalg.norm(shift)) > 40.0 else np.zeros(3)
    centre = centroid_ras(fixed_mask, fixed_grid) if fixed_mask is not None else fixed_grid.centre()
    lps = LPS_FROM_RAS[:3, :3]
    starts = []
    for angles, offset in (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.07, -0.06, 0.08), (5.0, -5.0, 6.0))):
        start = sitk.Euler3DTransform()
        start.SetCenter(tuple(float(v) for v in lps @ centre))
        start.SetRotation(*angles)
        start.SetTranslation(tuple(float(v) for v in lps @ start_translation + np.asarray(offset)))
        starts.append(start)

    coarse = (sitk.BinShrink(fixed_image, [2] * 3), sitk.BinShrink(moving_image, [2] * 3))
    coarse_mask = None if mask_image is None else sitk.Shrink(mask_image, [2] * 3)
    found: list[tuple[float, Any]] = []
    iterations = 0
    try:
        for start in starts:
            value, steps = descend(*coarse, coarse_mask, start, _COARSE, threads=threads)
            found.append((value, start))
            iterations += steps
        disagreement = _distance_mm(_matrix_ras(found[0][1]), _matrix_ras(found[1][1]), centre)
        best = min(found, key=lambda one: one[0])[1]
        value, steps = descend(fixed_image, moving_image, mask_image, best, _FINE, threads=threads)
        iterations += steps
    except RuntimeError:
        # ITK throws when the images stop overlapping: that is "did not converge", whatever its words.
        return Registration(np.eye(4), False, "the images do not overlap")

    matrix = _matrix_ras(best)
    rotation = float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))
    moved = matrix[:3, :3] @ centre + matrix[:3, 3] - centre
    quality = {
        "mutual_information": round(-value, 4),
        "start_disagreement_mm": round(disagreement, 3),
        "rotation_deg": round(rotation, 3),
        "translation_mm": round(float(np.linalg.norm(moved)), 3),
        "iterations": float(iterations),
    }
    reason = ""
    if disagreement > MAX_DISAGREEMENT_MM:
        reason = "two starts of the registration ended in different places"
    elif rotation > MAX_ROTATION_DEG:
        reason = "the rotation found is larger than a head can turn in a scanner"
    return Registration(matrix, not reason, reason, "rigid, Mattes mutual information, 8/4/2 mm", quality)


def _pyramid_base(array: NDArray[Any], grid: Grid) -> sitk.Image:
    """The image at about 2 mm, smoothed accordingly, intensities clipped: the finest level of the pyramid."""
    values = array.astype(np.float32, copy=False)
    sample = values[::3, ::3, ::3]
    inside = sample[sample > 0]
    high = float(np.percentile(inside, 99.7)) if inside.size else float(sample.max())
    image = to_sitk(np.clip(values, min(0.0, float(sample.min())), high), grid)
    factors = [max(1, round(_PYRAMID_MM / spacing)) for spacing in grid.spacing_xyz()]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _matrix_ras(transform: Any) -> NDArray[np.float64]:
    """4x4 in RAS of a SimpleITK matrix-offset transform."""
    matrix = np.eye(4)
    rotation = np.asarray(transform.GetMatrix()).reshape(3, 3)
    centre = np.asarray(transform.GetCenter())
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - rotation @ centre
    return np.asarray(LPS_FROM_RAS @ matrix @ LPS_FROM_RAS)


def _distance_mm(one: NDArray[np.float64], other: NDArray[np.float64], centre: NDArray[np.float64]) -> float:
    """Largest distance between two transforms' answers at the six poles of a sphere about ``centre``."""
    poles = np.concatenate([np.eye(3), -np.eye(3)]) * _HEAD_RADIUS_MM + centre
    first = poles @ one[:3, :3].T + one[:3, 3]
    second = poles @ other[:3, :3].T + other[:3, 3]
    return float(np.max(np.linalg.norm(first - second, axis=1)))
