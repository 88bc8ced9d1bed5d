"""Weights of weighted fusion, learned from how each model did on reviewed cases.

The formula is that of `fusion.arguments`: the mean one would have after 20 more cases like those of the evaluation. With few
reviewed cases the weight stays near the evaluation, with many the reviewed cases decide."""

from __future__ import annotations

from typing import Any, TypedDict

from django.db import transaction
from django.db.models import Max

from audit import services as audit
from imaging.brats.regions import REGIONS
from inference.fusion.arguments import PRIOR_CASES, evaluated_mean, shrunk
from inference.models import CaseEvaluation, FusionWeights, ModelStatus, ModelVersion, ReferenceKind
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["FORMULA", "learn", "reviewed_dice", "weights_of"]


FORMULA = f"w = (n*d + {PRIOR_CASES}*e) / (n + {PRIOR_CASES}); d: mean Dice of n reviewed cases, e: held-out mean Dice"


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


class RegionWeight(TypedDict):
    """A weight and what it was made of. :ivar reviewed: mean Dice over ``cases`` reviewed cases. :ivar evaluated: held out."""

    weight: float
    reviewed: float | None
    cases: int
    evaluated: float | None


def weights_of(model: ModelVersion) -> dict[str, RegionWeight]:
    """Region -> weight with what it was made of: ``weight``, ``reviewed`` (mean or None), ``cases``, ``evaluated``."""
    made: dict[str, RegionWeight] = {}
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
