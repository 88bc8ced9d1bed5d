"""Brains that nobody has: MNI152 with another shape, other gyri, other ventricles.

Source of the anatomy: the ICBM152 2009a T1 average with its grey and white matter maps, as packaged by nilearn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .fields import FieldSource, Floats, Grid, soft_step

__all__ = ["Anatomy", "Maps", "MassEffect", "Place", "Template", "load_template"]

# Margin (mm) around the MNI grid, so that signed distances reach to the scalp.
_MARGIN = 44


_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_TISSUES = ("t1", "gm", "wm")


def _data_folder() -> Path:
    """Where nilearn keeps its packaged files; importing nilearn itself would take ten seconds (scikit-learn)."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "The simulator takes its anatomy from nilearn's packaged MNI152 maps: install nilearn."
        )
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


@dataclass(frozen=True)
class Template:
    """The template's maps on one grid (x, y, z), values 0-1, distances in mm (negative inside).

    `spacing` is that of the tissue maps; the distances from the surfaces of brain, ventricles and skull cavity are kept at 2 mm.
    """

    spacing: float
    origin: NDArray[np.float64]
    grey: Floats
    white: Floats
    t1: Floats
    brain_distance: Floats
    ventricle_distance: Floats
    skull_distance: Floats

    def sample(self, image: Floats, mni: Floats) -> Floats:
        """Linear interpolation of `image` at MNI coordinates (3, ...), clamped at the border."""
        # Distances are smooth: they stay at 2 mm whatever the spacing of the tissue maps.
        distances = (self.brain_distance, self.ventricle_distance, self.skull_distance)
        spacing = 2.0 if any(image is d for d in distances) else self.spacing
        at = (mni - self.origin.astype(np.float32).reshape(3, *([1] * (mni.ndim - 1)))) / np.float32(spacing)
        return ndimage.map_coordinates(image, at, order=1, mode="nearest", output=np.float32)


def _signed_distance(inside: NDArray[np.bool_], spacing: float) -> Floats:
    outer = ndimage.distance_transform_edt(~inside, sampling=spacing)
    inner = ndimage.distance_transform_edt(inside, sampling=spacing)
    return (outer - inner).astype(np.float32)


@lru_cache(maxsize=1)
def _packaged() -> tuple[NDArray[np.float64], Floats, Floats, Floats]:
    """Origin of the padded grid, and T1, grey and white matter at 1 mm without padding, scaled to 1."""
    images = [nib.Nifti1Image.from_filename(_data_folder() / _FILE.format(tissue)) for tissue in _TISSUES]
    t1, grey, white = (np.asarray(i.dataobj, np.float32) for i in images)
    return images[0].affine[:3, 3] - _MARGIN, t1 / t1.max(), grey / grey.max(), white / white.max()


@lru_cache(maxsize=1)
def _distances() -> tuple[Floats, Floats, Floats]:
    """Signed distances (mm, negative inside) from brain, ventricles (known to 40 mm) and skull cavity, at 2 mm."""
    origin, t1, grey, white = _packaged()
    brain = ndimage.gaussian_filter(_signed_distance(np.pad(t1 > 0, _MARGIN)[::2, ::2, ::2], 2.0), 1.0)
    csf = np.pad(1.0 - grey - white, _MARGIN, constant_values=1.0)[::2, ::2, ::2]
    x, y, z = np.meshgrid(*(origin[a] + 2.0 * np.arange(csf.shape[a]) for a in range(3)), indexing="ij", sparse=True)
    # Deep cerebrospinal fluid near the midline: lateral, third and fourth ventricles, without cisterns and fissures.
    deep = (csf > 0.5) & (brain < -12.0) & (np.abs(x) < 40) & (y > -75) & (y < 45) & (z > -45) & (z < 36)
    deep &= ~((np.abs(x) > 27) & (y > -20) & (z > -12)) & ~((np.abs(x) < 13) & (y < -30) & (z > -18) & (z < 12))
    near = tuple(slice(max(int(i.min()) - 20, 0), int(i.max()) + 21) for i in np.nonzero(deep))
    labels, count = ndimage.label(deep[near])
    sizes = ndimage.sum_labels(deep[near], labels, np.arange(1, count + 1))
    ventricles = np.full(csf.shape, 40.0, np.float32)
    part = _signed_distance(np.isin(labels, 1 + np.flatnonzero(sizes > 60)), 2.0)
    ventricles[near] = np.minimum(ndimage.gaussian_filter(part, 0.6), 40.0)
    # The skull spans what the brain's surface folds into: the brain, closed by 12 mm.
    within = brain < 12.0
    skull = np.where(within, 12.0 - ndimage.distance_transform_edt(within, sampling=2.0), brain)
    return brain, ventricles, ndimage.gaussian_filter(skull.astype(np.float32), 1.5)


