"""What tissues look like in T1, T1c, T2 and FLAIR, in units of normal white matter = 1.

Ranges follow what is measured in real skull-stripped examinations: enhancement is far less bright than it looks
(0.9-1.7 times white matter, below vessels and dura), and tumour core and oedema may look the same in all four sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .anatomy import Maps
from .fields import FieldSource, Floats, soft_step
from .tumour import TumourMaps

__all__ = ["SEQUENCES", "Four", "Look", "paint_brain", "paint_tumour", "random_look"]

SEQUENCES = ("T1", "T1c", "T2", "FLAIR")
Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class Look:
    """Intensities (T1, T1c, T2, FLAIR) of every tissue in one examination, white matter = 1; amounts 0-1.

    oedema_edge: opacity of oedema at its outer border, and the depth in mm at which it is full.
    """

    grey: Four
    deep: float
    csf: Four
    oedema: Four
    core: Four
    enhancing: Four
    lesion: Four
    vessel: Four
    dura: Four
    choroid: Four
    blood: Four
    blood_amount: float = 0.0
    vessels: float = 0.5
    white_lesions: float = 0.0
    caps: float = 0.0
    falx: float = 0.5
    flow: float = 0.3
    texture: float = 0.05
    oedema_edge: tuple[float, float] = (0.7, 9.0)
    kind: str = ""
    notes: tuple[str, ...] = field(default=())


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_look(rng: np.random.Generator, *, enhancement: tuple[float, float] = (0.97, 2.1), kind: str = "") -> Look:
    """Draw an examination's contrast. `enhancement`: range of ET in T1c; `kind`: of the (first) lesion, if any."""
    u = rng.uniform
    grey = (u(0.62, 0.85), u(0.68, 0.93), u(1.15, 1.7), u(1.0, 1.4))
    csf = (u(0.2, 0.5), u(0.25, 0.58), u(2.4, 5.5), u(0.1, 0.5))
    flair = max(_log_uniform(rng, 1.4, 2.5), 1.18 * grey[3])
    oedema = (u(0.65, 0.92), u(0.6, 0.85), max(u(1.75, 3.2), 1.25 * grey[2]), flair)
    notes: list[str] = []
    if kind == "non-enhancing":
        # Has no rim to tell it from oedema, so it must differ in itself: T2-FLAIR mismatch, or darker in T1.
        core = (oedema[0] * u(0.68, 0.88), oedema[1] * u(0.68, 0.88), oedema[2] * u(1.1, 1.5), oedema[3] * u(0.6, 1.0))
    elif rng.random() < 0.45:
        copy = rng.normal(1.0, 0.04, 4)
        core = tuple(float(o * c) for o, c in zip(oedema, copy, strict=True))  # type: ignore[assignment]
        notes.append("core like oedema")
    elif rng.random() < 0.3:
        core = (u(0.35, 0.6), u(0.38, 0.62), u(2.8, 5.0), u(0.3, 0.9))
        notes.append("cystic core")
    else:
        core = (u(0.45, 0.82), u(0.45, 0.85), u(1.4, 3.8), u(0.8, 2.4))
    bright = max(_log_uniform(rng, *enhancement), 1.25 * oedema[1], 1.12 * core[1])
    enhancing = (u(0.66, 0.95), bright, u(1.2, 2.3), u(1.1, 2.0))
    lesion = (u(0.75, 0.95), u(0.72, 0.92), u(1.5, 2.4), u(1.35, 2.1))
    vessel = (u(0.4, 1.0), _log_uniform(rng, 1.6, 3.4), u(0.3, 1.2), u(0.3, 0.9))
    dura = (u(0.5, 0.8), _log_uniform(rng, 1.1, 2.6), u(0.5, 1.2), u(0.5, 0.95))
    choroid = (u(0.6, 0.8), u(1.1, 2.2), u(1.6, 2.6), u(0.8, 1.5))
    blood = (u(1.05, 1.5), u(1.05, 1.5), u(0.4, 1.4), u(0.6, 1.5))
    return Look(
        grey=grey,
        deep=u(0.35, 0.65),
        csf=csf,
        oedema=oedema,
        core=core,
        enhancing=enhancing,
        lesion=lesion,
        vessel=vessel,
        dura=dura,
        choroid=choroid,
        blood=blood,
        blood_amount=float(u(0.15, 0.5)) if rng.random() < 0.12 else 0.0,
        vessels=u(0.2, 1.0),
        falx=u(0.0, 1.0),
        flow=u(0.0, 0.9) if rng.random() < 0.4 else 0.1,
        white_lesions=u(0.3, 1.0) if rng.random() < 0.4 else 0.0,
        caps=u(0.2, 1.0) if rng.random() < 0.5 else 0.0,
        texture=u(0.03, 0.08),
        oedema_edge=(u(0.5, 0.85), u(4.0, 14.0)),
        kind=kind,
        notes=tuple(notes),
    )


