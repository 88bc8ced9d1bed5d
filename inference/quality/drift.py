"""Watching voters on reviewed cases: where they fall below their evaluation, demotion is proposed. A person decides."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from audit import services as audit
from imaging.brats.regions import REGIONS
from inference.events import DEMOTION_PROPOSED
from inference.fusion.arguments import evaluated_mean
from inference.models import (
    PROPOSAL_MACHINE,
    CaseEvaluation,
    ModelStatus,
    ModelVersion,
    ProposalState,
    StandingProposal,
)
from inference.quality.learned_weights import reviewed_dice
from inference.registry import standing
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.events import emit

__all__ = ["CASES", "FALL", "decide_proposal", "propose_demotion"]

CASES = 20
"""So many reviewed studies are looked at, the newest; with fewer nothing is proposed."""
FALL = 0.05
"""Mean Dice this far below the evaluation's mean, in any region, proposes demotion."""


def propose_demotion(model: ModelVersion) -> StandingProposal | None:
    """The open proposal for a voter whose last 20 reviewed cases fell 0.05 below its evaluation in a region; else None.

    Inside the caller's transaction. After a decision only cases reviewed since then count, so that a dismissed proposal
    does not come back the next day for the same cases. The standing itself is not touched.
    """
    if model.status != ModelStatus.VOTER:
        return None
    known = model.proposals.filter(state=ProposalState.OPEN).first()
    if known is not None:
        return known
    decided = model.proposals.order_by("-decided_at").first()
    since = decided.decided_at if decided else None
    worst: tuple[float, str, float, float, list[CaseEvaluation]] | None = None
    for region in REGIONS:
        evaluated = evaluated_mean(model, region)
        rows = reviewed_dice(model, region, limit=CASES, since=since)
        if evaluated is None or len(rows) < CASES:
            continue
        mean = sum(row.dice for row in rows) / len(rows)
        fall = evaluated - mean
        if fall > FALL - 1e-9 and (worst is None or fall > worst[0]):
            worst = (fall, region, mean, evaluated, rows)
    if worst is None:
        return None
    _, fallen, mean, evaluated, rows = worst
    made = StandingProposal.objects.create(
        model=model,
        to_status=ModelStatus.ADVISER,
        why=f"{fallen}: mean Dice {mean:.3f} over the last {CASES} reviewed cases, {evaluated:.3f} in its evaluation.",
        evidence={
            "region": fallen,
            "mean": round(mean, 4),
            "evaluated": evaluated,
            "cases": [str(row.study_id) for row in rows],
        },
    )
    emit(DEMOTION_PROPOSED, subject=f"model:{model.pk}", proposal_id=made.pk)
    audit.record(
        "model.proposal",
        action="C",
        resource=f"model:{model.pk}",
        detail={"proposal": str(made.pk), "region": fallen, "to": made.to_status},
    )
    return made


def decide_proposal(proposal: StandingProposal, user: Any, *, confirm: bool, why: str) -> StandingProposal:
    """A person's decision: confirmed, the model's standing changes with the proposal's cases on record; or dismissed.

    :raises UserVisibleError: no reason given (``no-reason``), or decided by somebody else meanwhile (``decided``).
    """
    if not why.strip():
        raise UserVisibleError("A decision needs a reason.", what_to_do="Give the reason.", code="no-reason")
    fields = {"decided_at": now(), "decided_by": user, "decision": why.strip()[:1000]}
    with transaction.atomic():
        rows = StandingProposal.objects.filter(pk=proposal.pk)
        if not PROPOSAL_MACHINE.apply(rows, "confirm" if confirm else "dismiss", **fields):
            raise UserVisibleError("This proposal was decided already.", code="decided")
        if confirm:
            standing.set_status(
                proposal.model,
                proposal.to_status,
                who=user.get_username(),
                why=f"{proposal.why} {why.strip()}",
                evidence={"proposal": str(proposal.pk), **proposal.evidence},
            )
        audit.record(
            "model.decision",
            action="U",
            resource=f"model:{proposal.model_id}",
            detail={"proposal": str(proposal.pk), "decision": "confirmed" if confirm else "dismissed"},
        )
    proposal.refresh_from_db()
    return proposal