@lru_cache(maxsize=2)
def load_template(step: int) -> Template:
    """The template at `step` mm (1 or 2). Cached per process; some seconds the first time."""
    origin, *tissues = _packaged()
    if step > 1:
        tissues = [ndimage.gaussian_filter(a, 0.5) for a in tissues]
    t1, grey, white = (np.pad(a, _MARGIN)[::step, ::step, ::step] for a in tissues)
    brain, ventricles, skull = _distances()
    return Template(float(step), origin, grey, white, t1, brain, ventricles, skull)


@dataclass(frozen=True)
class MassEffect:
    """A mass of `radius` mm at `centre` (head space, mm) that has pushed aside `share` of its volume."""

    centre: NDArray[np.float64]
    radius: float
    share: float


@dataclass(kw_only=True)
class Place:
    """Where in a head the voxels of a grid (x, y, z) are.

    mni holds MNI coordinates (3, x, y, z); distances in mm from the surface of the brain and from the cavity of the
    skull (None where nothing outside the brain's neighbourhood is wanted), negative inside.
    """

    grid: Grid
    mni: Floats
    brain_distance: Floats
    skull_distance: Floats | None = None


@dataclass(kw_only=True)
class Maps(Place):
    """What is where in one head, on one grid (x, y, z).

    grey, white, csf are fractions that sum to 1 inside the brain; deep is the part of grey that belongs to nuclei;
    ventricle_distance in mm, negative inside; sulci is the (unsigned) distance in mm from the nearest procedural
    sulcus; texture is the template's own T1 detail, mean 0.
    """

    grey: Floats
    white: Floats
    csf: Floats
    deep: Floats
    ventricle_distance: Floats
    sulci: Floats
    texture: Floats


