"""Images kept apart, for those who may look at one and release it. What they do is in `imaging.archive.pixel_release`."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from audit.services import Actor, acting_as, record, record_refusal
from clinical.access import patients_for
from clinical.roles import can
from imaging.archive import pixel_release as releasing
from imaging.models import Instance, InstanceState
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["picture", "quarantine_page", "release"]

MOST = 200


@login_required
def quarantine_page(request: HttpRequest) -> HttpResponse:
    """What was kept apart of this person's patients, and why. :raises PermissionDenied: not for this role."""
    _check_role(request)
    rows = list(_theirs(request.user).select_related("study__patient", "series").order_by("-received_at")[:MOST])
    with transaction.atomic():
        record("web.quarantine", action="R", resource="quarantine", detail={"images": len(rows)})
    shown = [{"instance": one, "frame": 0, "releasable": releasing.can_be_released(one)} for one in rows]
    return render(request, "web/quarantine.html", {"rows": shown, "most": MOST if len(rows) == MOST else 0})


@login_required
def picture(request: HttpRequest, instance_id: uuid.UUID, frame: int) -> HttpResponse:
    """One frame as PNG, as it was received. The look is recorded."""
    instance = _found(request, instance_id)
    try:
        with acting_as(Actor.user(request.user), source="web"):
            data = releasing.picture(instance, by=request.user, frame=frame)  # type: ignore[arg-type]
    except UserVisibleError as error:
        raise Http404 from error
    return HttpResponse(data, content_type="image/png", headers={"Cache-Control": "no-store"})


@login_required
@require_POST
def release(request: HttpRequest, instance_id: uuid.UUID) -> HttpResponse:
    """Somebody looked, and there is no text in it."""
    instance = _found(request, instance_id)
    try:
        with acting_as(Actor.user(request.user), source="web"):
            releasing.release(instance, by=request.user, reason=request.POST.get("reason", ""))  # type: ignore[arg-type]
    except UserVisibleError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "Released. Its study is prepared again once nothing more arrives.")
    return redirect("web:quarantine")


def _theirs(user: Any) -> QuerySet[Instance]:
    return Instance.objects.filter(
        state=InstanceState.QUARANTINED, discarded_at=None, study__patient__in=patients_for(user)
    )


def _check_role(request: HttpRequest) -> None:
    if not can(request.user, "release_image"):
        actor = Actor.user(request.user)
        record_refusal("web.quarantine", action="R", resource="quarantine", actor=actor, detail={"why": "role"})
        raise PermissionDenied


def _found(request: HttpRequest, instance_id: uuid.UUID) -> Instance:
    """The quarantined image. :raises Http404: there is none, or it is of a patient who is not theirs, which is recorded."""
    _check_role(request)
    instance = _theirs(request.user).select_related("study__patient", "original").filter(pk=instance_id).first()
    if instance is None:
        actor = Actor.user(request.user)
        record_refusal("web.quarantine", action="R", resource=f"instance:{instance_id}", actor=actor)
        raise Http404
    return instance
