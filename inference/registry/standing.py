"""The standing of a model version: voter, adviser or disabled, earned by an evaluation or set by a person, every change on record.

A vote earned on simulated patients only counts in demo mode; otherwise such a model is an adviser, and its row says why. A
standing that a person set stays until a person changes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction

from audit import services as audit
from imaging.brats.assessability import assessable
from imaging.brats.regions import REGIONS
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.common.input_requirements import subset_of
from inference.models import ModelStatus, ModelStatusChange, ModelVersion
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.schema import JsonDict

__all__ = [
    "DEFAULT_VOTE_THRESHOLDS",
    "REGISTRY",
    "VoteDecision",
    "role_on",
    "set_status",
    "standing",
    "votes_from_evaluation",
]


DEFAULT_VOTE_THRESHOLDS: Mapping[str, float] = {"cases": 20, "mean_dice": 0.85, "p10_dice": 0.70}


class VoteDecision(NamedTuple):
    """role "voter" or "adviser", with the reasons for people."""

    role: str
    reasons: tuple[str, ...]


def votes_from_evaluation(
    evaluation: Mapping[str, Any] | None,
    thresholds: Mapping[str, float] | None = None,
    regions: Sequence[str] = REGIONS,
) -> VoteDecision:
    """Voter when at least `cases` held-out cases were evaluated and every one of `regions` reaches `mean_dice` and `p10_dice`.

    `evaluation` is evaluation.json's content; None or an incomplete one makes an adviser. Whether an evaluation on
    simulated patients counts is the caller's decision.
    """
    limits = {**DEFAULT_VOTE_THRESHOLDS, **(thresholds or {})}
    if not evaluation or not isinstance(evaluation.get("regions"), Mapping):
        return VoteDecision("adviser", ("there is no evaluation on held-out cases",))
    failed: list[str] = []
    passed: list[str] = []
    for region in regions:
        found = evaluation["regions"].get(region)
        if not isinstance(found, Mapping):
            failed.append(f"{region} was not evaluated")
            continue
        try:
            n, mean, p10 = int(found["n"]), float(found["mean"]), float(found["p10"])
        except (KeyError, TypeError, ValueError):
            failed.append(f"{region} was not evaluated")
            continue
        text = f"{region}: mean Dice {mean:.3f}, 10th percentile {p10:.3f}, {n} cases"
        good = n >= limits["cases"] and mean >= limits["mean_dice"] and p10 >= limits["p10_dice"]
        (passed if good else failed).append(text)
    wanted = (
        f"a vote needs {limits['cases']:.0f} cases, mean {limits['mean_dice']:.2f} and 10th percentile "
        f"{limits['p10_dice']:.2f} "
        "in every region"
    )
    if failed:
        return VoteDecision("adviser", (*failed, wanted))
    return VoteDecision("voter", tuple(passed))


REGISTRY = "registry"


def standing(evaluation: Mapping[str, Any], *, simulated: bool, regions: Sequence[str] = REGIONS) -> tuple[str, str]:
    """(status, reason) that an evaluation earns under the present settings."""
    if not evaluation:
        return ModelStatus.ADVISER, "No evaluation is recorded."
    vote, reasons = votes_from_evaluation(evaluation, settings.ONCOFLOW_VOTE_THRESHOLDS, regions)
    reason = " ".join(reasons)
    if vote != ModelStatus.VOTER:
        return ModelStatus.ADVISER, reason
    if simulated and not settings.ONCOFLOW_DEMO_MODE:
        return (
            ModelStatus.ADVISER,
            f"Evaluated on simulated patients only; such a vote counts in demo mode alone. {reason}".strip(),
        )
    if simulated:
        return ModelStatus.VOTER, f"DEMO: the vote was earned on simulated patients. {reason}".strip()
    return ModelStatus.VOTER, reason


def role_on(row: ModelVersion, sequences: Sequence[str]) -> str:
    """A version's part in a panel over these sequences: its standing; where some are missing, a vote only if it was earned
    on just this combination."""
    if row.status != ModelStatus.VOTER or set(sequences) >= set(PANEL_SEQUENCES):
        return str(row.status)
    earned, _ = standing(
        subset_of(row.evaluation, sequences), simulated=row.demo_only, regions=assessable(sequences).regions
    )
    return earned


def set_status(
    row: ModelVersion, status: str, *, who: str, why: str, evidence: Mapping[str, Any] | None = None
) -> ModelVersion:
    """Change a standing by a person's decision. A vote is earned by an evaluation and cannot be given without one.

    :param evidence: on what cases it was decided; the model's recorded evaluation where nothing is said.
    :raises UserVisibleError: unknown standing, no reason given, or a vote that the evaluation has not earned.
    """
    if status not in ModelStatus.values:
        raise UserVisibleError(f"{status!r} is no standing.", what_to_do="Choose voter, adviser or disabled.")
    if not why.strip():
        raise UserVisibleError("A change of a model's standing needs a reason.", what_to_do="Give the reason.")
    if status == ModelStatus.VOTER:
        earned, reason = standing(row.evaluation, simulated=row.demo_only)
        if earned != ModelStatus.VOTER:
            raise UserVisibleError(
                f"{row} has not earned a vote: {reason}",
                what_to_do="Evaluate it on held-out cases and register it again.",
                code="no-vote",
            )
    apply_status(row, status, who=who, why=why, evidence=evidence)
    return row


def evidence_of(row: ModelVersion) -> JsonDict:
    """The evaluation of a model version as its standing's evidence: data set, digest, figures, names of the cases."""
    evaluation = row.evaluation
    if not evaluation:
        return {}
    canonical = json.dumps(evaluation, sort_keys=True, separators=(",", ":")).encode()
    cases = [one.get("name") for one in evaluation.get("cases", []) if isinstance(one, Mapping)]
    return {
        "evaluation_sha256": hashlib.sha256(canonical).hexdigest(),
        "dataset": evaluation.get("dataset", ""),
        "evaluated": evaluation.get("evaluated", ""),
        "regions": evaluation.get("regions", {}),
        "cases": cases,
    }


def apply_status(
    row: ModelVersion, status: str, *, who: str, why: str, evidence: Mapping[str, Any] | None = None
) -> None:
    with transaction.atomic():
        before = row.status
        row.status, row.status_reason = status, why[:1000]
        row.save(update_fields=["status", "status_reason"])
        if before != status:
            record_status_change(row, before, status, who, why, evidence)
            audit.record(
                "model.status",
                action="U",
                resource=f"model:{row.pk}",
                detail={"from": before, "to": status, "model": row.name},
                source="worker",
            )


def record_status_change(
    row: ModelVersion, before: str, after: str, who: str, why: str, evidence: Mapping[str, Any] | None = None
) -> None:
    ModelStatusChange.objects.create(
        model=row,
        from_status=before,
        to_status=after,
        who=who[:150],
        why=why[:1000],
        evidence=evidence_of(row) if evidence is None else dict(evidence),
    )
