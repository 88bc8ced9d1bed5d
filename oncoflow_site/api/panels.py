"""The panel of a study over REST: every way to fuse side by side, another choice, stopping, running again."""

from __future__ import annotations

import uuid
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, acting_as, record, record_refusal
from clinical.roles import can
from imaging.models import Study
from inference.fusion.fuse import METHODS
from inference.models import FusionChoice, PanelRun
from inference.panel.cancel import cancel_panel, run_again
from inference.panel.choose_fusion import choose_fusion
from inference.panel.queries import latest_panel, newest_panel, panel_summary
from inference.schemas.panel import PanelSummary
from oncoflow_site.api.answers import ConsensusChoice, FusionQueued, JobQueued, PanelAnswer, PanelStatus
from oncoflow_site.api.studies import Base
from oncoflow_site.foundation.schema import plain

__all__ = ["Panel", "PanelAgain", "PanelCancel", "PanelFuse", "panel_to_steer"]

_REASON = {"why": {"type": "string", "maxLength": 300, "description": "Free of identity."}}


def panel_to_steer(request: Request | HttpRequest, study: Study, event: str, panel: PanelRun | None) -> PanelRun:
    """``panel``, if the caller's role may steer panels. The study is one that they may see.

    :raises PermissionDenied: their role does not allow it; the refusal is recorded. :raises Http404: there is none.
    """
    if not can(request.user, "steer_panel"):
        record_refusal(
            event,
            action="E",
            resource=study.subject,
            patient_id=study.patient_id,
            actor=Actor.user(request.user),
            detail={"why": "role"},
        )
        raise PermissionDenied("Your role does not allow this.")
    if panel is None:
        raise Http404
    return panel


def consensus_choice(choice: FusionChoice) -> ConsensusChoice:
    """One consensus of a panel, automatic or chosen."""
    return ConsensusChoice(
        id=str(choice.pk),
        automatic=choice.automatic,
        experts=choice.experts,
        method=choice.method,
        who=choice.who,
        why=choice.why,
        state=choice.state,
        error=choice.error,
        segmentation=str(choice.segmentation_id) if choice.segmentation_id else None,
        band=choice.band,
        a=choice.gate.a if choice.gate else None,
        at=choice.at,
    )


def _why(request: Request) -> str:
    why = request.data.get("why", "") if isinstance(request.data, dict) else ""
    if not isinstance(why, str) or not why.strip():
        raise exceptions.ParseError("Say why, in 'why'.")
    return why


class Panel(Base):
    """The newest panel with its experts, agreement and gate, all fusion methods side by side, and every choice made."""

    @extend_schema(responses={200: PanelAnswer})
    def get(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "panel.view")
        panel = newest_panel(study)
        if panel is None:
            raise Http404
        with transaction.atomic():
            summary = panel_summary(panel)
            body = PanelAnswer(
                **{name: getattr(summary, name) for name in PanelSummary.model_fields},
                methods=panel.methods,
                choices=tuple(consensus_choice(one) for one in panel.fusion_choices.order_by("at", "id")),
                consensus=str(panel.consensus_id) if panel.consensus_id else None,
            )
            record(
                "panel.view",
                action="R",
                resource=study.subject,
                patient_id=study.patient_id,
                actor=Actor.user(request.user),
            )
        return Response(plain(body))


class PanelFuse(Base):
    """Another choice of experts and fusion: computed from the stored probabilities by a job, as a new consensus version."""

    @extend_schema(
        request={
            "application/json": {
                "type": "object",
                "required": ["experts", "method", "why"],
                "properties": {
                    "experts": {"type": "array", "items": {"type": "string"}},
                    "method": {"type": "string", "enum": list(METHODS)},
                    **_REASON,
                },
            }
        },
        responses={202: FusionQueued},
    )
    def post(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "panel.fuse")
        panel = panel_to_steer(request, study, "panel.fuse", latest_panel(study))
        why = _why(request)
        sent: dict[str, Any] = dict(request.data)
        experts, method = sent.get("experts"), sent.get("method")
        if not isinstance(method, str) or not isinstance(experts, list) or not all(isinstance(e, str) for e in experts):
            raise exceptions.ParseError("Send 'experts' (a list of names) and 'method'.")
        with acting_as(Actor.user(request.user), source="api"):
            choice, job = choose_fusion(panel, experts=experts, method=method, who=request.user.get_username(), why=why)
        return Response(plain(FusionQueued(choice=consensus_choice(choice), job=str(job.pk))), status=202)


class PanelCancel(Base):
    """Stop the panel that is under way."""

    @extend_schema(
        request={"application/json": {"type": "object", "required": ["why"], "properties": _REASON}},
        responses={200: PanelStatus},
    )
    def post(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "panel.cancel")
        panel = panel_to_steer(request, study, "panel.cancel", newest_panel(study))
        with acting_as(Actor.user(request.user), source="api"):
            panel = cancel_panel(panel, who=request.user.get_username(), why=_why(request))
        return Response(plain(PanelStatus(panel_run_id=str(panel.pk), state=panel.state)))


class PanelAgain(Base):
    """Run a stopped or failed panel again."""

    @extend_schema(request=None, responses={202: JobQueued})
    def post(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "panel.again")
        panel = panel_to_steer(request, study, "panel.again", newest_panel(study))
        with acting_as(Actor.user(request.user), source="api"):
            job = run_again(study, panel)
        return Response(plain(JobQueued(job=str(job.pk))), status=202)
