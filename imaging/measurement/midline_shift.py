"""The midline of a brain: the plane through the falx's fixed edge, and how far the septum has left it. Arrays and grids only.

Midline shift is the distance of the septum pellucidum, at the level of the foramen of Monro, from the ideal midline, which
runs where the falx is fixed to the skull (Bullock et al., Neurosurgery 2006;58(3 Suppl):S16). Here: small neighbourhoods of
MNI152's midline, laid on the patient by the affine map, are each looked for sideways by normalised correlation. Those near
the brain's edge give the plane, those about the septum the shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.preprocessing.mni152 import AtlasFit, atlas_template, fit_atlas
from imaging.schemas.volumes import MidlineRecord

__all__ = ["Midline", "find_midline"]

# MNI (y, z) mm of the neighbourhoods; all have x = 0.
EDGE = ((58, 8), (52, 30), (34, 50), (0, 66), (-34, 68), (-62, 56), (-84, 34), (-90, 12))
SEPTUM = ((16, 10), (8, 12), (2, 12), (-4, 14))
_STEP = 2  # mm between the samples that are compared, on the atlas' 1 mm grid
_EDGE_HALF, _SEPTUM_HALF = (10, 12, 12), (18, 8, 10)  # x, y, z mm
_EDGE_REACH, _SEPTUM_REACH = (10, 4, 4), (5, 4, 4)
# The frontal horns and the septum as one piece first: a mass moves them together, and also backwards and down.
_HORNS, _HORNS_HALF, _HORNS_REACH = (5, 12), (20, 22, 14), (22, 12, 12)
LEAST_MATCH = 0.35
MOST_ROUGHNESS_MM = 3.5
LEAST_SEPTUM_MATCH = 0.55  # mean of the four; below, simulated shifts were 3 mm wrong
MOST_SPREAD_MM = 4.0


@dataclass(frozen=True)
class Midline:
    """What was found, lengths in mm.

    :param normal: unit vector of the ideal plane, RAS, pointing to the patient's right; ``offset``: p . normal on it.
    :param shift_mm: of the septum from the plane, positive to the right; None with ``reason`` where it is not assessed.
    :param uncertainty_mm: half-width that covers what plane and septum leave open.
    :param plane_reason: why there is no plane; empty when there is one. :param atlas: the map it stands on.
    :param septum: where the septum was found, RAS mm (n, 3); empty where it was not.
    """

    normal: NDArray[np.float64] | None
    offset: float
    shift_mm: float | None
    uncertainty_mm: float | None
    reason: str
    plane_reason: str
    atlas: AtlasFit
    quality: dict[str, float] = field(default_factory=dict)
    septum: tuple[tuple[float, float, float], ...] = ()

    def under(self, tumour: NDArray[np.bool_], grid: Grid) -> Midline:
        """The same midline where ``tumour`` (its core, on ``grid``) counts: with it over the septum no shift is assessed."""
        if not self.septum or not _covered(tumour, grid, self.septum):
            return self
        quality = {name: value for name, value in self.quality.items() if not name.startswith("septum_")}
        reason = "the tumour lies over the septum"
        return replace(self, shift_mm=None, uncertainty_mm=None, reason=reason, quality=quality)

    def record(self) -> MidlineRecord:
        """Whole: `of` gives the same numbers again."""
        atlas = {**vars(self.atlas), "matrix": self.atlas.matrix.tolist()}
        normal = None if self.normal is None else self.normal.tolist()
        return MidlineRecord.model_validate({**vars(self), "normal": normal, "atlas": atlas})

    @staticmethod
    def of(record: MidlineRecord) -> Midline:
        """Inverse of `record`."""
        atlas = record.atlas
        return Midline(
            normal=None if record.normal is None else np.asarray(record.normal, np.float64),
            offset=record.offset,
            shift_mm=record.shift_mm,
            uncertainty_mm=record.uncertainty_mm,
            reason=record.reason,
            plane_reason=record.plane_reason,
            atlas=AtlasFit(np.asarray(atlas.matrix, np.float64), atlas.correlation, atlas.reason),
            quality=dict(record.quality),
            septum=record.septum,
        )

    def distance(self, world: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed distance of points (..., 3), RAS mm, from the plane; positive to the patient's right."""
        if self.normal is None:
            raise ValueError("no midline plane was found")
        return np.asarray(world @ self.normal - self.offset)


