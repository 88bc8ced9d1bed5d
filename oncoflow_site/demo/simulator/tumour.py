"""Tumours: what they are made of and where they end, as functions of head space.

Labels are those of BraTS 2023: 1 NCR (necrotic or non-enhancing core), 2 ED (oedema, SNFH), 3 ET (enhancing tumour).
Regions: WT = 1, 2, 3; TC = 1, 3; ET = 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .anatomy import Maps, MassEffect
from .fields import Axes, FieldSource, Floats, soft_step

__all__ = ["ED", "ET", "NCR", "Lesion", "TumourMaps", "random_lesion", "render_lesions"]

NCR, ED, ET = 1, 2, 3


@dataclass(frozen=True)
class Lesion:
    """One lesion. Lengths in mm; `centre` in head space (RAS). `radius` is that of the core, oedema comes on top.

    growth scales the core about its centre without changing its shape, so that one lesion stays itself between visits.
    broken, septa, necrosis: 0 (none) to 1. push: share of the core's volume by which tissue was pushed aside.
    """

    seed: int
    kind: str
    centre: tuple[float, float, float]
    radius: float
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lumpiness: float = 0.2
    rim: float = 4.0
    broken: float = 0.0
    septa: float = 0.0
    oedema: float = 12.0
    grey_resistance: float = 8.0
    push: float = 0.4
    growth: float = 1.0

    def grown(self, growth: float, *, oedema: float | None = None) -> Lesion:
        """The same lesion later: core scaled by `growth` relative to the reference, oedema reaching `oedema` mm."""
        return replace(self, growth=growth, oedema=self.oedema if oedema is None else oedema)

    @property
    def mass(self) -> MassEffect:
        """How this lesion displaces the anatomy."""
        return MassEffect(np.asarray(self.centre), self.radius * self.growth, self.push)


@dataclass
class TumourMaps:
    """Soft fractions (0-1) of each compartment, the labels they give, and which lesion (1..n) a voxel belongs to.

    All arrays (x, y, z) on the grid of the maps. `margin` is the oedema's depth from its outer border in mm (0 outside);
    core_depth the depth inside the core, mm.
    """

    et: Floats
    ncr: Floats
    ed: Floats
    labels: NDArray[np.uint8]
    lesion: NDArray[np.uint8]
    margin: Floats
    core_depth: Floats


def random_lesion(rng: np.random.Generator, centre: NDArray[np.float64], room: float, *, small: bool = False) -> Lesion:
    """A lesion drawn from the mixture seen in adult glioma and metastasis; `room` mm is the depth below the surface."""
    kind = str(rng.choice(["ring", "solid", "non-enhancing", "nodule"], p=[0.57, 0.16, 0.14, 0.13]))
    if small:
        kind = str(rng.choice(["ring", "nodule"]))
    if kind == "nodule" or small:
        radius = rng.uniform(8.0, 12.0)
    else:
        radius = 9.0 + (min(29.0, max(16.0, room + 12.0)) - 9.0) * rng.beta(1.4, 1.6)
    oedema = rng.uniform(6.0, 24.0)
    if kind == "non-enhancing":
        oedema = rng.uniform(0.0, 9.0)
    rim = rng.uniform(2.6, 7.0) if kind != "nodule" else rng.uniform(3.0, 9.0)
    stretch = np.exp(rng.normal(0, 0.16, 3))
    stretch /= stretch.prod() ** (1 / 3)
    return Lesion(
        seed=int(rng.integers(2**31)),
        kind=kind,
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        radius=float(radius),
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        lumpiness=float(rng.uniform(0.08, 0.3)),
        rim=float(min(rim, 0.55 * radius)),
        broken=float(rng.uniform(0.15, 0.6)) if kind == "ring" and rng.random() < 0.33 else 0.0,
        septa=float(rng.uniform(0.2, 1.0)) if kind in ("ring", "solid") and rng.random() < 0.36 else 0.0,
        oedema=float(oedema),
        grey_resistance=float(rng.uniform(4.0, 12.0)),
        push=float(rng.uniform(0.1, 0.75)),
    )


def _core_depth(lesion: Lesion, axes: Axes) -> Floats:
    """Depth inside the core in mm (negative outside), approximately a distance."""
    source = FieldSource(lesion.seed)
    rng = source.rng(0)
    # Fields live in the lesion's own coordinates, so that growth scales the shape and does not redraw it.
    u, v, w = ((a - c) / lesion.growth for a, c in zip(axes, lesion.centre, strict=True))
    local = (u, v, w)
    x, y, z = (a.astype(np.float32) for a in local)
    grid = (x[:, None, None], y[None, :, None], z[None, None, :])
    lobes = [np.zeros(3)]
    sizes = [1.0]
    if lesion.kind != "nodule":
        for _ in range(int(rng.integers(0, 3))):
            direction = rng.normal(size=3)
            lobes.append(direction / np.linalg.norm(direction) * rng.uniform(0.4, 0.75) * lesion.radius)
            sizes.append(rng.uniform(0.5, 0.75))
    depth = None
    for offset, size in zip(lobes, sizes, strict=True):
        r2 = sum(
            ((g - np.float32(o)) / np.float32(s)) ** 2 for g, o, s in zip(grid, offset, lesion.stretch, strict=True)
        )
        one = np.float32(lesion.radius * size) - np.sqrt(np.asarray(r2))
        depth = one if depth is None else np.maximum(depth, one)
    if depth is None:
        raise ValueError("a lesion needs at least one lobe")
    amplitude = np.float32(lesion.lumpiness * lesion.radius)
    depth = depth + amplitude * (
        0.75 * source.field(local, max(6.0, 0.6 * lesion.radius), 1)
        + 0.3 * source.field(local, max(4.0, 0.25 * lesion.radius), 2)
    )
    return depth * np.float32(lesion.growth)


def _enhancing(lesion: Lesion, axes: Axes, depth: Floats, softness: float) -> Floats:
    """Fraction of the core that enhances, 0-1."""
    source = FieldSource(lesion.seed)
    if lesion.kind == "solid":
        # All but some necrotic islands.
        holes = source.field(axes, 5.0, 3) - np.float32(1.3 + source.rng(9).uniform(0, 1.2))
        return 1.0 - soft_step(holes * 5.0, softness) * soft_step(depth - lesion.rim, softness)
    if lesion.kind == "non-enhancing":
        return np.zeros_like(depth)
    width = lesion.rim * (1.0 + 0.4 * np.tanh(source.field(axes, 7.0, 4)))
    if lesion.broken:
        gap = soft_step(source.field(axes, 8.0, 5) - np.float32(1.4 - 1.7 * lesion.broken), 0.15)
        width = width * (1.0 - gap) - 2.0 * gap
    rim = soft_step(width - depth, softness)
    if lesion.septa:
        sheet = np.abs(source.field(axes, 7.0, 6)) * 4.3
        rim = np.maximum(rim, soft_step((0.7 + 0.9 * lesion.septa) - sheet, softness))
    return rim


def render_lesions(lesions: Sequence[Lesion], maps: Maps) -> TumourMaps:
    """Draw the lesions into a head whose tissue is `maps` (already pushed aside); later ones take precedence."""
    shape = maps.grid.shape
    out = TumourMaps(
        et=np.zeros(shape, np.float32),
        ncr=np.zeros(shape, np.float32),
        ed=np.zeros(shape, np.float32),
        labels=np.zeros(shape, np.uint8),
        lesion=np.zeros(shape, np.uint8),
        margin=np.zeros(shape, np.float32),
        core_depth=np.zeros(shape, np.float32),
    )
    softness = 0.28 * maps.grid.spacing
    for number, lesion in enumerate(lesions, start=1):
        reach = 1.9 * lesion.radius * lesion.growth + lesion.oedema + 8.0
        box = maps.grid.box(np.asarray(lesion.centre), reach)
        if any(s.stop <= s.start for s in box):
            continue
        _draw(lesion, number, maps, box, out, softness)
    return out


def _draw(lesion: Lesion, number: int, maps: Maps, box: tuple[slice, ...], out: TumourMaps, softness: float) -> None:
    grid = maps.grid.crop((box[0], box[1], box[2]))
    axes = grid.axes
    source = FieldSource(lesion.seed)
    brain = maps.brain_distance[box]
    side = np.float32(np.sign(maps.mni[0][box][tuple(n // 2 for n in grid.shape)]) or 1.0)
    # The falx separates the hemispheres wherever the corpus callosum or the stem do not join them.
    mni_x, mni_y, mni_z = (maps.mni[a][box] for a in range(3))
    joined = ((mni_z < 28) & (mni_z > -12) & (mni_y < 32) & (mni_y > -46)) | (mni_z < -14)
    beyond = np.where(joined, 0.0, np.clip(-side * mni_x * 4.0, 0.0, 40.0)).astype(np.float32)

    depth = _core_depth(lesion, axes)
    depth = np.minimum(depth - beyond, -brain - 0.8)
    core = soft_step(depth, softness)
    enhancing = core * _enhancing(lesion, axes, depth, softness)
    ed = np.zeros_like(core)
    margin = np.zeros_like(core)
    if lesion.oedema > 0:
        # Oedema runs along white matter; grey matter costs distance and cerebrospinal fluid stops it.
        white = ndimage.uniform_filter(maps.white[box], 3)
        csf = maps.csf[box]
        cost = lesion.grey_resistance * np.clip(1.0 - white, 0, 1) + 25.0 * soft_step(csf - 0.45, 0.05) + beyond
        fingers = source.field(axes, 11.0, 7) * np.float32(0.3 * lesion.oedema)
        margin = np.float32(lesion.oedema) + fingers + np.minimum(depth, 0.0) - cost
        margin = np.where((csf > 0.5) | (brain > -1.0), -1.0, margin)
        ed = soft_step(ndimage.gaussian_filter(margin, 0.6), softness) * (1.0 - core)
    label = np.where(ed > 0.5, np.uint8(ED), np.uint8(0))
    if label.any():
        pieces, count = ndimage.label(label)
        if count > 1:
            sizes = ndimage.sum_labels(label > 0, pieces, np.arange(1, count + 1)) * grid.spacing**3
            small = np.isin(pieces, 1 + np.flatnonzero(sizes < 250.0))
            label[small] = 0
            ed[ndimage.binary_dilation(small)] *= 0.25
    label[core > 0.5] = NCR
    label[(core > 0.5) & (enhancing > 0.5 * core)] = ET

    keep = 1.0 - core
    out.et[box] = out.et[box] * keep + enhancing
    out.ncr[box] = out.ncr[box] * keep + (core - enhancing)
    out.ed[box] = np.maximum(out.ed[box] * keep, ed * (1.0 - out.et[box] - out.ncr[box]))
    out.margin[box] = np.maximum(out.margin[box], np.maximum(margin, 0.0))
    out.core_depth[box] = np.maximum(out.core_depth[box], np.maximum(depth, 0.0))
    here = out.labels[box]
    take = (label == NCR) | (label == ET) | ((label == ED) & (here == 0))
    here[take] = label[take]
    out.lesion[box][take] = number
