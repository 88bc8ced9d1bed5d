"""The table of kinds: what each is called, how often it occurs, and why it is there.

A case has one kind of tumour (or none) and any of the others, each with its own chance. Any kind can be left out of a
dataset by name, so that a network can be judged on what it has never seen, and any can be made alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from oncoflow_site.demo.simulator.cases import Case

__all__ = ["KINDS", "TUMOUR_FREE_SHARE", "Kind", "UnknownKind", "kinds_of", "markdown", "plan_kinds", "shares"]

Category = Literal["tumour", "mimic", "look", "flaw"]
TUMOUR_FREE_SHARE = 0.28
_MIMIC_RATE_WITH_TUMOUR = 0.5


class UnknownKind(ValueError):
    """A name that the table does not have, or a selection that leaves no tumour; the text says which."""


@dataclass(frozen=True)
class Kind:
    """share: of the cases with a tumour (category tumour, sums to 1); else the chance in a case.

    Mimics have that chance in tumour-free cases, half of it beside a tumour, and a tumour-free case has at least one.
    """

    name: str
    category: Category
    share: float
    why: str


KINDS: tuple[Kind, ...] = (
    Kind(
        "classic",
        "tumour",
        0.20,
        "ring, solid, non-enhancing and nodular masses in white matter: what was learned before",
    ),
    Kind(
        "infiltrated-cortex",
        "tumour",
        0.12,
        "swollen gyri, bright in FLAIR and hardly in T2, blurred border, faint nodule",
    ),
    Kind("dark-core", "tumour", 0.08, "non-enhancing core whose FLAIR lies between cortex and oedema"),
    Kind("cyst-with-rim", "tumour", 0.08, "large cyst, dark in FLAIR as in T1c, with a thick enhancing wall"),
    Kind("cyst-without-rim", "tumour", 0.05, "the same without a wall, at times with a mural nodule"),
    Kind("haemorrhagic", "tumour", 0.06, "blood bright in T1 before contrast, dark in T2; calcification"),
    Kind("butterfly", "tumour", 0.05, "through the corpus callosum into both hemispheres"),
    Kind("multifocal", "tumour", 0.06, "satellites in and beyond the oedema of the first focus"),
    Kind("at-skull", "tumour", 0.06, "broad contact with the brain's surface: the rim meets dura and mask"),
    Kind("at-ventricle", "tumour", 0.05, "contact with a ventricle and spread along its wall"),
    Kind("leptomeningeal", "tumour", 0.03, "enhancement that fills sulci"),
    Kind("tiny", "tumour", 0.05, "one to three lesions of 2.5-6 mm radius, with little oedema"),
    Kind("metastases", "tumour", 0.05, "round, several, at the grey-white border, with oedema out of proportion"),
    Kind(
        "resection",
        "tumour",
        0.06,
        "cavity (label RC, apart), blood products and thin rim after surgery, residual tumour",
    ),
    Kind("multiple-sclerosis", "mimic", 0.20, "ovoid lesions at ventricles and cortex, some enhancing, without label"),
    Kind("small-vessel", "mimic", 0.30, "caps, confluent halos and spots in white matter, without label"),
    Kind("infarct", "mimic", 0.12, "old territory with shrunken cortex, as bright in T2 as in FLAIR, without label"),
    Kind("meningioma", "mimic", 0.12, "round, even enhancement outside the brain that dents it, without label"),
    Kind("bright-vessels", "mimic", 0.25, "large veins, sinuses, choroid plexus, brighter than any tumour"),
    Kind("thick-dura", "mimic", 0.12, "enhancing dura, falx and tentorium, as after surgery"),
    Kind(
        "random-appearance",
        "look",
        0.33,
        "every tissue's intensities drawn anew (SynthSeg), so that shape has to be learned",
    ),
    Kind("strip-errors", "flaw", 0.20, "rests of scalp, fat and dura inside the mask, cortex missing from it"),
    Kind("thick-slices", "flaw", 0.25, "slices of 5-7 mm with their steps and partial volume"),
    Kind("misregistered", "flaw", 0.20, "sequences 1-2 mm and up to 1.5 degrees apart"),
    Kind("windowed", "flaw", 0.25, "exports clipped at a display window, with a curve of their own"),
    Kind("coil-profile", "flaw", 0.20, "strong bias: one side of the head brighter than the other"),
    Kind("motion", "flaw", 0.12, "ghosts and blurring along one axis"),
)
_BY_NAME = {kind.name: kind for kind in KINDS}


def shares(leave_out: Collection[str] = (), only: Collection[str] = ()) -> dict[str, float]:
    """Share by name: tumour kinds of the cases with a tumour, sum 1; others their chance.

    only: those of a category replace all others of it; mimics, looks and flaws named there are in every case.
    Raises UnknownKind.
    """
    unknown = (set(leave_out) | set(only)) - set(_BY_NAME)
    if unknown:
        raise UnknownKind(f"unknown kinds: {', '.join(sorted(unknown))}. Known: {', '.join(_BY_NAME)}.")
    both = set(leave_out) & set(only)
    if both:
        raise UnknownKind(f"left out and asked for at once: {', '.join(sorted(both))}")
    wanted = {kind.category for kind in KINDS if kind.name in only}
    found = {}
    for kind in KINDS:
        if kind.name in leave_out or (kind.category in wanted and kind.name not in only):
            continue
        found[kind.name] = 1.0 if kind.name in only and kind.category != "tumour" else kind.share
    tumours = [name for name in found if _BY_NAME[name].category == "tumour"]
    if not tumours:
        raise UnknownKind("no kind of tumour is left")
    total = sum(found[name] for name in tumours)
    return {name: share / total if name in tumours else share for name, share in found.items()}


def kinds_of(rng: np.random.Generator, tumour: bool, found: dict[str, float]) -> tuple[str, ...]:
    """Draw the kinds of one case from `found` (see shares), in the order of the table."""
    # One draw for every kind of the table, so that leaving some out changes nothing in the others.
    chance = {kind.name: float(rng.random()) for kind in KINDS}
    at = float(rng.random())
    chosen: set[str] = set()
    tumours = [name for name in found if _BY_NAME[name].category == "tumour"]
    if tumour:
        edges = np.cumsum([found[name] for name in tumours])
        chosen.add(tumours[min(int(np.searchsorted(edges, at, side="right")), len(tumours) - 1)])
    mimics = [name for name in found if _BY_NAME[name].category == "mimic"]
    for name in found:
        category = _BY_NAME[name].category
        rate = found[name]
        if category == "mimic" and tumour and rate < 1.0:
            rate *= _MIMIC_RATE_WITH_TUMOUR
        if category != "tumour" and chance[name] < rate:
            chosen.add(name)
    if not tumour and mimics and not chosen & set(mimics):
        chosen.add(min(mimics, key=lambda name: chance[name] / found[name]))
    return tuple(kind.name for kind in KINDS if kind.name in chosen)


def plan_kinds(
    cases: int,
    held_out: int,
    seed: int,
    spacing: float,
    *,
    leave_out: Collection[str] = (),
    only: Collection[str] = (),
    tumour_free: float = TUMOUR_FREE_SHARE,
) -> list[Case]:
    """Names, seeds and kinds of all cases; no seed occurs twice. Raises UnknownKind, and ValueError for a seed above 63."""
    found = shares(leave_out, only)
    rng = np.random.default_rng([seed, 23])
    # Random fields look at 32 bits of a seed: blocks 160-223 of 2**24 are far from those of the classic datasets (1, 103-105).
    if not 0 <= seed < 64:
        raise ValueError("the seed of a dataset of kinds is 0 to 63")
    seeds = rng.permutation(2**24)[: cases + held_out] + (160 + seed) * 2**24
    made = []
    for split, count, prefix in ((False, cases, "KIND"), (True, held_out, "KINDHELD")):
        free = rng.permutation(count) < round(tumour_free * count)
        for i in range(count):
            number = int(seeds[i + (cases if split else 0)])
            drawn = kinds_of(np.random.default_rng([number, 29]), not free[i], found)
            made.append(Case(f"{prefix}_{i:04d}", number, split, not free[i], spacing, drawn))
    return made


def markdown() -> str:
    """The table as documentation shows it."""
    lines = ["| kind | category | share | why |", "| --- | --- | --- | --- |"]
    lines += [f"| {kind.name} | {kind.category} | {kind.share:.0%} | {kind.why} |" for kind in KINDS]
    return "\n".join(lines) + "\n"
