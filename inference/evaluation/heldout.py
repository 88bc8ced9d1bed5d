"""What an evaluation on held-out cases says, as numbers: Dice per case and region, its mean and 10th percentile.

Masks are bool (z, y, x). Two empty masks have Dice 1; a false tumour in a tumour-free brain has Dice 0 and is also
reported in millilitres, because Dice cannot tell a stray voxel from a lesion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS
from inference.experts.documents import EvaluatedCase, EvaluationDocument, RegionScores, TumourFreeScores
from inference.fusion.agreement import dice

__all__ = ["CaseScore", "score_case", "summarise"]

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class CaseScore:
    """One case. dice and predicted_ml of the regions that were scored; truth_ml of all; tumour_free: the truth is empty."""

    name: str
    dice: Mapping[str, float]
    truth_ml: Mapping[str, float]
    predicted_ml: Mapping[str, float]
    runtime_s: float | None = None

    @property
    def tumour_free(self) -> bool:
        """True when the truth has no tumour at all."""
        return self.truth_ml["WT"] == 0

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that were scored, innermost first."""
        return tuple(r for r in REGIONS if r in self.dice)

    def as_json(self) -> EvaluatedCase:
        """The case as evaluation.json lists it."""
        case: EvaluatedCase = {
            "name": self.name,
            "tumour_free": self.tumour_free,
            "dice": {r: round(self.dice[r], 4) for r in self.regions},
            "truth_ml": {r: round(self.truth_ml[r], 3) for r in REGIONS},
            "predicted_ml": {r: round(self.predicted_ml[r], 3) for r in self.regions},
        }
        if self.runtime_s is not None:
            case["runtime_s"] = round(self.runtime_s, 2)
        return case


def score_case(
    name: str, predicted: Masks, truth: Masks, spacing: tuple[float, float, float], runtime_s: float | None = None
) -> CaseScore:
    """Score one case in the regions of `predicted`; spacing (z, y, x) mm gives the millilitres. `truth` has all regions."""
    ml = float(np.prod(spacing)) / 1000
    regions = [r for r in REGIONS if r in predicted]
    return CaseScore(
        name,
        {r: dice(predicted[r], truth[r]) for r in regions},
        {r: float(truth[r].sum()) * ml for r in REGIONS},
        {r: float(predicted[r].sum()) * ml for r in regions},
        runtime_s,
    )


def summarise(scores: Sequence[CaseScore]) -> EvaluationDocument:
    """regions: mean, median, p10, minimum and n of Dice over all cases. tumour_free: false positive ml. cases: each one.

    All cases are scored in the same regions. Raises ValueError without cases.
    """
    if not scores:
        raise ValueError("there is no case to summarise")
    regions: dict[str, RegionScores] = {}
    for region in scores[0].regions:
        values = np.array([s.dice[region] for s in scores])
        filled = np.array([s.dice[region] for s in scores if s.truth_ml[region] > 0])
        regions[region] = {
            "mean": round(float(values.mean()), 4),
            "median": round(float(np.median(values)), 4),
            "p10": round(float(np.percentile(values, 10)), 4),
            "minimum": round(float(values.min()), 4),
            "n": len(values),
            "n_with_region": len(filled),
        }
        if len(filled):
            regions[region]["mean_with_region"] = round(float(filled.mean()), 4)
    # The regions are nested: the outermost one holds whatever is false.
    false_ml = np.array([s.predicted_ml[s.regions[-1]] for s in scores if s.tumour_free])
    tumour_free: TumourFreeScores = {"n": len(false_ml)}
    if len(false_ml):
        tumour_free = {
            "n": len(false_ml),
            "false_positive_ml_mean": round(float(false_ml.mean()), 3),
            "false_positive_ml_median": round(float(np.median(false_ml)), 3),
            "false_positive_ml_maximum": round(float(false_ml.max()), 3),
            "cases_over_1_ml": int((false_ml > 1).sum()),
        }
    return {
        "n": len(scores),
        "regions": regions,
        "tumour_free": tumour_free,
        "cases": [s.as_json() for s in scores],
    }
