"""Dice of each expert, of the consensus and of the trivial rule, on simulated patients or on a folder of real cases.

    make bench NAME=accuracy                              simulated patients of a seed that no training has used
    make bench NAME=accuracy ARGS="--kinds"               of the simulator's kinds, with a table by kind
    make bench NAME=accuracy ARGS="--only butterfly,tiny"  of these alone (also --leave-out)
    make bench NAME=accuracy ARGS=FOLDER                  real ones: one sub-folder a case, files ending t1n/t1c/t2w/t2f/seg

Real cases: NIfTI (.nii or .nii.gz), skull-stripped, labels 1 NCR, 2 ED, 3 or 4 ET; turned to RAS first. The consensus is
that of the experts with the panel's votes as they stand in their evaluations. ``false_ml_p95`` is the 95th percentile of
false tumour in tumour-free patients, ml. Beside Dice a second table: NSD at 1 mm, median HD95, lesion-wise Dice, and the error
of the volume (inference/evaluation/surfaces.py). Goals: consensus WT 0.93, TC 0.90, ET 0.88 simulated; 0.88, 0.82, 0.80 real.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import django
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, region_masks
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.evaluation.heldout import CaseScore, score_case, summarise
from inference.evaluation.surfaces import RegionScore, score_region
from inference.experts.common.flair_baseline import rule_regions
from inference.experts.common.input_requirements import read_evaluation
from inference.experts.common.islands import least_voxels
from inference.experts.contract import Expert, Volumes
from inference.experts.factory import expert_for_folder
from inference.experts.weights import read_model_json
from inference.fusion.fuse import fuse, masks_of
from oncoflow_site.demo.simulator.cases import Case
from oncoflow_site.demo.simulator.dataset import plan_cases, simulate_case
from oncoflow_site.demo.simulator.kinds.table import plan_kinds
from oncoflow_site.demo.simulator.kinds.tumours import TUMOURS

WEIGHTS = Path(__file__).resolve().parents[2] / "inference" / "weights"
ENDINGS = {"T1": "t1n", "T1c": "t1c", "T2": "t2w", "FLAIR": "t2f"}
Masks = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Labelled:
    """A case with its truth; kind: the kind of tumour, "tumour-free", or "" where the simulator does not say."""

    name: str
    volumes: Volumes
    truth: Masks
    kind: str = ""


@dataclass
class Scores:
    """What one expert, or the consensus, did on every case so far."""

    cases: list[CaseScore] = field(default_factory=list)
    surfaces: list[dict[str, RegionScore]] = field(default_factory=list)

    def add(self, case: Labelled, masks: Masks, runtime_s: float | None = None) -> None:
        """Score one case."""
        self.cases.append(score_case(case.name, masks, case.truth, case.volumes.spacing, runtime_s))
        self.surfaces.append({r: score_region(masks[r], case.truth[r], case.volumes.spacing) for r in masks})


def simulated(cases: Iterable[Case], count: int) -> Iterator[Labelled]:
    """The first `count` of these patients that have all four sequences."""
    found = 0
    for case in cases:
        made = simulate_case(case)
        images = {s: np.asarray(made.images[i].transpose(2, 1, 0), np.float32) for i, s in enumerate(PANEL_SEQUENCES)}
        if not all(image.any() for image in images.values()):
            continue
        brain = np.any([image != 0 for image in images.values()], axis=0)
        volumes = Volumes(images, (case.spacing,) * 3, brain)
        kind = next((k for k in case.kinds if k in TUMOURS), "" if case.tumour else "tumour-free")
        yield Labelled(case.name, volumes, region_masks(made.labels.transpose(2, 1, 0)), kind)
        found += 1
        if found == count:
            return


def real(folder: Path) -> Iterator[Labelled]:
    """The cases of a folder, in the order of their names."""
    for place in sorted(one for one in folder.iterdir() if one.is_dir()):
        found = {s: _read(place, ending)[0] for s, ending in ENDINGS.items()}
        labels, spacing = _read(place, "seg")
        brain = np.any([image != 0 for image in found.values()], axis=0)
        whole = np.where(labels == 4, 3, labels).astype(np.uint8)
        yield Labelled(place.name, Volumes(found, spacing, brain), region_masks(whole))


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
    # The registry is Django's; nothing else here is.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
    django.setup()
    logging.getLogger().setLevel(logging.WARNING)
    from inference.registry.standing import votes_from_evaluation
    from oncoflow_site.demo.stage import VOTE_THRESHOLDS

    found = set()
    for folder in folders:
        if votes_from_evaluation(read_evaluation(folder), VOTE_THRESHOLDS).role == "voter":
            found.add(folder.name)
    return found or {folder.name for folder in folders}


def main() -> None:
    """Print the tables and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", help="real cases; simulated patients without it")
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--seed", type=int, help="4711 for the classic mixture, 63 for kinds, if not given")
    parser.add_argument("--kinds", action="store_true", help="patients of the simulator's kinds")
    parser.add_argument("--leave-out", default="", metavar="A,B", help="kinds that do not occur")
    parser.add_argument("--only", default="", metavar="A,B", help="kinds instead of all others of their category")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of weights folders; the bundled ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sequences", default="", help="only these, for example T1c,FLAIR; the others are left blank")
    arguments = parser.parse_args()
    folders = sorted(p.parent for p in arguments.weights.glob("*/model.json"))
    experts: dict[str, Expert] = {p.name: expert_for_folder(p, arguments.threads, arguments.device) for p in folders}
    voting = voters(folders)
    described = [read_model_json(arguments.weights / name) for name in voting]
    kept = set(arguments.sequences.split(",")) if arguments.sequences else set(PANEL_SEQUENCES)
    scores = {name: Scores() for name in (*experts, "consensus", "trivial rule")}
    kinds: list[str] = []
    for case in chosen(arguments):
        whole = case.volumes
        blank = {s: image if s in kept else np.zeros_like(image) for s, image in whole.images.items()}
        volumes = Volumes(blank, whole.spacing, whole.brain_mask)
        outputs = {}
        for expert_name, expert in experts.items():
            output = expert.predict(volumes)
            outputs[expert_name] = output.probabilities
            scores[expert_name].add(case, masks_of(output.probabilities), output.runtime_s)
        least = least_voxels(described, whole.spacing)
        fused = fuse({n: p for n, p in outputs.items() if n in voting}, least_voxels=least)
        scores["consensus"].add(case, dict(fused.masks))
        scores["trivial rule"].add(case, rule_regions(whole))
        kinds.append(case.kind)
        found = scores["consensus"].cases[-1].dice
        print(f"{case.name}: consensus " + " ".join(f"{r} {found[r]:.3f}" for r in REGIONS), case.kind, flush=True)
    if not kinds:
        sys.exit("no case was found")
    result: dict[str, float | str] = {"cases": len(kinds), **dice_table(scores, voting), **surface_table(scores)}
    if any(kind not in ("", "tumour-free") for kind in kinds):
        kind_table(scores["consensus"], kinds)
    result["models"] = ",".join(f"{n}:{read_model_json(arguments.weights / n)['version']}" for n in experts)
    print(json.dumps(result))