@dataclass(frozen=True)
class _MirrorMatch:
    """Where a neighbourhood was found, RAS mm of the patient, how well (correlation, -1 to 1), and how far away (voxels)."""

    place: NDArray[np.float64]
    score: float
    moved: NDArray[np.float64]


def find_midline(
    image: NDArray[Any],
    brain: NDArray[np.bool_],
    grid: Grid,
    *,
    tumour: NDArray[np.bool_] | None = None,
    doubtful: str = "",
    threads: int = 2,
) -> Midline:
    """Plane and shift of one brain.

    :param image: T1 without contrast, (z, y, x) on ``grid``, mm: contrast lights up the very edge that is looked for.
    :param brain: its mask.
    :param tumour: the tumour's core: where it lies over the septum, the shift is not assessed.
    :param doubtful: why the brain mask is doubtful; then nothing is assessed.
    """
    found = _find(image, brain, grid, doubtful, threads)
    return found if tumour is None else found.under(tumour, grid)


def _find(image: NDArray[Any], brain: NDArray[np.bool_], grid: Grid, doubtful: str, threads: int) -> Midline:
    if doubtful:
        reason = f"the brain mask is doubtful: {doubtful}"
        return Midline(None, 0.0, None, None, reason, reason, AtlasFit(np.eye(4), 0.0, reason))
    fit = fit_atlas(image, brain, grid, threads=threads)
    if fit.reason:
        return Midline(None, 0.0, None, None, fit.reason, fit.reason, fit)
    here = _Searched(np.where(brain, image, 0).astype(np.float32), grid, fit)
    edge = [one for one in (here.find(y, z, _EDGE_HALF, _EDGE_REACH) for y, z in EDGE) if one.score >= LEAST_MATCH]
    quality = {"atlas_correlation": round(fit.correlation, 3), "edge_matches": float(len(edge))}
    if len(edge) < 5:
        reason = "the fissure between the hemispheres was not found at the brain's edge"
        return Midline(None, 0.0, None, None, reason, reason, fit, quality)
    normal, offset, roughness = _plane(edge)
    quality["plane_rms_mm"] = round(roughness, 2)
    if roughness > MOST_ROUGHNESS_MM:
        reason = "the points found on the fissure do not lie in one plane"
        return Midline(None, 0.0, None, None, reason, reason, fit, quality)
    horns = here.find(*_HORNS, _HORNS_HALF, _HORNS_REACH)
    septum = [here.find(y, z, _SEPTUM_HALF, _SEPTUM_REACH, about=horns.moved) for y, z in SEPTUM]
    good = [one for one in septum if one.score >= LEAST_MATCH]
    if len(good) < 2:
        return Midline(normal, offset, None, None, "the septum was not found", "", fit, quality)
    places = tuple((float(x), float(y), float(z)) for x, y, z in (one.place for one in good))
    distances = np.array([one.place @ normal - offset for one in good])
    scores = np.array([one.score for one in good])
    shift = float(np.average(distances, weights=scores))
    spread = float(np.ptp(distances))
    quality |= {"septum_match": round(float(scores.mean()), 3), "septum_spread_mm": round(spread, 2)}
    if scores.mean() < LEAST_SEPTUM_MATCH:
        return Midline(normal, offset, None, None, "the septum was not found clearly enough", "", fit, quality, places)
    if spread > MOST_SPREAD_MM:
        return Midline(normal, offset, None, None, "the septum was found in different places", "", fit, quality, places)
    uncertainty = float(np.hypot(2.0 * roughness / np.sqrt(len(edge)), spread / 2.0) + 0.5)
    return Midline(normal, offset, round(shift, 2), round(uncertainty, 2), "", "", fit, quality, places)


