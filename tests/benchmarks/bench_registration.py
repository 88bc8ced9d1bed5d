"""Registration, brain mask and midline shift on simulated patients whose truth is known.

Each study is prepared as the service does it (`imaging.preprocessing.coregistration`). Registration error: distance between where
the transform found and the true one put a brain voxel, 95th percentile over the brain. Dates: the contrast T1 of a visit
against the first visit's, brain-masked, as for comparison. Brain mask: Dice against the true brain, whole heads and skull-stripped
images, the "hard" look (noise, bias, faint contrast) apart. Simulated heads are no proof for real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import django
import numpy as np

PATIENTS = (
    (31, "progression"), (32, "response"), (33, "stable"), (34, "two-lesions"), (35, "new-lesion"), (36, "midline-shift"),
)  # fmt: skip


def main() -> None:
    """Print a row a study and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=len(PATIENTS), help="two visits each")
    parser.add_argument("--hard", type=int, default=2, help="of them also in the hard look")
    parser.add_argument("--spacing", type=int, choices=(1, 2), default=2, help="of the simulated truth, mm")
    args = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
    django.setup()
    rows: list[dict[str, Any]] = []
    print(
        f"{'study':<34} {'seconds':>7} {'sequences mm':>13} {'dates mm':>9} {'Dice':>6} {'stripped':>9} {'shift mm':>17}"
    )
    for seed, scenario in PATIENTS[: args.patients]:
        for row in _patient(seed, scenario, args.spacing, "clean"):
            rows.append(row)
    for seed, scenario in PATIENTS[: args.hard]:
        for row in _patient(seed, scenario, args.spacing, "hard"):
            rows.append(row)
    clean = [row for row in rows if row["look"] == "clean"]
    hard = [row for row in rows if row["look"] == "hard"]
    result: dict[str, Any] = {"studies": len(clean), "refused": sum(row["refused"] for row in rows)}
    result |= _summary("sequences_p95_mm", [e for row in clean for e in row["sequences"]], max)
    result |= _summary("dates_p95_mm", [e for row in clean for e in row["dates"]], max)
    result |= _summary("brain_dice", [e for row in clean for e in row["dice"]], min)
    result |= _summary("brain_dice_stripped", [e for row in clean for e in row["stripped"]], min)
    result |= _summary("hard_sequences_p95_mm", [e for row in hard for e in row["sequences"]], max)
    result |= _summary("hard_brain_dice", [e for row in hard for e in row["dice"]], min)
    result |= _summary("midline_error_mm", [e for row in clean for e in row["shift"]], max)
    result["midline_assessed"] = sum(len(row["shift"]) for row in clean)
    print(json.dumps(result))


def _summary(name: str, values: list[float], worst: Any) -> dict[str, float | None]:
    edge = "max" if worst is max else "min"
    if not values:
        return {name + "_mean": None, f"{name}_{edge}": None}
    return {name + "_mean": round(float(np.mean(values)), 3), f"{name}_{edge}": round(float(worst(values)), 3)}


def _patient(seed: int, scenario: str, spacing: int, look: str) -> Iterator[dict[str, Any]]:
    from imaging.geometry.resample import centroid_ras
    from imaging.measurement.midline_shift import find_midline
    from imaging.preprocessing.coregistration import NoBrain, NotAligned, coregister_study
    from imaging.preprocessing.rigid import register_rigid
    from oncoflow_site.demo.simulator.patient import SyntheticPatient

    patient = SyntheticPatient(seed, scenario, spacing=spacing)  # type: ignore[arg-type]
    first: tuple[Any, Any, Any] | None = None
    for visit in (0, 1):
        row: dict[str, Any] = {
            "look": look,
            "refused": 0,
            **{k: [] for k in ("sequences", "dates", "dice", "stripped", "shift")},
        }
        study = patient.acquire(visit, difficulty=look)  # type: ignore[arg-type]
        brain, head_affine = patient.brain(visit)
        voxels = np.argwhere(brain)[::23]
        head = voxels @ head_affine[:3, :3].T + head_affine[:3, 3]
        began = time.perf_counter()
        try:
            made = coregister_study(_given(study), threads=1)
        except (NotAligned, NoBrain) as error:
            row["refused"] = 1
            print(f"{scenario} {seed} visit {visit} {look}: refused, {error}")
            yield row
            continue
        seconds = time.perf_counter() - began
        world = study.series[made.reference].to_world
        for name, found in made.registrations.items():
            if name != made.reference:
                row["sequences"].append(
                    _error(found.matrix, study.series[name].to_world @ np.linalg.inv(world), _at(world, head))
                )
        row["dice"].append(_dice(made.brain, _truth(brain, head_affine, world, made.grid)))
        reference = made.images[made.reference]
        if first is None:
            first = (reference, made.grid, world)
        else:
            start = centroid_ras(first[0] != 0, first[1]) - centroid_ras(reference != 0, made.grid)
            found = register_rigid(reference, made.grid, first[0], first[1], start_translation=start, threads=1)
            if found.converged:
                row["dates"].append(_error(found.matrix, first[2] @ np.linalg.inv(world), _at(world, head)))
            else:
                row["refused"] += 1
        shift, true = None, patient.midline(visit).shift_mm
        if made.parameters.brain.plausible:
            shift = find_midline(made.images["T1"], made.brain, made.grid, threads=1).shift_mm
        if shift is not None:
            row["shift"].append(abs(shift - true))
        if look == "clean" and visit == 0:
            bare = patient.acquire(visit, skull=False)
            stripped = coregister_study(_given(bare), threads=1)
            there = _truth(brain, head_affine, bare.series[stripped.reference].to_world, stripped.grid)
            row["stripped"].append(_dice(stripped.brain, there))
        said = "not assessed" if shift is None else f"{shift:.1f}"
        print(
            f"{scenario + f' {seed} visit {visit} {look}':<34} {seconds:>7.0f} {max(row['sequences']):>13.2f} "
            f"{_shown(row['dates'], 2):>9} {_shown(row['dice'], 3):>6} {_shown(row['stripped'], 3):>9} "
            f"{said + f' ({true:.1f})':>17}",
            flush=True,
        )
        yield row


def _given(study: Any) -> dict[str, tuple[Any, Any]]:
    return {
        name: (one.pixels.transpose(2, 1, 0).astype(np.float32), one.grid.affine) for name, one in study.series.items()
    }


def _shown(values: list[float], digits: int) -> str:
    return f"{max(values):.{digits}f}" if values else "-"


def _at(matrix: Any, points: Any) -> Any:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _error(found: Any, truth: Any, points: Any) -> float:
    return float(np.percentile(np.linalg.norm(_at(found, points) - _at(truth, points), axis=1), 95))


def _truth(brain: Any, head_affine: Any, world: Any, grid: Any) -> Any:
    from imaging.geometry.grid import Grid
    from imaging.geometry.resample import resample

    own = Grid(world @ head_affine, brain.shape)
    return resample(np.ascontiguousarray(brain.transpose(2, 1, 0)).astype(np.float32), own, grid) >= 0.5


def _dice(one: Any, other: Any) -> float:
    return 2.0 * float((one & other).sum()) / float(one.sum() + other.sum())


if __name__ == "__main__":
    main()