def chosen(arguments: argparse.Namespace) -> Iterator[Labelled]:
    """The cases that the command line asks for."""
    leave_out, only = ([n for n in text.split(",") if n] for text in (arguments.leave_out, arguments.only))
    if arguments.folder:
        return real(arguments.folder)
    if arguments.kinds or leave_out or only:
        seed = 63 if arguments.seed is None else arguments.seed
        return simulated(plan_kinds(0, arguments.cases, seed, 2.0, leave_out=leave_out, only=only), arguments.cases)
    seed = 4711 if arguments.seed is None else arguments.seed
    return simulated(plan_cases(4 * arguments.cases, 0, seed, 2.0), arguments.cases)


def dice_table(scores: dict[str, Scores], voting: set[str]) -> dict[str, float | str]:
    """Dice by region and false tumour, printed; the figures of the consensus and the rule."""
    result: dict[str, float | str] = {}
    print(f"\n{'':<18} {'ET':>14} {'TC':>14} {'WT':>14}  {'false ml p95':>12}   mean (10th percentile) of Dice")
    for name, one in scores.items():
        summary = summarise(one.cases)["regions"]
        false = [s.predicted_ml["WT"] for s in one.cases if s.tumour_free]
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
    return result


def surface_table(scores: dict[str, Scores]) -> dict[str, float | str]:
    """NSD, HD95, lesion-wise Dice and volume error by region, printed; those of the consensus."""
    result: dict[str, float | str] = {}
    print(
        f"\n{'':<18} {'region':>6} {'NSD 1mm':>8} {'HD95 mm':>8} {'lesion Dice':>12} {'found':>9} {'false':>6} {'volume error':>13}"
    )
    for name, one in scores.items():
        for region in REGIONS:
            found = [case[region] for case in one.surfaces]
            distances = [s.hd95_mm for s in found if s.hd95_mm is not None]
            errors = [abs(s.volume_error) for s in found if s.volume_error is not None]
            lesions, hits = sum(s.lesion.lesions for s in found), sum(s.lesion.found for s in found)
            figures: dict[str, float] = {
                "nsd": float(np.mean([s.nsd for s in found])),
                "hd95": float(np.median(distances)) if distances else float("nan"),
                "lesion_dice": float(np.mean([s.lesion.dice for s in found])),
                "volume_error": float(np.median(errors)) if errors else float("nan"),
            }
            print(
                f"{name:<18} {region:>6} {figures['nsd']:>8.3f} {figures['hd95']:>8.2f} {figures['lesion_dice']:>12.3f} "
                f"{f'{hits}/{lesions}':>9} {sum(s.lesion.false for s in found):>6} {figures['volume_error']:>13.1%}"
            )
            if name == "consensus":
                kept = {k: v for k, v in figures.items() if np.isfinite(v)}
                result |= {f"{k}_{region.lower()}": round(v, 4) for k, v in kept.items()}
    return result


def kind_table(scores: Scores, kinds: Sequence[str]) -> None:
    """Mean Dice of the consensus by kind of tumour, and false tumour in tumour-free patients."""
    print(f"\n{'kind':<20} {'cases':>5} {'ET':>7} {'TC':>7} {'WT':>7}   consensus, mean Dice")
    for kind in sorted(set(kinds)):
        own = [score for score, of in zip(scores.cases, kinds, strict=True) if of == kind]
        means = " ".join(f"{np.mean([s.dice[r] for s in own]):>7.3f}" for r in REGIONS)
        false = (
            f"  false tumour at most {max(s.predicted_ml['WT'] for s in own):.2f} ml" if kind == "tumour-free" else ""
        )
        print(f"{kind:<20} {len(own):>5} {means}{false}")


if __name__ == "__main__":
    main()
