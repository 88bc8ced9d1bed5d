"""Set a trained nnU-Net's operating point on cases of the training split.

    python -m inference.training.nnunet.calibrate --model DIR --dataset DIR --cases 24

A network trained with Dice on crops around tumours draws them too large, and finds small ones in healthy brains. This
finds, per region, the shift of the logits and the smallest island worth keeping that give the best mean Dice over the
last cases of the training split (its last eight were never trained on); held-out test cases are not touched. The shift
goes into the bias of the network's last layer, so the folder stays an ordinary nnU-Net model; the limits go to model.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGION_LABELS
from inference.experts.documents import CalibrationRecord
from inference.experts.nnunet.expert import CHECKPOINT, NnUNetExpert
from inference.experts.weights import read_model_json, sha256_of
from inference.training.common.command_line import set_threads, tuning_parser
from inference.training.common.dataset import RawDataset
from inference.training.common.preprocess import load_prepared

__all__ = ["OperatingPoint", "best_operating_point", "calibrate", "main"]

NETWORK_REGIONS = ("WT", "TC", "ET")
SHIFTS = tuple(float(s) for s in np.arange(-2.5, 2.51, 0.25))
TOLERANCE = 0.004
LIMITS_MM3: dict[str, tuple[float, ...]] = {
    "WT": (100.0, 300.0, 600.0),
    "TC": (50.0, 150.0, 300.0),
    "ET": (50.0, 100.0, 200.0),
}


@dataclass(frozen=True)
class OperatingPoint:
    """shift is subtracted from the logit; limit_mm3 is the smallest island kept; dice is what they give."""

    shift: float
    limit_mm3: float
    dice: float


def best_operating_point(
    logits: Sequence[NDArray[np.float32]],
    truths: Sequence[NDArray[np.bool_]],
    limits: Sequence[float],
    voxel_mm3: float,
) -> OperatingPoint:
    """The pair with the best mean Dice over the cases (1 where truth and prediction are empty); the least change on ties."""
    found: list[OperatingPoint] = []
    for shift in SHIFTS:
        dice = np.zeros((len(limits), len(logits)))
        for index, (logit, truth) in enumerate(zip(logits, truths, strict=True)):
            mask = logit > shift
            labelled, count = ndimage.label(mask, np.ones((3, 3, 3)))
            sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
            hits = np.bincount(labelled[truth], minlength=count + 1)[1:]
            for row, limit in enumerate(limits):
                kept = sizes * voxel_mm3 >= limit
                total = sizes[kept].sum() + truth.sum()
                dice[row, index] = 2 * hits[kept].sum() / total if total else 1.0
        found += [OperatingPoint(shift, limit, float(d)) for limit, d in zip(limits, dice.mean(axis=1), strict=True)]
    best = max(c.dice for c in found)
    # The curve is flat at its top: among choices as good as the best, the one that changes least.
    good = [c for c in found if c.dice >= best - TOLERANCE]
    return min(good, key=lambda c: (abs(c.shift), c.limit_mm3, -c.dice))


def calibrate(folder: Path, dataset: RawDataset, cases: int, threads: int, cache: Path | None) -> CalibrationRecord:
    """Change the folder in place; returns what was chosen. Raises ExpertError as loading does."""
    expert = NnUNetExpert("calibration", folder, threads=threads)
    expert.load()
    predictor = expert._predictor
    plans = json.loads((folder / "plans.json").read_text("utf-8"))
    spacing = plans["configurations"]["3d_fullres"]["spacing"]
    logits: dict[str, list[NDArray[np.float32]]] = {r: [] for r in NETWORK_REGIONS}
    truths: dict[str, list[NDArray[np.bool_]]] = {r: [] for r in NETWORK_REGIONS}
    for case in load_prepared(dataset, plans, cache=cache, last=cases):
        output = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(case.data.astype(np.float32)))
        for channel, region in enumerate(NETWORK_REGIONS):
            logits[region].append(np.asarray(output[channel], np.float32))
            truths[region].append(np.isin(case.labels, REGION_LABELS[region]))
    voxel = float(np.prod(spacing))
    choices = {r: best_operating_point(logits[r], truths[r], LIMITS_MM3[r], voxel) for r in NETWORK_REGIONS}
    before = {r: plain_dice(logits[r], truths[r]) for r in NETWORK_REGIONS}

    path = folder / CHECKPOINT
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    weights = checkpoint["network_weights"]
    names = [n for n in weights if n.startswith("decoder.seg_layers.") and n.endswith(".bias")]
    bias = weights[max(names, key=lambda n: int(n.split(".")[2]))]
    for channel, region in enumerate(NETWORK_REGIONS):
        bias[channel] -= choices[region].shift
    partial = path.with_suffix(".partial")
    torch.save(checkpoint, partial)
    partial.replace(path)
    model = read_model_json(folder)
    model["files"][CHECKPOINT] = sha256_of(path)
    model["minimum_mm3"] = {r: choices[r].limit_mm3 for r in NETWORK_REGIONS}
    earlier = model.get("calibration", {}).get("shift", {})
    calibration: CalibrationRecord = {
        "cases": len(logits["WT"]),
        "split": "the last cases of the training split",
        "shift": {r: round(choices[r].shift + float(earlier.get(r, 0.0)), 3) for r in NETWORK_REGIONS},
        "mean_dice_before": {r: round(before[r], 4) for r in NETWORK_REGIONS},
        "mean_dice_after": {r: round(choices[r].dice, 4) for r in NETWORK_REGIONS},
    }
    model["calibration"] = calibration
    (folder / "model.json").write_text(json.dumps(model, indent=1) + "\n", "utf-8")
    return {**calibration, "minimum_mm3": model["minimum_mm3"]}


def plain_dice(logits: Sequence[NDArray[np.float32]], truths: Sequence[NDArray[np.bool_]]) -> float:
    """Mean Dice without shift and without limit."""
    scores = []
    for logit, truth in zip(logits, truths, strict=True):
        mask = logit > 0
        total = mask.sum() + truth.sum()
        scores.append(2 * (mask & truth).sum() / total if total else 1.0)
    return float(np.mean(scores))


def main(argv: list[str] | None = None) -> int:
    """Command line; see --help."""
    p = tuning_parser("inference.training.nnunet.calibrate", __doc__, cases=24)
    p.add_argument("--cache", type=Path, default=None, help="folder of preprocessed cases")
    arguments = p.parse_args(argv)
    set_threads(arguments.threads)
    chosen = calibrate(
        arguments.model, RawDataset(arguments.dataset), arguments.cases, arguments.threads, arguments.cache
    )
    print(json.dumps(chosen, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
