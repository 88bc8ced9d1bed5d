"""How far the panel's volumes and diameters differ when nothing has changed: double baselines of simulated patients.

    make bench NAME=repeatability                      30 pairs
    make bench NAME=repeatability ARGS="--pairs 6 --experts nnunet-plain,nnunet-residual"

Each patient is scanned twice on the same day: moved, on another scanner (slices of 2-5 mm, contrast, bias, noise). Both
examinations go through alignment, brain extraction, the experts and fusion as in the service. Diameters are the longest axial
one of the largest enhancing lesion. Anchor for humans' tools: AutoRANO has ICC 0.991 for enhancing volume and 0.977 for
diameters (Chang et al., Neuro Oncol 2019;21:1412). Goals: ``icc_et_volume`` 0.99, ``icc_wt_volume`` 0.98, ``icc_diameter`` 0.97.

--out FILE keeps every pair, and goes on where it left off.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from imaging.brats.regions import REGIONS
from imaging.geometry.grid import Grid
from imaging.measurement.diameters import axial_diameters
from imaging.preprocessing.coregistration import NoBrain, NotAligned, coregister_study
from inference.evaluation.repeatability import Repeatability, repeatability, size_bins
from inference.experts.common.islands import least_voxels
from inference.experts.contract import Expert, Volumes
from inference.experts.factory import expert_for_folder
from inference.experts.weights import read_model_json
from inference.fusion.fuse import fuse
from oncoflow_site.demo.simulator.patient import SCENARIOS, AcquiredStudy, SyntheticPatient

WEIGHTS = Path(__file__).resolve().parents[2] / "inference" / "weights"
VOTERS = "nnunet-plain,nnunet-residual"
EDGES = {"ET": (5.0, 20.0), "TC": (5.0, 20.0), "WT": (20.0, 60.0), "diameter": (20.0, 40.0)}
QUANTITIES = (*REGIONS, "diameter")


def patients(count: int, seed: int, spacing: int) -> Iterator[tuple[SyntheticPatient, int]]:
    """Patients with tumours of all sizes that the scenarios have, and the visit that is scanned twice."""
    scenarios = [name for name in SCENARIOS if name != "tumour-free"]
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        patient = SyntheticPatient(
            int(rng.integers(10**6, 10**7)),
            scenarios[number % len(scenarios)],
            spacing=spacing,  # type: ignore[arg-type]
        )
        yield patient, int(rng.integers(patient.visits))


def measured(study: AcquiredStudy, experts: dict[str, Expert], described: list[dict[str, Any]]) -> dict[str, float]:
    """Volumes (ml) by region and the largest enhancing lesion's longest axial diameter (mm; 0 where there is none).

    Raises NoBrain and NotAligned.
    """
    given = {n: (s.pixels.transpose(2, 1, 0).astype(np.float32), s.grid.affine) for n, s in study.series.items()}
    made = coregister_study(given, threads=1)
    volumes = Volumes(dict(made.images), made.grid.spacing_zyx(), made.brain)
    outputs = {name: expert.predict(volumes).probabilities for name, expert in experts.items()}
    masks = fuse(outputs, least_voxels=least_voxels(described, volumes.spacing)).masks
    ml = float(np.prod(volumes.spacing)) / 1000.0
    return {**{r: float(masks[r].sum()) * ml for r in REGIONS}, "diameter": longest(masks["ET"], made.grid)}


def longest(mask: Any, grid: Grid) -> float:
    """Longest axial diameter (mm) of the largest connected lesion."""
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return 0.0
    found = axial_diameters(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])), grid)
    return found.longest_mm if found is not None else 0.0


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--spacing", type=int, choices=(1, 2), default=2, help="of the simulated head, mm")
    parser.add_argument("--experts", default=VOTERS)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="file of pairs (JSON), gone on with where it is there")
    arguments = parser.parse_args()
    names = arguments.experts.split(",")
    experts = {n: expert_for_folder(arguments.weights / n, arguments.threads) for n in names}
    described = [read_model_json(arguments.weights / n) for n in names]
    for expert in experts.values():
        expert.load()
    kept: list[dict[str, Any]] = []
    if arguments.out is not None and arguments.out.is_file():
        kept = json.loads(arguments.out.read_text("utf-8"))
    print(f"{'patient':<28} {'s':>5} " + " ".join(f"{q:>16}" for q in QUANTITIES) + "   first, second")
    for number, (patient, visit) in enumerate(patients(arguments.pairs, arguments.seed, arguments.spacing)):
        if number < len(kept):
            continue
        began = time.perf_counter()
        pair: dict[str, Any] = {"patient": patient.seed, "scenario": patient.scenario, "visit": visit}
        try:
            pair["first"], pair["second"] = (
                measured(patient.acquire(visit, repeat=repeat), experts, described) for repeat in (0, 1)
            )
        except (NotAligned, NoBrain) as error:
            pair["refused"] = str(error)
        kept.append(pair)
        seconds = time.perf_counter() - began
        shown = pair.get("refused") or " ".join(
            f"{pair['first'][q]:>8.2f}{pair['second'][q]:>8.2f}" for q in QUANTITIES
        )
        print(f"{f'{patient.scenario} {patient.seed}':<28} {seconds:>5.0f} {shown}", flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    complete = [pair for pair in kept if "refused" not in pair]
    if len(complete) < 3:
        sys.exit("fewer than three pairs came through")
    result: dict[str, Any] = {"pairs": len(complete), "refused": len(kept) - len(complete)}
    print(
        f"\n{'':<10} {'size':>8} {'n':>4} {'ICC (95 % interval)':>24} {'bias':>7} {'limits of agreement':>20} {'ratio':>14}"
    )
    for quantity in QUANTITIES:
        # What neither examination shows says nothing about how well it is measured.
        pairs = [
            (float(p["first"][quantity]), float(p["second"][quantity]))
            for p in complete
            if p["first"][quantity] > 0 or p["second"][quantity] > 0
        ]
        if len(pairs) < 3:
            continue
        whole = repeatability(pairs)
        key = "diameter" if quantity == "diameter" else f"{quantity.lower()}_volume"
        if whole.icc is not None and whole.icc_interval is not None:
            result[f"icc_{key}"] = round(whole.icc, 4)
            result[f"icc_{key}_low"] = round(whole.icc_interval[0], 4)
        result[f"coefficient_{key}"] = round(whole.coefficient, 3)
        for size, found in (("all", whole), *size_bins(pairs, EDGES[quantity])):
            print(row(quantity, size, found))
    print(json.dumps(result))


def row(quantity: str, size: str, found: Repeatability) -> str:
    """One line of the table."""
    icc = "-"
    if found.icc is not None and found.icc_interval is not None:
        icc = f"{found.icc:.3f} ({found.icc_interval[0]:.3f}-{found.icc_interval[1]:.3f})"
    limits = f"{found.limits[0]:.2f} to {found.limits[1]:.2f}"
    ratio = "-" if found.relative is None else f"{found.relative[0]:.2f}-{found.relative[1]:.2f}"
    return f"{quantity:<10} {size:>8} {found.n:>4} {icc:>24} {found.bias:>7.2f} {limits:>20} {ratio:>14}"


if __name__ == "__main__":
    main()
