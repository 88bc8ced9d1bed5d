"""One case of the table's kinds, from its seed to prepared images and labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oncoflow_site.demo.simulator.anatomy import Anatomy
from oncoflow_site.demo.simulator.cases import Case, SimulatedCase, case_grid, finish
from oncoflow_site.demo.simulator.contrast import paint_brain, paint_tumour, random_look
from oncoflow_site.demo.simulator.fields import FieldSource
from oncoflow_site.demo.simulator.head import paint_outside, random_shell
from oncoflow_site.demo.simulator.tumour import ED, ET, NCR, render_lesions

from .appearance import random_appearance
from .flaws import flawed_images, flawed_mask
from .layers import Scene, largest_pieces, paint_layers
from .mimics import MIMICS
from .places import Places
from .table import KINDS, UnknownKind
from .tumours import TUMOURS

__all__ = ["simulate_kinds"]

LEAST_ML = 0.03
"""Islands of a label below this are nobody's lesion: partial volume of what was painted."""


def simulate_kinds(case: Case) -> SimulatedCase:
    """Simulate one prepared examination of `case.kinds`. Deterministic in `case`. Raises UnknownKind."""
    unknown = set(case.kinds) - {kind.name for kind in KINDS}
    tumours = [name for name in case.kinds if name in TUMOURS]
    if unknown or len(tumours) != int(case.tumour):
        raise UnknownKind(f"{case.name}: {', '.join(case.kinds)} is not one kind of tumour and known others")
    source = FieldSource(case.seed)
    rng = source.rng(800)
    anatomy = Anatomy(case.seed, rotate=True)
    grid = case_grid(rng, anatomy, case.spacing)
    mni = anatomy.coordinates(grid)
    places = Places.of(rng, grid, mni)
    look = random_look(rng)
    if "random-appearance" in case.kinds:
        look = random_appearance(look, source.rng(801))
    scene = TUMOURS[tumours[0]](source.rng(802), places, anatomy, look) if tumours else Scene(look)
    if scene.look.kind == "non-enhancing" and "random-appearance" not in case.kinds and tumours[0] != "dark-core":
        # Without a rim the core must differ in itself, as contrast.py has it.
        scene.look = replace(scene.look, core=_apart(scene.look.core, scene.look.oedema))
    for number, name in enumerate(name for name in case.kinds if name in MIMICS):
        MIMICS[name](source.rng(803, number), places, scene)
    maps = anatomy.maps(grid, [*(lesion.mass for lesion in scene.lesions), *scene.masses], mni)
    for change in scene.swell:
        change(maps, source)
    tumour = render_lesions(scene.lesions, maps)
    images = paint_brain(maps, None, scene.look, source)
    labels, cavity = tumour.labels.copy(), np.zeros(grid.shape, bool)
    paint_outside(maps, images, scene.look, random_shell(rng), source, face=False)
    for painter in scene.before:
        paint_layers(images, labels, cavity, painter(maps, tumour, scene.look, source))
    if tumour.labels.any():
        paint_tumour(maps, tumour, scene.look, source, images)
    for painter in scene.after:
        paint_layers(images, labels, cavity, painter(maps, tumour, scene.look, source))
    least = max(1, round(LEAST_ML * 1000.0 / case.spacing**3))
    for label in (ED, NCR, ET):
        labels[(labels == label) & ~largest_pieces(labels > 0, least)] = 0
    mask = flawed_mask(maps, source, case.kinds)
    prepared, flaws = flawed_images(images, maps, mask, source, case.kinds)
    facts = {
        "kinds": list(case.kinds),
        "shapes": [lesion.kind for lesion in scene.lesions],
        "radius_mm": [round(lesion.radius, 1) for lesion in scene.lesions],
        "difficulty": {
            "enhancement_t1c": round(scene.look.enhancing[1], 2),
            "oedema_flair": round(scene.look.oedema[3], 2),
            "noise_max": round(max(f.noise for f in flaws), 3),
            "notes": list(scene.look.notes),
        },
    }
    return finish(case, grid, prepared, labels, mask, facts, cavity)


def _apart(
    core: tuple[float, float, float, float], oedema: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """A core that is darker in T1 or clearly other in FLAIR than oedema."""
    if core[0] < 0.88 * oedema[0] or abs(core[3] - oedema[3]) > 0.25 * oedema[3]:
        return core
    return (0.8 * oedema[0], 0.8 * oedema[1], 1.2 * oedema[2], 0.85 * oedema[3])
