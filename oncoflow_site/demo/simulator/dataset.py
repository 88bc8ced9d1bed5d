"""Training data: a folder of simulated examinations in nnU-Net's raw layout.

Images are what a study looks like after preparation (registered, brain-masked, resampled to about 2 mm). Nothing here
knows how models are trained, and training does not know where a dataset came from.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from oncoflow_site.foundation.schema import JsonDict

from .acquisition import brain_mask, prepared_images, random_degradation
from .anatomy import Anatomy, load_template
from .cases import REGION_LABELS, Case, SimulatedCase, case_grid, finish
from .contrast import SEQUENCES, paint_brain, random_look
from .fields import FieldSource, Floats, Grid
from .head import paint_outside, random_shell
from .kinds.simulate import simulate_kinds
from .tumour import Lesion, random_lesion, render_lesions

__all__ = ["REGION_LABELS", "Case", "plan_cases", "simulate_case", "write_dataset"]

TUMOUR_FREE_SHARE = 0.27
MISSING_SEQUENCE_SHARE = 0.10


def plan_cases(cases: int, held_out: int, seed: int, spacing: float) -> list[Case]:
    """Names and seeds of all cases; held-out seeds are disjoint from training seeds, a fifth of them tumour-free."""
    rng = np.random.default_rng([seed, 17])
    seeds = rng.permutation(2**24)[: cases + held_out] + seed * 2**24
    free = rng.permutation(cases) < round(TUMOUR_FREE_SHARE * cases)
    free_held = rng.permutation(held_out) < round(0.2 * held_out)
    training = [Case(f"SIM_{i:04d}", int(seeds[i]), False, not free[i], spacing) for i in range(cases)]
    testing = [
        Case(f"SIMHELD_{i:04d}", int(seeds[cases + i]), True, not free_held[i], spacing) for i in range(held_out)
    ]
    return training + testing


def _place(rng: np.random.Generator, anatomy: Anatomy, grid: Grid, mni: Floats) -> tuple[NDArray[np.float64], float]:
    """A centre (head space, mm) in tissue, and its depth below the brain's surface in mm."""
    template = load_template(2)
    picks = rng.integers(0, np.prod(grid.shape), 4000)
    at = np.stack(np.unravel_index(picks, grid.shape))
    points = mni[:, at[0], at[1], at[2]]
    depth = -template.sample(template.brain_distance, points)
    tissue = template.sample(template.white, points) + 0.6 * template.sample(template.grey, points)
    ventricle = template.sample(template.ventricle_distance, points)
    below = (points[2] < -18) & (points[1] < -34)
    weight = (depth > 5.0) * (ventricle > 3.0) * np.clip(tissue - 0.35, 0, 1) * np.where(below, 0.2, 1.0)
    weight *= (points[2] > -58) * np.where(depth > 12, 1.0, 0.7)
    chosen = int(rng.choice(len(picks), p=weight / weight.sum()))
    centre = np.asarray(grid.origin) + grid.spacing * at[:, chosen]
    return centre + rng.uniform(-0.5, 0.5, 3) * grid.spacing, float(depth[chosen])


def _lesions(rng: np.random.Generator, anatomy: Anatomy, grid: Grid, mni: Floats) -> list[Lesion]:
    centre, depth = _place(rng, anatomy, grid, mni)
    lesions = [random_lesion(rng, centre, depth)]
    more = int(rng.integers(1, 4)) if lesions[0].kind == "nodule" else int(rng.random() < 0.12)
    for _ in range(more):
        centre, depth = _place(rng, anatomy, grid, mni)
        gaps = [np.linalg.norm(centre - np.asarray(other.centre)) - other.radius * 1.5 for other in lesions]
        if min(gaps) > 14.0:
            lesions.append(random_lesion(rng, centre, depth, small=True))
    return lesions