class _Canvas:
    """Four images painted over each other; boxes spare work where little is painted."""

    def __init__(self, images: Floats) -> None:
        self.images = images

    def over(self, alpha: Floats, values: Four, texture: Floats | None = None, box: tuple[slice, ...] = ()) -> None:
        """Cover with `values` (one a sequence) where alpha is 1."""
        for image, value in zip(self.images, values, strict=True):
            part = image[box] if box else image
            target = np.float32(value) if texture is None else np.float32(value) * texture
            part += alpha * (target - part)


def paint_brain(maps: Maps, tumour: TumourMaps | None, look: Look, source: FieldSource) -> Floats:
    """Noise-free images (4, x, y, z) of the inside of the skull, order SEQUENCES, white matter = 1.

    Outside the brain mask the space is painted as cerebrospinal fluid; skull and scalp are head.py's.
    """
    axes = maps.grid.axes
    deep = maps.deep
    cortex = maps.grey - deep
    csf = np.clip(1.0 - maps.grey - maps.white, 0.0, 1.0)
    fine = source.field(axes, 5.0, 20)
    broad = source.field(axes, 22.0, 21)
    texture = 1.0 + np.float32(look.texture) * (0.25 * fine + 0.6 * broad) + maps.texture * np.float32(0.8)
    images = np.empty((4, *maps.grid.shape), np.float32)
    # Limbic and insular cortex and the frontal operculum are brighter in FLAIR than other cortex; regions differ.
    regional = 1.0 + 0.05 * source.field(axes, 26.0, 22)
    for n in range(4):
        nuclei = 1.0 + (look.grey[n] - 1.0) * look.deep
        images[n] = (maps.white + cortex * (look.grey[n] * regional) + deep * nuclei) * (
            texture if n < 2 else 1.0 + 0.6 * (texture - 1.0)
        )
        images[n] += csf * look.csf[n]
    canvas = _Canvas(images)
    _white_matter_lesions(maps, look, source, canvas)
    _flow(maps, look, source, canvas, csf)
    _enhancing_structures(maps, look, source, canvas, csf, fine)
    if tumour is not None and tumour.labels.any():
        paint_tumour(maps, tumour, look, source, images)
    return images


def _white_matter_lesions(maps: Maps, look: Look, source: FieldSource, canvas: _Canvas) -> None:
    """Small-vessel disease: caps and halos at the ventricles, spots in deep white matter. Not labelled."""
    axes = maps.grid.axes
    if look.caps:
        extent = np.float32(1.0 + 3.0 * look.caps) + source.field(axes, 9.0, 30) * 1.5
        caps = soft_step(extent - maps.ventricle_distance, 0.7) * maps.white
        canvas.over(caps * np.float32(0.75), look.lesion)
    if look.white_lesions:
        spots = source.field(axes, 4.5, 31) - np.float32(3.1 - 0.9 * look.white_lesions)
        where = soft_step(maps.white - 0.7, 0.08) * soft_step(-8.0 - maps.brain_distance, 2.0)
        canvas.over(soft_step(spots, 0.12) * where, look.lesion)


def _flow(maps: Maps, look: Look, source: FieldSource, canvas: _Canvas, csf: Floats) -> None:
    """Moving fluid that FLAIR does not null: basal cisterns, fourth ventricle, foramina of Monro."""
    low = soft_step(-12.0 - maps.mni[2], 6.0) + 0.4 * soft_step(7.0 - np.abs(maps.mni[0]), 2.0)
    amount = np.clip(low, 0, 1) * soft_step(source.field(maps.grid.axes, 8.0, 32), 0.5) * csf
    flair = canvas.images[3]
    flair += amount * np.float32(look.flow) * (1.4 - flair)
    t2 = canvas.images[2]
    t2 -= amount * np.float32(0.5 * look.flow) * np.maximum(t2 - 1.0, 0.0)


