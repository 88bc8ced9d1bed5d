"""Dice of each expert, of the consensus and of the trivial rule, on simulated patients or on a folder of real cases.

    make bench NAME=accuracy                      simulated patients of a seed that no training has used
    make bench NAME=accuracy ARGS=FOLDER          real ones: one sub-folder a case, files ending t1n/t1c/t2w/t2f/seg

Real cases: NIfTI (.nii or .nii.gz), skull-stripped, labels 1 NCR, 2 ED, 3 or 4 ET; turned to RAS first. The consensus is
that of the experts with the panel's votes as they stand in their evaluations. ``false_ml_p95`` is the 95th percentile of
false tumour in tumour-free patients, ml. Goals: consensus WT 0.93, TC 0.90, ET 0.88 simulated; 0.88, 0.82, 0.80 real.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, region_masks
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.evaluation.heldout import CaseScore, score_case, summarise
from inference.experts.common.flair_baseline import rule_regions
from inference.experts.common.input_requirements import read_evaluation
from inference.experts.common.islands import least_voxels
from inference.experts.contract import Expert, Volumes
from inference.experts.factory import expert_for_folder
from inference.experts.weights import read_model_json
from inference.fusion.fuse import fuse, masks_of
from oncoflow_site.demo.simulator.dataset import plan_cases, simulate_case

WEIGHTS = Path(__file__).resolve().parents[2] / "inference" / "weights"
ENDINGS = {"T1": "t1n", "T1c": "t1c", "T2": "t2w", "FLAIR": "t2f"}
Masks = dict[str, NDArray[np.bool_]]


def simulated(count: int, seed: int) -> Iterator[tuple[str, Volumes, Masks]]:
    """Patients with all four sequences, 2 mm."""
    found = 0
    for case in plan_cases(4 * count, 0, seed=seed, spacing=2.0):
        made = simulate_case(case)
        images = {s: np.asarray(made.images[i].transpose(2, 1, 0), np.float32) for i, s in enumerate(PANEL_SEQUENCES)}
        if not all(image.any() for image in images.values()):
            continue
        brain = np.any([image != 0 for image in images.values()], axis=0)
        yield case.name, Volumes(images, (2.0, 2.0, 2.0), brain), region_masks(made.labels.transpose(2, 1, 0))
        found += 1
        if found == count:
            return


def real(folder: Path) -> Iterator[tuple[str, Volumes, Masks]]:
    """The cases of a folder, in the order of their names."""
    for place in sorted(one for one in folder.iterdir() if one.is_dir()):
        found = {s: _read(place, ending)[0] for s, ending in ENDINGS.items()}
        labels, spacing = _read(place, "seg")
        brain = np.any([image != 0 for image in found.values()], axis=0)
        whole = np.where(labels == 4, 3, labels).astype(np.uint8)
        yield place.name, Volumes(found, spacing, brain), region_masks(whole)


def _read(place: Path, ending: str) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """One image as (z, y, x) RAS, and its spacing."""
    files = [p for p in place.iterdir() if p.name.lower().removesuffix(".gz").removesuffix(".nii").endswith(ending)]
    if len(files) != 1:
        sys.exit(f"{place.name}: {len(files)} files end in {ending}")
    image = nib.as_closest_canonical(nib.load(files[0]))
    x, y, z = (float(v) for v in image.header.get_zooms()[:3])
    return np.asarray(image.dataobj, np.float32).transpose(2, 1, 0), (z, y, x)


def voters(folders: list[Path]) -> set[str]:
    """Which of the experts their evaluation gives a vote, at the demo's thresholds; all of them when none has."""
    from inference.registry.standing import votes_from_evaluation
    from oncoflow_site.demo.stage import VOTE_THRESHOLDS

    found = set()
    for folder in folders:
        if votes_from_evaluation(read_evaluation(folder), VOTE_THRESHOLDS).role == "voter":
            found.add(folder.name)
    return found or {folder.name for folder in folders}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", help="real cases; simulated patients without it")
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sequences", default="", help="only these, for example T1c,FLAIR; the others are left blank")
    arguments = parser.parse_args()
    folders = sorted(p.parent for p in WEIGHTS.glob("*/model.json"))
    experts: dict[str, Expert] = {p.name: expert_for_folder(p, arguments.threads, arguments.device) for p in folders}
    voting = voters(folders)
    described = [read_model_json(WEIGHTS / name) for name in voting]
    kept = set(arguments.sequences.split(",")) if arguments.sequences else set(PANEL_SEQUENCES)
    scores: dict[str, list[CaseScore]] = {name: [] for name in (*experts, "consensus", "trivial rule")}
    source = real(arguments.folder) if arguments.folder else simulated(arguments.cases, arguments.seed)
    for name, whole, truth in source:
        blank = {s: image if s in kept else np.zeros_like(image) for s, image in whole.images.items()}
        volumes = Volumes(blank, whole.spacing, whole.brain_mask)
        outputs = {}
        for expert_name, expert in experts.items():
            output = expert.predict(volumes)
            outputs[expert_name] = output.probabilities
            masks = masks_of(output.probabilities)
            scores[expert_name].append(score_case(name, masks, truth, whole.spacing, output.runtime_s))
        least = least_voxels(described, whole.spacing)
        fused = fuse({n: p for n, p in outputs.items() if n in voting}, least_voxels=least)
        scores["consensus"].append(score_case(name, fused.masks, truth, whole.spacing))
        scores["trivial rule"].append(score_case(name, rule_regions(whole), truth, whole.spacing))
        print(
            f"{name}: consensus " + " ".join(f"{r} {scores['consensus'][-1].dice[r]:.3f}" for r in REGIONS), flush=True
        )
    if not scores["consensus"]:
        sys.exit("no case was found")
    print(f"\n{'':<18} {'ET':>14} {'TC':>14} {'WT':>14}  {'false ml p95':>12}   mean (10th percentile) of Dice")
    result: dict[str, float | str] = {"cases": len(scores["consensus"])}
    for name, one in scores.items():
        summary = summarise(one)["regions"]
        false = [s.predicted_ml["WT"] for s in one if s.tumour_free]
        worst = f"{np.percentile(false, 95):.2f}" if false else "-"
        mark = "*" if name in voting else ""
        shown = " ".join(f"{summary[r]['mean']:>6.3f} ({summary[r]['p10']:.3f})" for r in REGIONS)
        print(f"{name + mark:<18} {shown}  {worst:>12}")
        if name == "consensus":
            result |= {f"dice_{r.lower()}": summary[r]["mean"] for r in REGIONS}
            if false:
                result["false_ml_p95"] = round(float(np.percentile(false, 95)), 3)
        elif name == "trivial rule":
            result |= {f"rule_{r.lower()}": summary[r]["mean"] for r in REGIONS}
    print("* has a vote")
    result["models"] = ",".join(f"{n}:{read_model_json(WEIGHTS / n)['version']}" for n in experts)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
