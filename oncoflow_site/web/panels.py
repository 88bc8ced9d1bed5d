"""What a doctor does with a study's panel on its page: choose experts and fusion, stop it, run it again."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from audit.services import Actor, acting_as
from clinical.roles import can
from imaging.models import Study
from inference.fusion.fuse import METHODS
from inference.models import ExpertState, PanelRun, PanelState
from inference.panel.cancel import cancel_panel, run_again
from inference.panel.choose_fusion import choose_fusion
from inference.panel.queries import latest_panel, newest_panel
from oncoflow_site.api.panels import panel_to_steer
from oncoflow_site.api.studies import visible_study
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["again", "cancel", "fuse", "panel_context"]

METHOD_NAMES = {
    "majority": "majority vote",
    "staple": "STAPLE",
    "weighted": "weighted by reviewed Dice",
    "confidence": "weighted by confidence",
}


def panel_context(user: Any, study: Study, panel: PanelRun | None) -> dict[str, Any]:
    """What the study page shows beside the panel's summary: the choices there are, and what may be done by ``user``."""
    newest = newest_panel(study)
    steer = can(user, "steer_panel") and newest is not None
    concluded = panel is not None and panel.state == PanelState.CONCLUDED
    answered = (
        list(panel.expert_runs.filter(state=ExpertState.DONE).order_by("expert").values_list("expert", "role"))
        if panel is not None and concluded
        else []
    )
    return {
        "panel_state": newest.state if newest else "",
        "panel_reasons": newest.reasons if newest else [],
        "may_stop": steer and newest is not None and newest.state in (PanelState.WAITING, PanelState.RUNNING),
        "may_run_again": steer and newest is not None and newest.state in (PanelState.CANCELLED, PanelState.FAILED),
        "may_choose": steer and bool(answered),
        "answered": answered,
        "methods": [
            {"key": key, "title": METHOD_NAMES[key], "result": panel.methods.get(key)}
            for key in METHODS
            if panel is not None and panel.methods
        ],
        "method_names": [(key, METHOD_NAMES[key]) for key in METHODS],
        "choices": list(panel.fusion_choices.order_by("at", "id")) if panel is not None else [],
    }


def _act(
    request: HttpRequest,
    study_id: uuid.UUID,
    event: str,
    find: Callable[[Study], PanelRun | None],
    act: Callable[..., str],
) -> HttpResponse:
    study = visible_study(request.user, study_id, event)
    panel = panel_to_steer(request, study, event, find(study))
    try:
        with acting_as(Actor.user(request.user), source="web"):
            told = act(study, panel)
    except UserVisibleError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, told)
    return redirect("web:study", study_id=study.pk)


@login_required
@require_POST
def fuse(request: HttpRequest, study_id: uuid.UUID) -> HttpResponse:
    """Fuse the chosen experts by the chosen method; a job does it."""

    def act(study: Study, panel: PanelRun) -> str:
        choose_fusion(
            panel,
            experts=request.POST.getlist("experts"),
            method=request.POST.get("method", ""),
            who=request.user.get_username(),
            why=request.POST.get("why", ""),
        )
        return "The outlines are being fused as you chose; it is measured at once."

    return _act(request, study_id, "panel.fuse", latest_panel, act)


@login_required
@require_POST
def cancel(request: HttpRequest, study_id: uuid.UUID) -> HttpResponse:
    """Stop the panel that is under way."""

    def act(study: Study, panel: PanelRun) -> str:
        cancel_panel(panel, who=request.user.get_username(), why=request.POST.get("why", ""))
        return "The panel was stopped."

    return _act(request, study_id, "panel.cancel", newest_panel, act)


@login_required
@require_POST
def again(request: HttpRequest, study_id: uuid.UUID) -> HttpResponse:
    """Run a stopped or failed panel again."""

    def act(study: Study, panel: PanelRun) -> str:
        run_again(study, panel)
        return "The panel runs again."

    return _act(request, study_id, "panel.again", newest_panel, act)