def _enhancing_structures(
    maps: Maps, look: Look, source: FieldSource, canvas: _Canvas, csf: Floats, fine: Floats
) -> None:
    """What takes up contrast and is no tumour: vessels, sinuses, falx and tentorium, choroid plexus."""
    axes = maps.grid.axes
    distance = maps.brain_distance
    x, y, z = maps.mni
    second = np.abs(source.field(axes, 9.0, 40)) * 5.6
    thick = np.float32(0.25 + 0.7 * look.vessels)
    near_surface = soft_step(distance + 22.0, 3.0) * soft_step(1.0 - distance, 1.0)
    # Two sheets meet in curves: vessels that run at the bottom of sulci; and veins on the surface.
    in_sulci = soft_step(thick + 0.2 - second, 0.4) * soft_step(thick + 0.4 - maps.sulci, 0.4) * near_surface
    on_surface = soft_step(thick - second, 0.4) * soft_step(2.2 - np.abs(distance + 0.5), 0.6)
    vessels = np.maximum(in_sulci, on_surface * (0.3 + 0.7 * look.vessels))
    # Circle of Willis and its branches: tubes in the basal cisterns.
    basal = soft_step(second * 0 + 1.1 - np.hypot(second, np.abs(fine) * 3.0), 0.5) * soft_step(csf - 0.3, 0.1)
    vessels = np.maximum(vessels, basal * soft_step(-2.0 - z, 4.0) * soft_step(distance + 45.0, 5.0))
    sagittal = soft_step(4.5 - np.hypot(x, distance - 1.0), 0.8) * soft_step(z - 0.0, 6.0)
    transverse = soft_step(4.5 - np.hypot(z + 22.0 + 0.06 * np.abs(x), distance - 1.0), 0.8) * soft_step(-52.0 - y, 4.0)
    straight = (
        soft_step(2.2 - np.hypot(x, (z - 2.0) - 0.55 * (y + 52.0)), 0.5) * soft_step(-42 - y, 2) * soft_step(y + 88, 2)
    )
    sinuses = np.maximum(np.maximum(sagittal, transverse), straight)
    canvas.over(np.clip(np.maximum(vessels, sinuses), 0, 1), look.vessel)
    falx = soft_step(1.0 - np.abs(x), 0.4) * soft_step(z + 4.0 - 0.3 * np.abs(y + 20.0), 3.0) * csf
    canvas.over(falx * np.float32(look.falx) * soft_step(-maps.brain_distance, 1.0), look.dura)
    edge = soft_step(1.6 - np.abs(distance - 1.4), 0.4)
    canvas.over(edge * np.float32(0.8), look.dura)
    inside = soft_step(-1.0 - maps.ventricle_distance, 0.6) * soft_step(fine * 1.5 - 0.1, 0.4)
    place = np.exp(-(((np.abs(x) - 20) / 9) ** 2 + ((y + 38) / 11) ** 2 + ((z - 12) / 9) ** 2))
    place = np.maximum(place, np.exp(-(((np.abs(x) - 6) / 6) ** 2 + ((y + 12) / 14) ** 2 + ((z - 16) / 5) ** 2)))
    place = np.maximum(place, np.exp(-((x / 8) ** 2 + ((y + 48) / 8) ** 2 + ((z + 36) / 8) ** 2)))
    canvas.over(inside * soft_step(place - 0.35, 0.15), look.choroid)


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    first, second, third = (slice(int(f[0]), int(f[-1]) + 1) for f in found)
    return first, second, third


def paint_tumour(maps: Maps, tumour: TumourMaps, look: Look, source: FieldSource, images: Floats) -> None:
    """Paint a tumour that is not empty over the brain `images` (4, x, y, z), in place."""
    canvas = _Canvas(images)
    box = _bounds(np.asarray((tumour.ed + tumour.ncr + tumour.et) > 0.01))
    axes = maps.grid.crop(box).axes
    coarse = source.field(axes, 9.0, 50)
    detail = source.field(axes, 3.5, 51)
    # Oedema is densest near the core, and tissue still shines through it.
    low, reach = look.oedema_edge
    strength = low + (1.0 - low) * np.clip(tumour.margin[box] / np.float32(reach), 0, 1)
    et, ncr, ed = tumour.et[box], tumour.ncr[box], tumour.ed[box]
    core = np.clip(ncr + et, 0, 1)
    # Painted over each other with these opacities, the compartments end up in their own proportions.
    canvas.over(
        np.clip(ed * strength / np.maximum(1.0 - core, 1e-3), 0, 1),
        look.oedema,
        1.0 + np.clip(0.08 * coarse, -0.14, 0.2) + 0.03 * detail,
        box,
    )
    uneven = 1.0 + (0.05 if "core like oedema" in look.notes else 0.1) * coarse + 0.04 * detail
    canvas.over(np.clip(ncr / np.maximum(1.0 - et, 1e-3), 0, 1), look.core, uneven, box)
    if look.blood_amount:
        canvas.over(soft_step(coarse - np.float32(1.2 - look.blood_amount), 0.15) * core, look.blood, None, box)
    enhancing = 1.0 + np.clip(0.12 * coarse + 0.06 * detail, -0.2, 0.45)
    canvas.over(np.clip(et, 0, 1), look.enhancing, enhancing, box)
