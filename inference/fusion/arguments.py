"""Arguments of `fuse` for a method and the experts at hand: weights, and the smallest island worth keeping.

A weight per model version and region, with d the mean Dice over its n reviewed cases and e its mean Dice on held-out cases:

    w = (n * d + k * e) / (n + k),  k = 20

Without an evaluation e is 0.5, so that such a model begins light."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from imaging.brats.regions import REGIONS
from inference.experts.common.islands import least_voxels
from inference.models import ExpertRun, FusionWeights, ModelVersion

__all__ = ["fusion_arguments", "island_limits", "shrunk"]


PRIOR_CASES = 20
UNEVALUATED = 0.5
LEAST_WEIGHT = 0.01  # fusion needs a positive weight; a model that never hits anything keeps next to none


def shrunk(cases: int, reviewed: float | None, evaluated: float | None) -> float:
    """The weight by the module's formula, at least 0.01. ``reviewed`` counts for nothing where ``cases`` is 0."""
    prior = UNEVALUATED if evaluated is None else evaluated
    return max(LEAST_WEIGHT, (cases * (reviewed or 0.0) + PRIOR_CASES * prior) / (cases + PRIOR_CASES))


def evaluated_mean(model: ModelVersion, region: str) -> float | None:
    """Mean Dice of the recorded evaluation on held-out cases; None where there is none."""
    found = model.evaluation.get("regions", {}).get(region, {})
    return float(found["mean"]) if isinstance(found, Mapping) and "mean" in found else None


def island_limits(names: Iterable[str], runs: Iterable[ExpertRun], spacing: Sequence[float]) -> dict[str, float]:
    """Region -> voxels, `fusion.fuse`'s ``least_voxels``: the largest of the limits that the fused experts' models have.

    :param spacing: (z, y, x) mm.
    """
    names = set(names)
    versions = [run.model_version for run in runs if run.expert in names and run.model_version is not None]
    return least_voxels([{"minimum_mm3": version.minimum_mm3} for version in versions], spacing)


class _FusionMethod(TypedDict):
    method: str


class FusionArguments(_FusionMethod, total=False):
    """Keyword arguments of `inference.fusion.fuse.fuse`; ``weights``: expert -> region -> weight."""

    weights: dict[str, dict[str, float]]


def fusion_arguments(method: str, names: Iterable[str], runs: Iterable[ExpertRun]) -> FusionArguments:
    """Arguments of `fusion.fuse` for a method; what cannot be done with these experts falls back to "auto".

    STAPLE needs three experts. Weighted takes the newest learned weights; a model that they do not know weighs by the
    formula over its evaluation alone; without any of both the method falls back.
    """
    names = list(names)
    if method == "staple" and len(names) < 3:
        return {"method": "auto"}
    if method != "weighted":
        return {"method": method}
    learned = FusionWeights.objects.first()
    weights: dict[str, dict[str, float]] = {}
    for run in runs:
        if run.expert not in names or run.model_version is None:
            continue
        known = learned.weights.get(str(run.model_version_id)) if learned else None
        evaluated = {region: evaluated_mean(run.model_version, region) for region in REGIONS}
        if known is not None:
            weights[run.expert] = {region: float(known["regions"][region]["weight"]) for region in REGIONS}
        elif any(value is not None for value in evaluated.values()):
            weights[run.expert] = {region: shrunk(0, None, evaluated[region]) for region in REGIONS}
    if len(weights) < len(names):
        return {"method": "auto"}
    return {"method": method, "weights": weights}
