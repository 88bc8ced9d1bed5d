"""From which object score on SAM is believed that there is a tumour, on cases of the training split.

    python -m inference.training.sam.presence --model DIR --dataset DIR --cases 40

The expert prompts itself where FLAIR is brightest, and every brain has such places. SAM 2 says beside its mask whether what
was asked for is there at all; this finds the limit that gives the best mean Dice of WT when a place below it counts for
nothing, and writes it to model.json (``least_object_score``). Held-out test cases are not touched. Ravi et al., arXiv
2408.00714, 4.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGION_LABELS
from inference.experts.common.slices import resize
from inference.experts.sam import SamExpert
from inference.experts.sam.automatic import PlaceSegmentation
from inference.experts.weights import read_model_json
from inference.fusion.agreement import dice
from inference.training.common.command_line import set_threads, tuning_parser
from inference.training.common.dataset import RawDataset

__all__ = ["PlaceScores", "best_limit", "main", "place_scores"]


@dataclass(frozen=True)
class PlaceScores:
    """scores of its places, the highest first; dice: of WT when that many of them are believed, 0 ... all; largest: when
    the largest place is, whatever it scores."""

    scores: tuple[float, ...]
    dice: tuple[float, ...]
    largest: float

    def at(self, limit: float) -> float:
        return self.dice[sum(score >= limit for score in self.scores)]


def best_limit(studies: Sequence[PlaceScores]) -> tuple[float | None, float]:
    """(limit or None, mean Dice with it). None where no limit is better than believing the largest place of every study.

    Of equally good limits the middle of the widest gap between scores, so that it does not sit on a case.
    """
    scores = sorted({score for study in studies for score in study.scores if score == score})
    best, chosen, width = float(np.mean([study.largest for study in studies])), None, 0.0
    for low, high in zip(scores, [*scores[1:], scores[-1] + 1.0] if scores else [], strict=True):
        limit = (low + high) / 2
        mean = float(np.mean([study.at(limit) for study in studies]))
        if mean > best + 1e-9 or (chosen is not None and abs(mean - best) <= 1e-9 and high - low > width):
            best, chosen, width = mean, limit, high - low
    return chosen, best


def place_scores(found: Sequence[PlaceSegmentation], truth: NDArray[np.bool_]) -> PlaceScores:
    """What believing more and more of a study's places gives. truth: WT, bool (z, y, x)."""
    masks = [resize(one.probabilities[:1], truth.shape)[0] >= 0.5 for one in found]
    order = sorted((n for n, one in enumerate(found) if one.score == one.score), key=lambda n: -found[n].score)
    whole = np.zeros(truth.shape, bool)
    reached = [dice(whole, truth)]
    for n in order:
        whole = whole | masks[n]
        reached.append(dice(whole, truth))
    largest = dice(masks[0], truth) if masks else reached[0]
    return PlaceScores(tuple(found[n].score for n in order), tuple(reached), largest)


def main(argv: list[str] | None = None) -> int:
    """Command line; see --help."""
    p = tuning_parser("inference.training.sam.presence", __doc__, cases=40)
    arguments = p.parse_args(argv)
    set_threads(arguments.threads)
    expert = SamExpert("presence", arguments.model, threads=arguments.threads)
    expert.load()
    expert.least_object_score = -math.inf
    dataset = RawDataset(arguments.dataset)
    studies: list[PlaceScores] = []
    for name in dataset.names("train")[-arguments.cases :]:
        case = dataset.load("train", name)
        if not case.images[0].any() or not case.images[3].any():
            continue  # not a study that this expert takes with its full evidence
        studies.append(place_scores(expert.findings(case.volumes()), np.isin(case.labels, REGION_LABELS["WT"])))
        print(f"{name}: scores {[round(s, 2) for s in studies[-1].scores]} Dice {studies[-1].dice}", flush=True)
    limit, mean = best_limit(studies)
    told = {
        "cases": len(studies),
        "split": "the last cases of the training split",
        "mean_dice_wt_before": round(float(np.mean([study.largest for study in studies])), 4),
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
