"""The pages of identities: whose is it, confirming, merging, taking a merge back. What they do is in `clinical.patients`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from audit.services import Actor, acting_as, record, record_refusal
from clinical.access import identities_for
from clinical.models import MergeState, Patient
from clinical.patients.confirming import confirm_identity
from clinical.patients.conflicts import conflicts_for, decide_conflict, reveal_conflict
from clinical.patients.merging import (
    approve_merge,
    came_since,
    merge_patients,
    merges_for,
    preview_merge,
    refuse_merge,
    unmerge,
)
from clinical.registry import find_patient, reveal_identity
from clinical.roles import can
from oncoflow_site.api.identities import conflict_of, corrected_identity, identity_patient, merge_of
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = [
    "confirm",
    "conflict_page",
    "decide",
    "find",
    "identities_page",
    "make_merge",
    "merge_page",
    "merge_step",
    "patient_identity",
]

MOST = 100


def _may(request: HttpRequest, capability: str) -> None:
    """:raises PermissionDenied: the role has no such capability; recorded."""
    if not can(request.user, capability):
        actor = Actor.user(request.user)
        record_refusal("identity.list", action="R", resource="identities", actor=actor, detail={"why": "role"})
        raise PermissionDenied


def _done(request: HttpRequest, act: Callable[[], Any], said: str) -> bool:
    """Do it in this person's name; a message says that it is done, or why not."""
    try:
        with acting_as(Actor.user(request.user), source="web"):
            act()
    except UserVisibleError as error:
        messages.error(request, str(error))
        return False
    messages.success(request, said)
    return True


@login_required
def identities_page(request: HttpRequest) -> HttpResponse:
    """What waits: contradictions, merges, patients whom nobody has confirmed. :raises PermissionDenied: not for this role."""
    _may(request, "confirm_identity")
    user = request.user
    with transaction.atomic():
        provisional = identities_for(user).filter(provisional=True).order_by("-created_at")[:MOST]
        context = {
            "conflicts": list(conflicts_for(user)[:MOST]),
            "waiting": list(merges_for(user, MergeState.REQUESTED)[:MOST]),
            "merged": list(merges_for(user, MergeState.MERGED)[:20]),
            "provisional": list(provisional),
            "may_resolve": can(user, "resolve_identity"),
            "authority": settings.ONCOFLOW_ASSIGNING_AUTHORITY,
        }
        record("identity.list", action="R", resource="identities", detail={"conflicts": len(context["conflicts"])})  # type: ignore[arg-type]
        return _no_store(render(request, "web/identities.html", context))


def _no_store(response: HttpResponse) -> HttpResponse:
    response.headers["Cache-Control"] = "no-store"
    return response


@login_required
@require_POST
def find(request: HttpRequest) -> HttpResponse:
    """Look for a patient by number under its authority, or by pseudonym."""
    _may(request, "confirm_identity")
    number, authority = request.POST.get("number", "").strip(), request.POST.get("authority", "").strip()
    mine = identities_for(request.user)
    patient = find_patient(authority or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY), number) if number else None
    found = mine.filter(Q(pk=patient.pk) if patient else Q(pseudonym=number.upper())).first() if number else None
    with transaction.atomic():
        record("patient.search", action="E", resource="patient", detail={"fields": ["N"], "found": int(bool(found))})
    if found is None:
        messages.error(request, "No patient of yours has this number.")
        return redirect("web:identities")
    return redirect("web:patient-identity", found.pk)


@login_required
def patient_identity(request: HttpRequest, patient_id: uuid.UUID) -> HttpResponse:
    """Who a patient is, confirmed or not, and what was merged; with another patient (``?with=``) what merging would move."""
    patient = identity_patient(request.user, patient_id, "patient.identity")
    may_resolve = can(request.user, "resolve_identity")
    preview, other, other_identity = None, None, None
    wanted = request.GET.get("with", "").strip()
    if wanted and may_resolve:
        other = _other(request, wanted)
        if other is None:
            messages.error(request, "No patient of yours has this number.")
        else:
            try:
                preview = preview_merge(patient, other, by=request.user)  # type: ignore[arg-type]
                other_identity = reveal_identity(other, purpose="merge-preview", actor=Actor.user(request.user))
            except UserVisibleError as error:
                messages.error(request, str(error))
    context = {
        "patient": patient,
        "identity": reveal_identity(patient, purpose="identity-page", actor=Actor.user(request.user)),
        "other": other,
        "other_identity": other_identity,
        "preview": preview,
        "may_resolve": may_resolve,
        "may_see": can(request.user, "view_patient"),
        "merges": list(merges_for(request.user, *MergeState.values).filter(survivor=patient)[:MOST]),
        "authority": settings.ONCOFLOW_ASSIGNING_AUTHORITY,
        "sexes": (("F", "female"), ("M", "male"), ("O", "other"), ("U", "not known")),
    }
    return _no_store(render(request, "web/patient_identity.html", context))


