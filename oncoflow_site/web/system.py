"""What is on, what is healthy, what waits for an administrator."""

from __future__ import annotations

import uuid
from datetime import date
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from audit.services import Actor, record, record_refusal
from clinical.roles import can
from fhir_api.delivery.deliver import start_backfill
from fhir_api.delivery.standing import endpoint_standings, try_endpoint
from fhir_api.models import Endpoint
from imaging.models import Instance
from inference.models import ModelVersion
from oncoflow_site.foundation import health, jobs, outbox
from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.models import Delivery, Job


def _require_manager(request: HttpRequest, event: str, resource: str) -> None:
    if not can(request.user, "manage_system"):
        record_refusal(event, action="R", resource=resource, detail={"why": "role"})
        raise PermissionDenied


@login_required
def system_page(request: HttpRequest) -> HttpResponse:
    """What is switched on, the checks, the experts' standing, dead deliveries, failed jobs, quarantine."""
    _require_manager(request, "web.system", "system")
    with transaction.atomic():
        parts = [
            ("Database", connection.vendor),
            ("Queue", "Redis" if settings.REDIS_URL else "SQLite"),
            ("Objects", settings.STORAGES["objects"]["BACKEND"].rsplit(".", 1)[-1]),
            ("Retrieval", settings.ONCOFLOW_RETRIEVAL),
            ("Elasticsearch", urlsplit(settings.ELASTICSEARCH_URL or "").hostname or "not used"),
            ("Narrator", "extractive, every sentence cited"),
            ("Fusion", settings.ONCOFLOW_FUSION),
            ("Faces on offered images", "taken off" if settings.ONCOFLOW_DEFACE else "left on"),
            ("Demo mode", "on" if settings.ONCOFLOW_DEMO_MODE else "off"),
        ]
        context = {
            "parts": parts,
            "checks": health.ready(),
            "gate": settings.ONCOFLOW_GATE,
            "thresholds": settings.ONCOFLOW_VOTE_THRESHOLDS,
            "models": list(ModelVersion.objects.order_by("name", "-registered_at")),
            "endpoints": endpoint_standings(),
            "deliveries": list(Delivery.objects.filter(state__in=["failed", "dead"]).order_by("-created_at")[:100]),
            "jobs": list(Job.objects.filter(state__in=["failed", "dead"]).order_by("-created_at")[:100]),
            "quarantine": list(Instance.objects.filter(state="quarantined").order_by("-received_at")[:100]),
        }
        record("web.system", action="R", resource="system")
        return render(request, "web/system.html", context)


@login_required
@require_POST
def resend_delivery(request: HttpRequest, delivery_id: uuid.UUID) -> HttpResponse:
    """Send a dead delivery again."""
    _require_manager(request, "web.resend", f"delivery:{delivery_id}")
    if not Delivery.objects.filter(pk=delivery_id).exists():
        raise Http404
    try:
        with transaction.atomic():
            outbox.resend(delivery_id)
            record("web.resend", action="U", resource=f"delivery:{delivery_id}")
        messages.success(request, "The delivery waits to be sent again.")
    except IllegalMove:
        messages.warning(request, "This delivery is not waiting for anybody.")
    return HttpResponseRedirect(reverse("web:system"))


@login_required
@require_POST
def retry_job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Let a failed job run again."""
    _require_manager(request, "web.retry", f"job:{job_id}")
    with transaction.atomic():
        started = jobs.retry(job_id)
        record("web.retry", action="U", resource=f"job:{job_id}", outcome=0 if started else 4)
    if started:
        messages.success(request, "The job waits to run again.")
    else:
        messages.warning(request, "There is no such job to start again.")
    return HttpResponseRedirect(reverse("web:system"))


@login_required
@require_POST
def test_endpoint(request: HttpRequest, endpoint_id: uuid.UUID) -> HttpResponse:
    """Ask an endpoint whether it is there; what waits for it goes on if it is."""
    _require_manager(request, "endpoint.test", f"endpoint:{endpoint_id}")
    endpoint = get_object_or_404(Endpoint, pk=endpoint_id)
    problem = try_endpoint(endpoint, actor=Actor.user(request.user), source="web")
    if problem:
        messages.warning(request, f"{endpoint.name}: {problem}")
    else:
        messages.success(request, f"{endpoint.name} answers.")
    return HttpResponseRedirect(reverse("web:system"))


@login_required
@require_POST
def backfill_endpoint(request: HttpRequest, endpoint_id: uuid.UUID) -> HttpResponse:
    """Queue what an endpoint never got, or lost: everything issued since a day."""
    _require_manager(request, "endpoint.backfill", f"endpoint:{endpoint_id}")
    endpoint = get_object_or_404(Endpoint, pk=endpoint_id)
    text, again = request.POST.get("since", ""), request.POST.get("delivered_too") == "on"
    try:
        since = date.fromisoformat(text) if text else None
    except ValueError:
        messages.warning(request, "The day is not a date.")
        return HttpResponseRedirect(reverse("web:system"))
    if again and since is None:
        messages.warning(request, "Say since which day; everything ever issued would be sent once more.")
        return HttpResponseRedirect(reverse("web:system"))
    count = start_backfill(endpoint, actor=Actor.user(request.user), source="web", since=since, delivered_too=again)
    messages.success(request, f"{count} reports are queued for {endpoint.name}.")
    return HttpResponseRedirect(reverse("web:system"))