def simulate_case(case: Case) -> SimulatedCase:
    """Simulate one prepared examination. Deterministic in `case`."""
    if case.kinds:
        return simulate_kinds(case)
    source = FieldSource(case.seed)
    rng = source.rng(100)
    anatomy = Anatomy(case.seed, rotate=True)
    grid = case_grid(rng, anatomy, case.spacing)
    mni = anatomy.coordinates(grid)
    lesions = _lesions(rng, anatomy, grid, mni) if case.tumour else []
    maps = anatomy.maps(grid, [lesion.mass for lesion in lesions], mni)
    tumour = render_lesions(lesions, maps)
    kind = lesions[0].kind if lesions else ""
    look = random_look(rng, kind=kind)
    if not case.tumour and rng.random() < 0.6:
        # Tumour-free brains are those with the most to be mistaken for tumour.
        look = replace(look, white_lesions=float(rng.uniform(0.5, 1.0)), caps=float(rng.uniform(0.4, 1.0)))
    images = paint_brain(maps, tumour, look, source)
    paint_outside(maps, images, look, random_shell(rng), source, face=False)
    mask = brain_mask(maps, source)
    thick = rng.random() < 0.5
    flaws = [random_degradation(rng, n, thick=thick) for n in range(len(SEQUENCES))]
    missing = ""
    if rng.random() < MISSING_SEQUENCE_SHARE and not case.held_out:
        # A missing T1c would leave enhancement unknowable, so it is left out least often.
        index = int(rng.choice(4, p=[0.4, 0.05, 0.4, 0.15]))
        flaws[index] = replace(flaws[index], missing=True)
        missing = SEQUENCES[index]
    prepared = prepared_images(images, maps, mask, tuple(flaws), source)
    facts = {
        "kinds": [lesion.kind for lesion in lesions],
        "radius_mm": [round(lesion.radius, 1) for lesion in lesions],
        "difficulty": {
            "enhancement_t1c": round(look.enhancing[1], 2),
            "oedema_flair": round(look.oedema[3], 2),
            "noise_max": round(max(f.noise for f in flaws), 3),
            "thick_slices": bool(thick),
            "missing_sequence": missing,
            "notes": list(look.notes),
        },
    }
    return finish(case, grid, prepared, tumour.labels, mask, facts)


def _write_case(task: tuple[Case, str]) -> JsonDict:
    case, folder = task
    result = simulate_case(case)
    suffix = "Ts" if case.held_out else "Tr"
    for n, image in enumerate(result.images):
        nib.save(
            nib.Nifti1Image(image, result.affine), Path(folder) / f"images{suffix}" / f"{case.name}_{n:04d}.nii.gz"
        )
    nib.save(nib.Nifti1Image(result.labels, result.affine), Path(folder) / f"labels{suffix}" / f"{case.name}.nii.gz")
    if result.cavity is not None and result.cavity.any():
        # Apart from the labels: a cavity belongs to no region of a tumour.
        place = Path(folder) / f"cavities{suffix}"
        place.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(result.cavity.astype(np.uint8), result.affine), place / f"{case.name}.nii.gz")
    return result.record


def write_dataset(out: Path, cases: Sequence[Case], *, workers: int = 1, seed: int | None = None) -> None:
    """Write images, labels, dataset.json and cases.json to `out`. Case files are independent of the number of workers."""
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    load_template(2)
    started = time.monotonic()
    tasks = [(case, str(out)) for case in cases]
    if workers > 1:
        # Forked, so that the template is loaded once.
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            records = list(pool.imap(_write_case, tasks, chunksize=1))
    else:
        records = [_write_case(task) for task in tasks]
    description = {
        "name": "OncoFlowSimulated",
        "description": "Simulated brain tumour MRI (no person's data), made by oncoflow_site.demo.simulator",
        "channel_names": {str(n): name for n, name in enumerate(SEQUENCES)},
        "labels": {"background": 0, **{region: list(values) for region, values in REGION_LABELS.items()}},
        "regions_class_order": [2, 1, 3],
        "numTraining": sum(not case.held_out for case in cases),
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    (out / "cases.json").write_text(
        json.dumps(
            {
                "seed": seed,
                "plan": [asdict(case) for case in cases],
                "cases": records,
                "seconds": round(time.monotonic() - started, 1),
            },
            indent=1,
        )
        + "\n"
    )
