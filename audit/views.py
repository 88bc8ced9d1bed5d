"""The compliance officer's view of the record."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from audit.actors import Actor
from audit.codes import declared_codes
from audit.forms import AuditFilterForm
from audit.models import AuditRow
from audit.services import record, record_refusal

__all__ = ["audit_list", "name_patients_with", "name_users_with"]

PAGE_SIZE = 50

# Rooms that know more teach this view to read and show their pseudonyms; this room knows ids only.
_patient_finders: list[Callable[[str], uuid.UUID | None]] = []
_patient_labels: list[Callable[[set[uuid.UUID]], dict[uuid.UUID, str]]] = []
_user_labels: list[Callable[[set[str]], dict[str, str]]] = []


def name_patients_with(
    find: Callable[[str], uuid.UUID | None], label: Callable[[set[uuid.UUID]], dict[uuid.UUID, str]]
) -> None:
    """Register how a pseudonym becomes a patient id, and ids become pseudonyms."""
    _patient_finders[:] = [find]
    _patient_labels[:] = [label]


def name_users_with(label: Callable[[set[str]], dict[str, str]]) -> None:
    """Register how user ids become user names."""
    _user_labels[:] = [label]


def _patient_id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return next((found for find in _patient_finders if (found := find(text)) is not None), None)


def _filtered(form: AuditFilterForm) -> tuple[QuerySet[AuditRow], list[str]]:
    """The rows that the filters leave, and the names of the filters used."""
    rows = AuditRow.objects.all()
    if not form.is_valid():
        return rows.none(), []
    given = {name: value for name, value in form.cleaned_data.items() if value not in (None, "")}
    if "since" in given:
        rows = rows.filter(recorded__gte=given["since"])
    if "until" in given:
        rows = rows.filter(recorded__lte=given["until"])
    if "event" in given:
        rows = rows.filter(event=given["event"])
    if "actor_type" in given:
        rows = rows.filter(actor_type=given["actor_type"])
    if "actor" in given:
        rows = rows.filter(actor_id=given["actor"])
    if "outcome" in given:
        rows = rows.filter(outcome=int(given["outcome"]))
    if "patient" in given:
        patient = _patient_id(given["patient"])
        rows = rows.filter(patient=patient) if patient else rows.none()
    return rows, sorted(given)


@login_required
@require_safe
def audit_list(request: HttpRequest) -> HttpResponse:
    """The record, newest first, filtered and paged. Reading it is itself recorded; so is a refusal."""
    if not request.user.has_perm("audit.read_audit"):
        record_refusal("audit.view", action="R", resource="audit", actor=Actor.user(request.user))
        raise PermissionDenied("Only compliance officers read the audit record.")
    form = AuditFilterForm(request.GET or {})
    rows, used = _filtered(form)
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    shown = list(page.object_list)
    patients = {row.patient for row in shown if row.patient}
    users = {row.actor_id for row in shown if row.actor_type == "user"}
    pseudonyms = {key: name for label in _patient_labels for key, name in label(patients).items()}
    usernames = {key: name for label in _user_labels for key, name in label(users).items()}
    codes = declared_codes()
    table = [
        {
            "row": row,
            "event_text": codes.get(row.event, row.event),
            "patient": pseudonyms.get(row.patient, str(row.patient)) if row.patient else "",
            "actor": usernames.get(row.actor_id, row.actor_id),
        }
        for row in shown
    ]
    with transaction.atomic():
        record(
            "audit.view",
            action="R",
            resource="audit",
            actor=Actor.user(request.user),
            detail={"filters": used, "page": page.number, "rows": len(shown)},
        )
    query = urlencode([(key, value) for key, value in request.GET.items() if key != "page"])
    response = render(
        request,
        "audit/list.html",
        {"form": form, "page": page, "table": table, "query": query, "title": "Audit record"},
    )
    response.headers["Cache-Control"] = "no-store"
    return response