def _other(request: HttpRequest, number: str) -> Patient | None:
    mine = identities_for(request.user)
    authority = request.GET.get("authority", "").strip() or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY)
    patient = find_patient(authority, number)
    return mine.filter(Q(pk=patient.pk) if patient else Q(pseudonym=number.upper())).first()


@login_required
@require_POST
def confirm(request: HttpRequest, patient_id: uuid.UUID) -> HttpResponse:
    """A person has seen who it is."""
    patient = identity_patient(request.user, patient_id, "patient.confirm")
    _done(
        request,
        lambda: confirm_identity(patient, by=request.user, corrected=corrected_identity(request.POST)),  # type: ignore[arg-type]
        "The identity is confirmed.",
    )
    return redirect("web:patient-identity", patient.pk)


@login_required
@require_POST
def make_merge(request: HttpRequest, patient_id: uuid.UUID) -> HttpResponse:
    """Merge the other record into this one, after the preview."""
    survivor = identity_patient(request.user, patient_id, "patient.merge")
    prior = identity_patient(request.user, request.POST.get("prior"), "patient.merge")
    made: list[Any] = []
    done = _done(
        request,
        lambda: made.append(
            merge_patients(
                survivor,
                prior,
                by=request.user,  # type: ignore[arg-type]
                reason=request.POST.get("reason", ""),
                source="web",
            )
        ),
        "Done.",
    )
    return redirect("web:merge", made[0].pk) if done else redirect("web:patient-identity", survivor.pk)


@login_required
def conflict_page(request: HttpRequest, conflict_id: uuid.UUID) -> HttpResponse:
    """What is known and what came, side by side; both are revealed on the record."""
    row = conflict_of(request.user, conflict_id)
    actor = Actor.user(request.user)
    known = reveal_identity(row.patient, purpose="identity-conflict", actor=actor)
    second = reveal_identity(row.other_patient, purpose="identity-conflict", actor=actor) if row.other_patient else None
    context = {"conflict": row, "known": known, "second": second, "told": reveal_conflict(row, by=request.user)}  # type: ignore[arg-type]
    return _no_store(render(request, "web/identity_conflict.html", context))


@login_required
@require_POST
def decide(request: HttpRequest, conflict_id: uuid.UUID) -> HttpResponse:
    """Say whose it is."""
    row = conflict_of(request.user, conflict_id)
    decision = request.POST.get("decision", "")
    if decision not in ("keep", "take_over", "other"):
        raise Http404
    done = _done(
        request,
        lambda: decide_conflict(
            row,
            by=request.user,  # type: ignore[arg-type]
            same=decision != "other",
            take_over=decision == "take_over",
            reason=request.POST.get("reason", ""),
        ),
        "Decided. What waited for it is taken up again.",
    )
    return redirect("web:identities") if done else redirect("web:identity-conflict", row.pk)


@login_required
def merge_page(request: HttpRequest, merge_id: uuid.UUID) -> HttpResponse:
    """One merge: what moved, what came since, and what can be done about it."""
    row = merge_of(request.user, merge_id)
    moved: dict[str, int] = {}
    for label in row.records.values_list("model", flat=True):
        moved[label.rpartition(".")[2]] = moved.get(label.rpartition(".")[2], 0) + 1
    context = {
        "merge": row,
        "moved": sorted(moved.items()),
        "since": came_since(row) if row.state == MergeState.MERGED else [],
        "second_person": row.requested_by_id != request.user.pk,
    }
    with transaction.atomic():
        record("identity.list", action="R", resource=f"merge:{row.pk}", patient_id=row.survivor_id)
    return render(request, "web/merge.html", context)


@login_required
@require_POST
def merge_step(request: HttpRequest, merge_id: uuid.UUID, step: str) -> HttpResponse:
    """Approve, refuse or take back a merge."""
    row = merge_of(request.user, merge_id)
    user: Any = request.user
    reason = request.POST.get("reason", "")
    also = [(label, key) for label, _, key in (one.partition(":") for one in request.POST.getlist("also"))]
    acts: dict[str, tuple[Callable[[], Any], str]] = {
        "approve": (lambda: approve_merge(row, by=user), "The records are merged."),
        "refuse": (lambda: refuse_merge(row, by=user, reason=reason), "The merge is refused."),
        "unmerge": (lambda: unmerge(row, by=user, reason=reason, also=also), "The merge is taken back."),
    }
    if step not in acts:
        raise Http404
    _done(request, *acts[step])
    return redirect("web:merge", row.pk)
