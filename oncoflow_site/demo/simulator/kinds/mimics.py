"""What is bright and no tumour: white matter disease, old infarcts, meningioma-like masses, vessels and dura. Never labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from oncoflow_site.demo.simulator.anatomy import Maps, MassEffect
from oncoflow_site.demo.simulator.contrast import Four, Look
from oncoflow_site.demo.simulator.fields import FieldSource, Floats, soft_step
from oncoflow_site.demo.simulator.tumour import TumourMaps

from .layers import Layer, Scene, blob, texture
from .places import Places

__all__ = ["MIMICS", "Mimic"]

Mimic = Callable[[np.random.Generator, Places, Scene], None]


def _clear_of(tumour: TumourMaps, spacing: float, gap: float = 4.0) -> Floats:
    """1 away from the tumour, 0 within some `gap` mm of it: a mimic beside it must not look like a part of it."""
    there = (tumour.et + tumour.ncr + tumour.ed) > 0.1
    if not there.any():
        return np.float32(1.0) * np.ones_like(tumour.et)
    return soft_step(ndimage.distance_transform_edt(~there, sampling=spacing) - gap, 0.8)


def _plaque(look: Look, rng: np.random.Generator) -> Four:
    return (
        rng.uniform(0.6, 0.95),
        rng.uniform(0.6, 0.95),
        rng.uniform(1.5, 2.7),
        max(rng.uniform(1.35, 2.2), 1.1 * look.grey[3]),
    )


def _multiple_sclerosis(rng: np.random.Generator, places: Places, scene: Scene) -> None:
    count = int(rng.integers(4, 26))
    spots = []
    for _ in range(count):
        if rng.random() < 0.6:
            centre, _ = places.near_ventricle(rng, 1.0, 9.0)
        else:
            centre, _ = places.border(rng) if rng.random() < 0.6 else places.white_matter(rng)
        radius = float(min(1.6 + rng.gamma(1.6, 1.2), 8.0))
        # Dawson's fingers: long along the veins, which leave the ventricle at right angles (left to right, upwards).
        stretch = np.array([rng.uniform(1.0, 2.0), rng.uniform(0.7, 1.2), rng.uniform(0.8, 1.5)])
        spots.append((centre, radius, stretch, rng.random() < 0.15, rng.random() < 0.4))
    values = _plaque(scene.look, rng)
    uptake = rng.uniform(1.1, 1.9)

    def paint(maps: Maps, tumour: TumourMaps, look: Look, source: FieldSource) -> list[Layer]:
        shape = maps.grid.shape
        plaque, ring = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        free = _clear_of(tumour, maps.grid.spacing)
        for number, (centre, radius, stretch, enhances, hollow) in enumerate(spots):
            box = maps.grid.box(centre, 2.6 * radius + 4.0)
            if any(s.stop <= s.start for s in box):
                continue
            depth = blob(maps.grid.crop(box), centre, radius, source, 600, number, lumps=0.15, stretch=stretch)
            plaque[box] = np.maximum(plaque[box], soft_step(depth, 0.6))
            if enhances:
                inner = soft_step(1.3 - np.abs(depth - 1.0), 0.5) if hollow and radius > 3 else soft_step(depth, 0.5)
                ring[box] = np.maximum(ring[box], inner)
        tissue = np.clip(maps.white + 0.7 * maps.grey, 0, 1) * free
        plain: Four = values
        lit: Four = (values[0], uptake, values[2], values[3])
        return [Layer(plaque * tissue * 0.9, plain), Layer(ring * tissue, lit)]

    scene.before.append(paint)


def _small_vessel(rng: np.random.Generator, places: Places, scene: Scene) -> None:
    look = replace(
        scene.look,
        white_lesions=float(rng.uniform(0.5, 1.0)),
        caps=float(rng.uniform(0.4, 1.0)),
        lesion=_plaque(scene.look, rng),
    )
    scene.look = look
    if rng.random() < 0.5:
        return
    reach, threshold = rng.uniform(3.0, 11.0), rng.uniform(-0.3, 0.9)

    def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
        # Confluent: what lies within some millimetres of the ventricles, patchily, in both hemispheres.
        wave = source.field(maps.grid.axes, 8.0, 610)
        halo = soft_step(np.float32(reach) + 2.5 * wave - maps.ventricle_distance, 1.0)
        patch = soft_step(wave - np.float32(threshold) + halo, 0.3)
        free = _clear_of(tumour, maps.grid.spacing)
        return [Layer(halo * patch * soft_step(maps.white - 0.5, 0.1) * free * 0.85, look_.lesion)]

    scene.before.append(paint)


def _infarct(rng: np.random.Generator, places: Places, scene: Scene) -> None:
    centre, _ = places.cortex(rng) if rng.random() < 0.7 else places.white_matter(rng)
    radius = rng.uniform(5.0, 22.0)
    stretch = np.exp(rng.normal(0, 0.3, 3))
    t2 = rng.uniform(1.9, 3.2)
    scar: Four = (rng.uniform(0.5, 0.85), rng.uniform(0.5, 0.85), t2, rng.uniform(1.3, 2.1))
    hollow, shrink = rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.7)
    luxury = rng.random() < 0.2  # subacute: gyri that enhance

    def swell(maps: Maps, source: FieldSource) -> None:
        region = soft_step(blob(maps.grid, centre, radius, source, 620, lumps=0.25, stretch=stretch), 2.0)
        # Shrunken: fluid takes the place of a part of the cortex.
        lost = maps.grey * region * np.float32(shrink) * soft_step(maps.csf - 0.05, 0.05)
        maps.grey -= lost
        maps.csf += lost

    def paint(maps: Maps, tumour: TumourMaps, look: Look, source: FieldSource) -> list[Layer]:
        depth = blob(maps.grid, centre, radius, source, 620, lumps=0.25, stretch=stretch)
        free = _clear_of(tumour, maps.grid.spacing)
        tissue = soft_step(0.5 - maps.csf, 0.15) * soft_step(-0.5 - maps.brain_distance, 0.5) * free
        grain = texture(maps.grid, source, 6.0, 0.1, 621)
        layers = [Layer(soft_step(depth, 1.0) * tissue * 0.9, scar, None, grain)]
        if luxury:
            cortex = soft_step(maps.grey - maps.deep - 0.4, 0.1) * soft_step(depth, 1.0) * tissue
            layers.append(Layer(cortex * 0.8, (look.grey[0], 1.1 * look.grey[1] + 0.25, scar[2], scar[3])))
        soft = source.field(maps.grid.axes, 6.0, 622)
        layers.append(
            Layer(soft_step(depth - np.float32(0.45 * radius) + soft, 1.0) * free * np.float32(hollow), look.csf)
        )
        return layers

    scene.swell.append(swell)
    scene.before.append(paint)


def _meningioma(rng: np.random.Generator, places: Places, scene: Scene) -> None:
    radius = rng.uniform(4.0, 15.0)
    centre, _ = places.near_surface(rng, 1.0, 4.0)
    uptake = max(rng.uniform(1.25, 2.3), 1.2 * scene.look.grey[1])
    mass: Four = (rng.uniform(0.65, 0.9), uptake, rng.uniform(1.0, 2.0), rng.uniform(0.95, 1.7))
    tail = rng.uniform(0.8, 1.6)
    halo = rng.random() < 0.35

    def paint(maps: Maps, tumour: TumourMaps, look: Look, source: FieldSource) -> list[Layer]:
        free = _clear_of(tumour, maps.grid.spacing)
        depth = blob(maps.grid, centre, radius, source, 630, lumps=0.06)
        # Outside the brain, so its inner part dents it: flat towards the skull, a cleft of fluid around it.
        inside = np.minimum(depth, 2.5 - maps.brain_distance)
        cleft = soft_step(1.5 - np.abs(inside + 1.0), 0.6) * soft_step(1.0 - maps.brain_distance, 0.5)
        dura = soft_step(np.float32(tail) - np.abs(maps.brain_distance - 1.2), 0.4)
        dura = dura * soft_step(depth + 12.0, 2.0)
        layers = []
        if halo:
            reaction = soft_step(inside + 7.0, 2.0) * soft_step(maps.white - 0.6, 0.1) * free
            layers.append(Layer(reaction * 0.7, look.oedema))
        layers += [
            Layer(cleft * free * 0.6, look.csf),
            Layer(dura * free * 0.9, (mass[0], 0.9 * mass[1], mass[2], mass[3])),
            Layer(soft_step(inside, 0.5) * free, mass, None, texture(maps.grid, source, 5.0, 0.05, 631)),
        ]
        return layers

    scene.masses.append(MassEffect(centre, 0.7 * radius, 0.3))
    scene.before.append(paint)


def _bright_vessels(rng: np.random.Generator, places: Places, scene: Scene) -> None:
    look = scene.look
    vessel = (look.vessel[0], rng.uniform(2.0, 3.8), look.vessel[2], look.vessel[3])
    choroid = (look.choroid[0], rng.uniform(1.6, 2.8), look.choroid[2], rng.uniform(0.9, 1.8))
    scene.look = replace(look, vessel=vessel, choroid=choroid, vessels=float(rng.uniform(0.8, 1.8)))


def _thick_dura(rng: np.random.Generator, places: Places, scene: Scene) -> None:
    look = scene.look
    dura = (look.dura[0], rng.uniform(1.6, 2.8), rng.uniform(0.6, 1.6), rng.uniform(0.7, 1.7))
    scene.look = replace(look, dura=dura, falx=float(rng.uniform(0.7, 1.0)))
    thick, patchy = rng.uniform(1.0, 2.6), rng.uniform(-1.0, 0.8)

    def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
        where = soft_step(source.field(maps.grid.axes, 22.0, 640) - np.float32(patchy), 0.3)
        sheet = soft_step(np.float32(thick) - np.abs(maps.brain_distance - np.float32(0.4 + 0.5 * thick)), 0.4)
        return [Layer(sheet * where, look_.dura)]

    scene.before.append(paint)


MIMICS: dict[str, Mimic] = {
    "multiple-sclerosis": _multiple_sclerosis,
    "small-vessel": _small_vessel,
    "infarct": _infarct,
    "meningioma": _meningioma,
    "bright-vessels": _bright_vessels,
    "thick-dura": _thick_dura,
}
