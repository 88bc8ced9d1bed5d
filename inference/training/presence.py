"""From which object score on SAM is believed that there is a tumour, on cases of the training split.

    python -m inference.training.presence --model DIR --dataset DIR --cases 40

The expert prompts itself wherever FLAIR is brightest, and every brain has such a place. SAM 2 says beside its mask whether what
was asked for is there at all; this finds the limit that gives the best mean Dice of WT when a study below it counts as empty,
and writes it to model.json (``least_object_score``). Held-out test cases are not touched. Ravi et al., arXiv 2408.00714, 4.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np

from inference.agreement import dice
from inference.experts.base import REGION_LABELS, read_model_json
from inference.experts.sam import SamExpert
from inference.training.common import set_threads, tuning_parser
from inference.training.dataset import RawDataset

__all__ = ["best_limit", "main"]


def best_limit(cases: Sequence[tuple[float, float, bool]]) -> tuple[float | None, float]:
    """(limit or None, mean Dice with it) of cases as (score, Dice when believed, has a tumour).

    A study that scores below the limit is empty: Dice 1 without tumour, 0 with one. None where no limit is better than none;
    of equally good limits the middle of the widest gap between scores, so that it does not sit on a case.
    """
    believed = float(np.mean([own for _, own, _ in cases]))
    scores = sorted({score for score, _, _ in cases if score == score})
    best, chosen, width = believed, None, 0.0
    for low, high in zip(scores, [*scores[1:], scores[-1] + 1.0] if scores else [], strict=True):
        limit = (low + high) / 2
        mean = float(np.mean([float(not tumour) if score < limit else own for score, own, tumour in cases]))
        if mean > best + 1e-9 or (chosen is not None and abs(mean - best) <= 1e-9 and high - low > width):
            best, chosen, width = mean, limit, high - low
    return chosen, best


def main(argv: list[str] | None = None) -> int:
    """Command line; see --help."""
    p = tuning_parser("inference.training.presence", __doc__, cases=40)
    arguments = p.parse_args(argv)
    set_threads(arguments.threads)
    expert = SamExpert("presence", arguments.model, threads=arguments.threads)
    expert.load()
    expert.least_object_score = None
    dataset = RawDataset(arguments.dataset)
    found: list[tuple[float, float, bool]] = []
    for name in dataset.names("train")[-arguments.cases :]:
        case = dataset.load("train", name)
        if not case.images[0].any() or not case.images[3].any():
            continue  # not a study that this expert takes with its full evidence
        mask = expert.predict(case.volumes()).probabilities["WT"] >= 0.5
        truth = np.isin(case.labels, REGION_LABELS["WT"])
        found.append((expert.shown, dice(mask, truth), bool(truth.any())))
        print(f"{name}: score {expert.shown:.2f} Dice {found[-1][1]:.3f} tumour {found[-1][2]}", flush=True)
    limit, mean = best_limit(found)
    told = {
        "cases": len(found),
        "split": "the last cases of the training split",
        "mean_dice_wt_before": round(float(np.mean([own for _, own, _ in found])), 4),
        "mean_dice_wt_after": round(mean, 4),
    }
    described = read_model_json(arguments.model) | {"presence": told}
    described.pop("least_object_score", None)
    if limit is not None:
        described["least_object_score"] = round(limit, 2)
    (arguments.model / "model.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
    print(json.dumps(told | {"least_object_score": described.get("least_object_score")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