class Anatomy:
    """One person's anatomy: everything follows from the seed.

    `rotate` turns the head in its own grid (training cases have no scanner that would do it).
    """

    def __init__(self, seed: int, *, rotate: bool = False) -> None:
        self.source = FieldSource(seed)
        rng = self.source.rng(1)
        self.scale = rng.uniform(0.87, 1.03) * rng.uniform(0.97, 1.03, 3)
        angles = rng.normal(0.0, np.deg2rad([5.0, 3.0, 4.0])) if rotate else np.zeros(3)
        self.rotation = _rotation(angles)
        self.shift = rng.uniform(-1.0, 1.0, 3) if rotate else np.zeros(3)
        self.elastic = (rng.uniform(2.0, 5.0), rng.uniform(1.0, 2.4), rng.uniform(0.3, 1.0))
        self.ventricle_growth = rng.uniform(-0.9, 1.5)
        self.atrophy = rng.uniform(-0.5, 0.9)
        self.procedural = rng.uniform(0.35, 0.95)
        self.gyrus = rng.uniform(8.0, 10.5)
        self.sulcus_width = rng.uniform(0.4, 1.5)
        self.surface_fluid = rng.uniform(0.0, 2.4)
        self.cortex = rng.uniform(2.3, 3.2)
        self.sharpness = rng.uniform(1.5, 2.4)

    def coordinates(self, grid: Grid) -> Floats:
        """MNI coordinates (3, x, y, z) of the grid's voxels."""
        x, y, z = grid.open_coordinates()
        inverse = (np.diag(1.0 / self.scale) @ self.rotation.T).astype(np.float32)
        x, y, z = x - np.float32(self.shift[0]), y - np.float32(self.shift[1]), z - np.float32(self.shift[2])
        mni = np.empty((3, *grid.shape), np.float32)
        for row in range(3):
            mni[row] = inverse[row, 0] * x + inverse[row, 1] * y + inverse[row, 2] * z
            for name, (scale, size) in enumerate(zip((50.0, 24.0, 10.0), self.elastic, strict=True)):
                mni[row] += np.float32(size) * self.source.field(grid.axes, scale, 2, row, name)
        return mni

    def head_position(self, mni_point: Sequence[float] | Floats) -> NDArray[np.float64]:
        """The head-space point (mm) whose anatomy is that of an MNI point: fixed-point inversion of the warp."""
        target = np.asarray(mni_point, float)
        point = self.rotation @ (self.scale * target) + self.shift
        for _ in range(6):
            probe = Grid((float(point[0]), float(point[1]), float(point[2])), 1.0, (1, 1, 1))
            point = point - self.rotation @ (self.scale * (self.coordinates(probe)[:, 0, 0, 0] - target))
        return point

    def place(self, grid: Grid) -> Place:
        """Coordinates and distances only, for what surrounds the brain."""
        template = load_template(2)
        mni = self.coordinates(grid)
        brain, skull = (template.sample(d, mni) for d in (template.brain_distance, template.skull_distance))
        return Place(grid=grid, mni=mni, brain_distance=brain, skull_distance=skull)

    def maps(self, grid: Grid, masses: Sequence[MassEffect] = (), mni: Floats | None = None) -> Maps:
        """Sample the anatomy on `grid`, pushed aside by `masses`. `mni` saves recomputing coordinates(grid)."""
        template = load_template(2 if grid.spacing >= 1.5 else 1)
        mni = self.coordinates(grid) if mni is None else mni
        brain_distance = template.sample(template.brain_distance, mni)
        if masses:
            mni = self._push(grid, mni, brain_distance, masses)
        grey = template.sample(template.grey, mni)
        white = template.sample(template.white, mni)
        t1 = template.sample(template.t1, mni)
        ventricle = template.sample(template.ventricle_distance, mni)
        np.clip(grey, 0.0, 1.0, out=grey)
        np.clip(white, 0.0, 1.0, out=white)
        # The average's own detail, without the tissue contrast that the maps already carry.
        texture = np.where(t1 > 0.2, t1 - (0.87 * white + 0.68 * grey + 0.35 * np.clip(1 - grey - white, 0, 1)), 0.0)
        sulci = self._tissue(grid, mni, grey, white, brain_distance, ventricle)
        csf = np.clip(1.0 - grey - white, 0.0, 1.0)
        x, y, z = np.abs(mni[0]), mni[1], mni[2]
        nuclei = soft_step(33 - x, 1.5) * soft_step(24 - y, 2.0) * soft_step(y + 34, 2.0)
        nuclei *= soft_step(z + 14, 2.0) * soft_step(22 - z, 2.0)
        return Maps(
            grid=grid,
            mni=mni,
            brain_distance=brain_distance,
            grey=grey,
            white=white,
            csf=csf,
            deep=grey * nuclei,
            ventricle_distance=ventricle,
            sulci=sulci,
            texture=texture,
        )

    def _push(self, grid: Grid, mni: Floats, distance: Floats, masses: Sequence[MassEffect]) -> Floats:
        """Coordinates from which the tissue at each voxel came: outside a mass, volume is conserved."""
        mni = mni.copy()
        inverse = (np.diag(1.0 / self.scale) @ self.rotation.T).astype(np.float32)
        for mass in masses:
            box = grid.box(mass.centre, 4.0 * mass.radius)
            x, y, z = (a - np.float32(c) for a, c in zip(grid.crop(box).open_coordinates(), mass.centre, strict=True))
            r3 = np.maximum(x * x + y * y + z * z, 1.0) ** np.float32(1.5)
            shrink = 1.0 - (np.maximum(r3 - np.float32(mass.share * mass.radius**3), 0.02 * r3) / r3) ** np.float32(
                1 / 3
            )
            # The skull does not give way, and far tissue hardly moves.
            shrink *= np.clip(-distance[box] / 12.0, 0.0, 1.0)
            shrink *= np.exp(-(r3 ** np.float32(2 / 3)) / np.float32((2.6 * mass.radius) ** 2))
            for row in range(3):
                mni[(row, *box)] -= shrink * (inverse[row, 0] * x + inverse[row, 1] * y + inverse[row, 2] * z)
        return mni

    def _tissue(
        self, grid: Grid, mni: Floats, grey: Floats, white: Floats, distance: Floats, ventricle: Floats
    ) -> Floats:
        """Sharpen the averaged maps in place and fold a cortex of this person's own; returns distance from sulci, mm."""
        csf = np.clip(1.0 - grey - white, 0.0, 1.0)
        # Level sets of a smooth field are curved sheets, about as far apart as sulci are.
        sheet = self.source.field(grid.axes, self.gyrus, 3, 0)
        sulci = np.abs(sheet) * np.float32(0.62 * self.gyrus)
        depth = -distance
        shell = soft_step(24.0 - depth, 4.0) * soft_step(ventricle - 9.0, 3.0)
        cerebellum = soft_step(-18.0 - mni[2], 2.0) * soft_step(-38.0 - mni[1], 3.0)
        stem = soft_step(-8.0 - mni[2], 2.0) * soft_step(22.0 - np.abs(mni[0]), 2.0) * soft_step(2.0 - mni[1], 3.0)
        shell *= (1.0 - cerebellum) * (1.0 - stem)
        opening = sulci - np.float32(self.sulcus_width) * soft_step(22.0 - depth, 5.0)
        new_csf = soft_step(-opening, 0.35) * soft_step(20.0 - depth, 2.0)
        below = np.minimum(opening, np.maximum(depth - 2.0, 0.0) + 0.4 * np.abs(sheet))
        new_white = soft_step(below - np.float32(self.cortex), 0.5)
        mix = np.float32(self.procedural) * shell
        csf = csf * (1 - mix) + mix * new_csf
        white *= 1 - mix
        white += mix * new_white * (1 - new_csf)
        grey *= 1 - mix
        grey += mix * (1 - new_white) * (1 - new_csf)
        # Sharpening by a power of the odds, with small random preferences (they shift the borders a little).
        power = np.float32(self.sharpness)
        wander = self.source.field(grid.axes, 6.0, 3, 1) * np.float32(0.35)
        a = (grey + 0.01) ** power
        b = (white + 0.01) ** power * np.exp(wander)
        surface = soft_step(14.0 - depth, 3.0)
        c = (csf + 0.01) ** power * np.exp(np.float32(self.atrophy) * surface)
        c = np.maximum(c, 4.0 * soft_step(np.float32(self.surface_fluid) + wander * 2.0 - depth, 0.4))
        inside = soft_step(np.float32(self.ventricle_growth) - ventricle, 0.6)
        near = soft_step(3.5 - ventricle, 0.8)
        c = c * (1 - near) + near * inside * 20.0
        b = b * (1 - near) + near * (1 - inside) * np.maximum(b, 0.8 - a)
        total = a + b + c
        np.divide(a, total, out=grey)
        np.divide(b, total, out=white)
        return sulci


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix Rz Ry Rx for angles (x, y, z) in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
