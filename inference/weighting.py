"""Weights of weighted fusion, learned from how each model did on reviewed cases; and which arguments a fusion takes.

Per model version and region, with d the mean Dice over its n reviewed cases and e its mean Dice on held-out cases:

    w = (n * d + k * e) / (n + k),  k = 20

which is the mean one would have after k more cases like those of the evaluation: with few reviewed cases the weight stays
near the evaluation, with many the reviewed cases decide. Without an evaluation e is 0.5, so that such a model begins light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Max

from audit import services as audit
from inference.experts.base import REGIONS, WeightsMissing, read_model_json
from inference.experts.postprocess import least_voxels
from inference.models import CaseEvaluation, ExpertRun, FusionWeights, ModelStatus, ModelVersion, ReferenceKind
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["FORMULA", "fusion_arguments", "island_limits", "learn", "reviewed_dice", "shrunk", "weights_of"]

PRIOR_CASES = 20
UNEVALUATED = 0.5
LEAST_WEIGHT = 0.01  # fusion needs a positive weight; a model that never hits anything keeps next to none
FORMULA = f"w = (n*d + {PRIOR_CASES}*e) / (n + {PRIOR_CASES}); d: mean Dice of n reviewed cases, e: held-out mean Dice"


def shrunk(cases: int, reviewed: float | None, evaluated: float | None) -> float:
    """The weight by the module's formula, at least 0.01. ``reviewed`` counts for nothing where ``cases`` is 0."""
    prior = UNEVALUATED if evaluated is None else evaluated
    return max(LEAST_WEIGHT, (cases * (reviewed or 0.0) + PRIOR_CASES * prior) / (cases + PRIOR_CASES))


def reviewed_dice(
    model: ModelVersion, region: str, *, limit: int | None = None, since: Any = None
) -> list[CaseEvaluation]:
    """A model's rows against reviewed outlines, newest first, one a study (its latest review).

    :param limit: at most so many. :param since: only rows written after this time.
    """
    rows = CaseEvaluation.objects.filter(model_version=model, reference_kind=ReferenceKind.REVIEWED, region=region)
    rows = rows.filter(reduced=False)  # with sequences missing a model does worse than its evaluation, and rightly so
    if since is not None:
        rows = rows.filter(at__gt=since)
    latest: dict[Any, CaseEvaluation] = {}
    for row in rows.order_by("-at", "-id").iterator():
        latest.setdefault(row.study_id, row)
        if limit is not None and len(latest) == limit:
            break
    return list(latest.values())


def evaluated_mean(model: ModelVersion, region: str) -> float | None:
    """Mean Dice of the recorded evaluation on held-out cases; None where there is none."""
    found = model.evaluation.get("regions", {}).get(region, {})
    return float(found["mean"]) if isinstance(found, Mapping) and "mean" in found else None


def weights_of(model: ModelVersion) -> dict[str, dict[str, Any]]:
    """Region -> weight with what it was made of: ``weight``, ``reviewed`` (mean or None), ``cases``, ``evaluated``."""
    made: dict[str, dict[str, Any]] = {}
    for region in REGIONS:
        dice = [row.dice for row in reviewed_dice(model, region)]
        mean = sum(dice) / len(dice) if dice else None
        evaluated = evaluated_mean(model, region)
        made[region] = {
            "weight": round(shrunk(len(dice), mean, evaluated), 4),
            "reviewed": None if mean is None else round(mean, 4),
            "cases": len(dice),
            "evaluated": evaluated,
        }
    return made


def learn(*, who: str, why: str) -> FusionWeights:
    """Record a new version of the weights over all model versions that are not disabled. Used from the next panel on.

    :raises UserVisibleError: no reason, or no registered model.
    """
    if not why.strip():
        raise UserVisibleError("New fusion weights need a reason.", what_to_do="Give the reason.", code="no-reason")
    models = ModelVersion.objects.exclude(status=ModelStatus.DISABLED)
    weights = {
        str(model.pk): {"name": model.name, "version": model.version, "regions": weights_of(model)} for model in models
    }
    if not weights:
        raise UserVisibleError(
            "No model is registered.", what_to_do="Run `manage.py models register`.", code="no-model"
        )
    with transaction.atomic():
        last = FusionWeights.objects.aggregate(last=Max("version"))["last"] or 0
        made = FusionWeights.objects.create(
            version=last + 1, weights=weights, formula=FORMULA, who=who[:150], why=why.strip()[:1000]
        )
        audit.record(
            "model.weights",
            action="C",
            resource=f"fusionweights:{made.pk}",
            detail={"version": made.version, "models": len(weights)},
        )
    return made


def island_limits(names: Iterable[str], runs: Iterable[ExpertRun], spacing: Sequence[float]) -> dict[str, float]:
    """Region -> voxels, `fusion.fuse`'s ``least_voxels``: the largest of the limits that the fused experts' models have.

    :param spacing: (z, y, x) mm. A model whose folder is gone has no limits.
    """
    names = set(names)
    models = []
    for run in runs:
        if run.expert in names and run.model_version is not None:
            with suppress(WeightsMissing):
                models.append(read_model_json(Path(run.model_version.weights_dir)))
    return least_voxels(models, spacing)


def fusion_arguments(method: str, names: Iterable[str], runs: Iterable[ExpertRun]) -> dict[str, Any]:
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
