"""The kinds of tumours: where each lies, what it is made of, and what it does to the tissue around it.

Labels follow BraTS: infiltrated, FLAIR-bright tissue that does not enhance is 2 (SNFH) where no solid core is to be told
from it, cysts and non-enhancing solid parts are 1 (NCR), enhancement is 3 (ET), a resection cavity is apart (RC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oncoflow_site.demo.simulator.anatomy import Anatomy, Maps, MassEffect
from oncoflow_site.demo.simulator.contrast import Four, Look
from oncoflow_site.demo.simulator.fields import FieldSource, Floats, soft_step
from oncoflow_site.demo.simulator.tumour import ED, ET, NCR, Lesion, TumourMaps, random_lesion

from .layers import CAVITY, Layer, Scene, blob, scaled, texture
from .places import Places

__all__ = ["TUMOURS", "TumourKind"]

TumourKind = Callable[[np.random.Generator, Places, Anatomy, Look], Scene]
Point = NDArray[np.float64]


def _lesion(rng: np.random.Generator, centre: Point, kind: str, radius: float, **more: Any) -> Lesion:
    """A lesion of ordinary shape; `more` replaces what it is drawn with."""
    stretch = np.exp(rng.normal(0, 0.14, 3))
    stretch /= stretch.prod() ** (1 / 3)
    made = Lesion(
        seed=int(rng.integers(2**31)),
        kind=kind,
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        radius=float(radius),
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        lumpiness=float(rng.uniform(0.08, 0.25)),
        rim=float(min(rng.uniform(2.5, 6.0), 0.6 * radius)),
        broken=float(rng.uniform(0.15, 0.5)) if kind == "ring" and rng.random() < 0.3 else 0.0,
        septa=float(rng.uniform(0.2, 0.9)) if kind in ("ring", "solid") and rng.random() < 0.3 else 0.0,
        oedema=float(rng.uniform(5.0, 20.0)),
        grey_resistance=float(rng.uniform(4.0, 12.0)),
        push=float(rng.uniform(0.1, 0.6)),
    )
    return replace(made, **more)


def _classic(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, depth = places.white_matter(rng)
    lesion = random_lesion(rng, centre, depth)
    return Scene(replace(look, kind=lesion.kind), [lesion])


def _infiltrated_cortex(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.cortex(rng)
    radius = rng.uniform(13.0, 30.0)
    fill, blur = rng.uniform(0.5, 0.98), rng.uniform(0.8, 2.0)
    flair, edge, uneven = rng.uniform(1.12, 1.5), rng.uniform(1.5, 6.0), rng.uniform(0.0, 0.8)
    infiltrated = (
        look.grey[0] * rng.uniform(0.82, 1.0),
        look.grey[1] * rng.uniform(0.82, 1.02),
        look.grey[2] * rng.uniform(1.02, 1.3),
        max(look.grey[3], 1.05) * flair,
    )
    # The subcortical part is a shade of the cortex's signal, as bright as it or fainter.
    white = (
        rng.uniform(0.78, 0.95),
        rng.uniform(0.75, 0.92),
        rng.uniform(1.2, 1.9),
        max(1.12, infiltrated[3] * rng.uniform(0.72, 1.0)),
    )
    reach, depth_of_white = rng.uniform(1.5, 9.0), rng.uniform(0.3, 1.0)
    nodule = rng.random() < 0.65
    faint = max(rng.uniform(0.95, 1.45), 1.15 * infiltrated[1])
    size = rng.uniform(2.5, 7.5)
    nodule_at = centre + rng.normal(0, 0.25 * radius, 3)
    stretch = np.exp(rng.normal(0, 0.2, 3))

    def region(maps: Maps, source: FieldSource, more: float = 0.0) -> Floats:
        return blob(maps.grid, centre, radius + more, source, 500, lumps=0.28, stretch=stretch)

    def swell(maps: Maps, source: FieldSource) -> None:
        # Gyri fill the sulci between them, and the border to white matter blurs.
        s = soft_step(region(maps, source), 2.5) * np.float32(fill)
        s = s * soft_step(maps.ventricle_distance - 4.0, 1.0) * soft_step(-1.5 - maps.brain_distance, 1.0)
        filled = maps.csf * s
        maps.grey += filled
        maps.csf -= filled
        sigma = blur / maps.grid.spacing
        for image in (maps.grey, maps.white):
            image += s * (ndimage.gaussian_filter(image, sigma) - image)
        total = np.maximum(maps.grey + maps.white, 1.0)
        maps.grey /= total
        maps.white /= total
        np.clip(1.0 - maps.grey - maps.white, 0.0, 1.0, out=maps.csf)

    def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
        grid = maps.grid
        # Not everywhere alike: the signal fades over the border and from gyrus to gyrus.
        inside = soft_step(region(maps, source), edge)
        inside = inside * (1.0 - np.float32(uneven) * soft_step(source.field(grid.axes, 10.0, 504) - 0.6, 0.6))
        solid = soft_step(0.5 - maps.csf, 0.12) * soft_step(maps.ventricle_distance - 1.5, 0.5)
        solid = solid * soft_step(-0.5 - maps.brain_distance, 0.5)
        cortex = ndimage.gaussian_filter(np.clip(maps.grey - maps.deep, 0, 1), 0.8 / grid.spacing)
        cortex = inside * soft_step(cortex - 0.25, 0.1) * solid
        around = soft_step(region(maps, source, -3.0), 1.5) * soft_step(
            np.float32(reach) - ndimage.distance_transform_edt(cortex < 0.5, sampling=grid.spacing), 2.0
        )
        around = around * solid * np.float32(depth_of_white)
        grain = texture(grid, source, 7.0, 0.06, 501)
        layers = [
            Layer(around, white, ED if depth_of_white > 0.5 else None, grain),
            Layer(cortex * np.float32(0.95), infiltrated, ED, grain),
        ]
        if nodule:
            depth = np.minimum(blob(grid, nodule_at, size, source, 502, lumps=0.25), 6.0) * inside * solid
            values = (look_.enhancing[0], faint, infiltrated[2] * 1.05, infiltrated[3])
            layers.append(Layer(soft_step(depth - 0.5, 0.5), values, ET, texture(grid, source, 4.0, 0.08, 503)))
        return layers

    return Scene(look, masses=[MassEffect(centre, radius * 0.6, 0.25)], swell=[swell], after=[paint])


def _dark_core(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.white_matter(rng)
    share = rng.uniform(0.0, 0.6)
    grey, oedema = look.grey, look.oedema
    core = (
        oedema[0] * rng.uniform(0.72, 1.0),
        oedema[1] * rng.uniform(0.72, 1.02),
        oedema[2] * rng.uniform(0.85, 1.3),
        max(grey[3] + share * (oedema[3] - grey[3]), 1.12),
    )
    lesion = _lesion(rng, centre, "non-enhancing", rng.uniform(11.0, 26.0), oedema=rng.uniform(6.0, 18.0))
    scene = Scene(replace(look, core=core, kind="non-enhancing"), [lesion])
    if rng.random() < 0.4:
        at = centre + rng.normal(0, 0.35 * lesion.radius, 3)
        scene.lesions.append(_lesion(rng, at, "nodule", rng.uniform(3.0, 6.5), oedema=0.0, push=0.0))
    return scene


def _cyst_look(rng: np.random.Generator, look: Look) -> Look:
    fluid = (rng.uniform(0.25, 0.55), rng.uniform(0.28, 0.58), rng.uniform(2.6, 5.5), rng.uniform(0.2, 0.95))
    return replace(look, core=fluid, notes=(*look.notes, "cyst"))


def _cyst_with_rim(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.white_matter(rng)
    radius = rng.uniform(13.0, 29.0)
    more = {"rim": rng.uniform(3.5, 9.0), "oedema": rng.uniform(1.0, 18.0), "lumpiness": rng.uniform(0.05, 0.18)}
    lesion = _lesion(rng, centre, "ring", radius, push=rng.uniform(0.3, 0.8), broken=0.0, **more)
    return Scene(_cyst_look(rng, look), [lesion])


def _cyst_without_rim(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.white_matter(rng)
    radius = rng.uniform(11.0, 25.0)
    cyst = _lesion(
        rng, centre, "non-enhancing", radius, oedema=rng.uniform(0.0, 8.0), lumpiness=rng.uniform(0.04, 0.14), push=0.7
    )
    scene = Scene(_cyst_look(rng, look), [cyst])
    if rng.random() < 0.6:
        direction = rng.normal(size=3)
        at = centre + direction / np.linalg.norm(direction) * 0.85 * radius
        size = rng.uniform(3.5, 8.0)
        scene.lesions.append(_lesion(rng, at, "nodule", size, rim=size, oedema=0.0, push=0.0))
    return scene


def _haemorrhagic(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.white_matter(rng)
    kind = str(rng.choice(["ring", "solid"]))
    lesion = _lesion(rng, centre, kind, rng.uniform(9.0, 25.0))
    t1, t2 = rng.uniform(1.15, 1.9), rng.uniform(0.3, 0.9)
    blood: Four = (t1, t1 * rng.uniform(0.95, 1.1), t2, rng.uniform(0.5, 1.7))
    bright = max(look.enhancing[1], 1.05 * blood[1])
    chalk: Four = (rng.uniform(0.5, 1.2), rng.uniform(0.5, 1.2), rng.uniform(0.2, 0.55), rng.uniform(0.2, 0.6))
    amount, spots = rng.uniform(-0.4, 0.9), rng.random() < 0.4

    def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
        # Blood and chalk leave the labels as they are; blood in the core stays core, not enhancement.
        core = np.clip(tumour.ncr + 0.6 * tumour.et, 0, 1)
        patch = soft_step(source.field(maps.grid.axes, 8.0, 510) + np.float32(amount), 0.3)
        layers = [Layer(core * patch, blood, None, texture(maps.grid, source, 4.0, 0.08, 511))]
        if spots:
            at = soft_step(source.field(maps.grid.axes, 3.5, 512) - 1.7, 0.2)
            layers.append(Layer(at * np.clip(tumour.ncr + tumour.et, 0, 1), chalk))
        return layers

    e = look.enhancing
    return Scene(replace(look, enhancing=(e[0], bright, e[2], e[3])), [lesion], after=[paint])


def _butterfly(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    front = rng.random() < 0.6
    y, z = (rng.uniform(22, 31), rng.uniform(0, 14)) if front else (rng.uniform(-44, -34), rng.uniform(10, 22))
    centre = anatomy.head_position((rng.normal(0, 4.0), y, z))
    stretch = (rng.uniform(1.5, 2.1), rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0))
    kind = str(rng.choice(["ring", "solid", "non-enhancing"], p=[0.65, 0.15, 0.2]))
    radius = rng.uniform(11.0, 18.0)
    lesion = _lesion(rng, centre, kind, radius, stretch=stretch, push=rng.uniform(0.0, 0.2), oedema=rng.uniform(8, 20))
    return Scene(replace(look, kind=kind), [lesion])


def _multifocal(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.white_matter(rng)
    first = _lesion(rng, centre, "ring", rng.uniform(9.0, 18.0), oedema=rng.uniform(8.0, 18.0))
    lesions = [first]
    distance = np.linalg.norm(places.head - centre[:, None], axis=0)
    for _ in range(int(rng.integers(1, 5))):
        gap = rng.uniform(first.radius + 8.0, 42.0)
        fits = (np.abs(distance - gap) < 5.0) * (places.depth > 4.0) * np.clip(places.white, 0, 1)
        at, _ = places.draw(rng, fits)
        kind = str(rng.choice(["ring", "nodule", "non-enhancing"], p=[0.45, 0.4, 0.15]))
        lesions.append(_lesion(rng, at, kind, rng.uniform(3.5, 9.5), oedema=rng.uniform(2.0, 12.0), push=0.2))
    return Scene(look, lesions)


def _at_skull(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    radius = rng.uniform(9.0, 22.0)
    centre, _ = places.near_surface(rng, 1.5, 0.6 * radius)
    kind = str(rng.choice(["ring", "solid", "non-enhancing"], p=[0.6, 0.25, 0.15]))
    lesion = _lesion(rng, centre, kind, radius, push=rng.uniform(0.0, 0.3), oedema=rng.uniform(4.0, 18.0))
    return Scene(replace(look, kind=kind), [lesion])


def _at_ventricle(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    radius = rng.uniform(8.0, 19.0)
    centre, _ = places.near_ventricle(rng, 1.0, 0.5 * radius + 2.0)
    kind = str(rng.choice(["ring", "solid", "non-enhancing"], p=[0.6, 0.25, 0.15]))
    scene = Scene(replace(look, kind=kind), [_lesion(rng, centre, kind, radius, push=rng.uniform(0.0, 0.4))])
    if rng.random() < 0.6:
        reach, thick = radius + rng.uniform(8.0, 30.0), rng.uniform(1.6, 3.2)
        enhances = rng.random() < 0.7

        def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
            wall = soft_step(np.float32(thick) - np.abs(maps.ventricle_distance - np.float32(0.5 * thick)) * 2.0, 0.6)
            where = wall * soft_step(blob(maps.grid, centre, reach, source, 520, lumps=0.35), 2.0)
            patchy = soft_step(source.field(maps.grid.axes, 6.0, 521) + 0.7, 0.3)
            values = look_.enhancing if enhances else look_.oedema
            return [Layer(where * patchy, values, ET if enhances else ED, under=(NCR,))]

        scene.after.append(paint)
    return scene


def _leptomeningeal(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    centre, _ = places.cortex(rng)
    reach = rng.uniform(14.0, 30.0)
    bright = max(rng.uniform(1.05, 1.9), 1.2 * look.grey[1])
    values = (look.grey[0] * 0.95, bright, look.grey[2] * rng.uniform(0.95, 1.5), max(1.1, look.grey[3]) * 1.25)
    flair = (look.csf[0] * 1.3, look.csf[1] * 1.3, look.csf[2] * 0.85, rng.uniform(1.0, 1.8))

    def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
        region = soft_step(blob(maps.grid, centre, reach, source, 530, lumps=0.35), 2.0)
        region = region * soft_step(maps.ventricle_distance - 6.0, 1.0)
        fluid = maps.csf * soft_step(1.0 - maps.brain_distance, 0.8)
        sheet = ndimage.gaussian_filter(fluid, 0.8 / maps.grid.spacing)
        sulcal = region * soft_step(sheet - 0.22, 0.08) * soft_step(1.0 - maps.brain_distance, 0.8)
        lining = sulcal * soft_step(source.field(maps.grid.axes, 7.0, 531) + 0.5, 0.4)
        return [Layer(region * fluid * 0.7, flair), Layer(lining * 0.9, values, ET)]

    at, depth = centre, rng.uniform(3.0, 8.0)
    lesion = _lesion(rng, at, "nodule", depth, oedema=rng.uniform(3.0, 14.0), push=0.1)
    return Scene(look, [lesion], after=[paint])


def _tiny(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    lesions = []
    for _ in range(int(rng.integers(1, 4))):
        centre, _ = places.white_matter(rng, 3.0) if rng.random() < 0.5 else places.border(rng)
        kind = str(rng.choice(["nodule", "ring", "solid"], p=[0.6, 0.25, 0.15]))
        oedema = rng.uniform(0.0, 7.0) if rng.random() < 0.7 else 0.0
        lesions.append(_lesion(rng, centre, kind, rng.uniform(2.5, 6.0), oedema=oedema, push=0.1))
    return Scene(look, lesions)


def _metastases(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    lesions: list[Lesion] = []
    for _ in range(int(rng.integers(2, 10))):
        centre, _ = places.border(rng)
        if any(np.linalg.norm(centre - np.asarray(other.centre)) < other.radius + 9.0 for other in lesions):
            continue
        radius = 2.6 + rng.gamma(1.4, 2.2)
        kind = "ring" if radius > 6.0 and rng.random() < 0.6 else "solid"
        oedema = rng.uniform(4.0, 20.0) if rng.random() < 0.5 else rng.uniform(0.0, 3.0)
        round_ = {"lumpiness": 0.06, "stretch": (1.0, 1.0, 1.0), "oedema": oedema, "push": 0.2}
        lesions.append(_lesion(rng, centre, kind, min(radius, 13.0), **round_))
    return Scene(look, lesions)


def _resection(rng: np.random.Generator, places: Places, anatomy: Anatomy, look: Look) -> Scene:
    radius = rng.uniform(9.0, 23.0)
    centre, _ = places.near_surface(rng, 3.0, 0.9 * radius)
    fluid = scaled(look.csf, (rng.uniform(1.0, 1.4), rng.uniform(1.0, 1.4), rng.uniform(0.75, 1.05), 1.0))
    fluid = (*fluid[:3], rng.uniform(0.1, 1.1))
    t1 = rng.uniform(1.1, 1.7)
    blood: Four = (t1, t1 * rng.uniform(0.95, 1.1), rng.uniform(0.4, 1.3), rng.uniform(0.8, 1.8))
    rim, bloody = rng.uniform(0.8, 1.8), rng.uniform(-1.2, 0.6)
    oedema = rng.uniform(2.0, 14.0)
    residual = rng.random() < 0.65
    amount = rng.uniform(-1.0, -0.1)
    thickness = rng.uniform(3.0, 8.0)
    resistance = rng.uniform(4.0, 12.0)

    def paint(maps: Maps, tumour: TumourMaps, look_: Look, source: FieldSource) -> list[Layer]:
        axes = maps.grid.axes
        depth = np.minimum(blob(maps.grid, centre, radius, source, 540, lumps=0.22), 0.6 - maps.brain_distance)
        # Around the cavity: oedema and gliosis along white matter, then what is left of the tumour, then the wall.
        margin = np.float32(oedema) * (1.0 + 0.35 * source.field(axes, 11.0, 541)) + np.minimum(depth, 0.0)
        margin = margin - np.float32(resistance) * np.clip(1.0 - ndimage.uniform_filter(maps.white, 3), 0, 1)
        tissue = soft_step(0.45 - maps.csf, 0.08) * soft_step(-1.0 - maps.brain_distance, 0.5)
        layers = [Layer(soft_step(margin, 0.8) * tissue, look_.oedema, ED, texture(maps.grid, source, 8.0, 0.07, 542))]
        if residual:
            where = soft_step(source.field(axes, 9.0, 543) + np.float32(amount), 0.25)
            mass = where * soft_step(depth + np.float32(thickness), 0.6) * soft_step(2.0 - depth, 0.6) * tissue
            layers.append(Layer(mass, look_.enhancing, ET, texture(maps.grid, source, 5.0, 0.1, 544)))
        wall = soft_step(np.float32(rim) - np.abs(depth + 0.5), 0.4) * tissue
        layers.append(Layer(wall * 0.8, (0.8, max(1.15, 0.85 * look_.enhancing[1]), 1.4, 1.4), None))
        stain = soft_step(source.field(axes, 7.0, 545) + np.float32(bloody), 0.3)
        layers.append(Layer(stain * soft_step(2.2 - np.abs(depth), 0.8) * tissue, blood, None))
        layers.append(Layer(soft_step(depth, 0.6), fluid, CAVITY))
        return layers

    return Scene(look, after=[paint])


TUMOURS: dict[str, TumourKind] = {
    "classic": _classic,
    "infiltrated-cortex": _infiltrated_cortex,
    "dark-core": _dark_core,
    "cyst-with-rim": _cyst_with_rim,
    "cyst-without-rim": _cyst_without_rim,
    "haemorrhagic": _haemorrhagic,
    "butterfly": _butterfly,
    "multifocal": _multifocal,
    "at-skull": _at_skull,
    "at-ventricle": _at_ventricle,
    "leptomeningeal": _leptomeningeal,
    "tiny": _tiny,
    "metastases": _metastases,
    "resection": _resection,
}