class _Searched:
    """The brain in atlas space, where neighbourhoods are looked for."""

    def __init__(self, image: NDArray[np.float32], grid: Grid, fit: AtlasFit) -> None:
        template, self.grid = atlas_template()
        self.fit = fit
        sigma = [max(0.0, 0.4 / s) for s in grid.spacing_zyx()]
        self.image = resample(ndimage.gaussian_filter(image, sigma), grid, self.grid, fit.matrix)
        self.template = template

    def find(
        self,
        y: float,
        z: float,
        half: tuple[int, int, int],
        reach: tuple[int, int, int],
        about: NDArray[np.float64] | None = None,
    ) -> _MirrorMatch:
        """The neighbourhood about MNI (0, y, z): where it is found within ``reach`` (x, y, z) mm of ``about``."""
        middle = np.rint(self.grid.index(np.array([0.0, y, z]))).astype(int)
        piece = self._cut(self.template, middle, half)
        wanted = piece - piece.mean()
        norm = float(np.linalg.norm(wanted))
        start = middle if about is None else middle + np.rint(about).astype(int)
        scores = np.full([2 * r + 1 for r in reach], -1.0)
        for dx in range(-reach[0], reach[0] + 1):
            for dy in range(-reach[1], reach[1] + 1, 2):
                for dz in range(-reach[2], reach[2] + 1, 2):
                    one = self._cut(self.image, start + (dx, dy, dz), half)
                    centred = one - one.mean()
                    length = float(np.linalg.norm(centred))
                    if length > 0:
                        score = float(np.vdot(wanted, centred)) / (norm * length)
                        scores[dx + reach[0], dy + reach[1], dz + reach[2]] = score
        at = np.unravel_index(int(np.argmax(scores)), scores.shape)
        along = scores[:, at[1], at[2]]
        shift = np.array(at, dtype=float) - reach
        shift[0] += _peak(along, int(at[0]))
        world = self.grid.world(start + shift)
        place = self.fit.matrix[:3, :3] @ world + self.fit.matrix[:3, 3]
        return _MirrorMatch(place, float(scores[at]), start + shift - middle)

    def _cut(self, image: NDArray[np.float32], middle: NDArray[Any], half: tuple[int, int, int]) -> NDArray[np.float32]:
        x, y, z = (slice(max(0, int(m) - h), int(m) + h + 1, _STEP) for m, h in zip(middle, half, strict=True))
        shape = [2 * h // _STEP + 1 for h in half]
        part = image[z, y, x]
        return (
            part
            if part.shape == (shape[2], shape[1], shape[0])
            else np.zeros((shape[2], shape[1], shape[0]), np.float32)
        )


def _peak(values: NDArray[np.float64], at: int) -> float:
    """Offset of a parabola's top through three neighbours, -0.5 to 0.5."""
    if at in (0, len(values) - 1):
        return 0.0
    left, middle, right = values[at - 1 : at + 2]
    curve = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / curve, -0.5, 0.5)) if curve < 0 else 0.0


def _plane(matches: list[_MirrorMatch]) -> tuple[NDArray[np.float64], float, float]:
    """(normal to the right, offset, rms mm) by least squares. None is left out: eight points that all match are few."""
    points = np.array([one.place for one in matches])
    middle = points.mean(axis=0)
    normal = np.linalg.svd(points - middle)[2][2]
    normal = normal if normal[0] > 0 else -normal
    return normal, float(middle @ normal), float(np.sqrt(np.mean(((points - middle) @ normal) ** 2)))


def _covered(tumour: NDArray[np.bool_], grid: Grid, places: Sequence[Sequence[float]]) -> bool:
    index = np.rint(grid.index(np.array(places))).astype(int)
    index = np.clip(index, 0, np.array(grid.shape_xyz) - 1)
    near = ndimage.binary_dilation(tumour, iterations=2)
    return bool(near[index[:, 2], index[:, 1], index[:, 0]].any())
