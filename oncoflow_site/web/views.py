"""Overview, sign-in and health."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from oncoflow_site.foundation import health


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """What waits for this person."""
    return render(request, "web/home.html", {})


def health_live(request: HttpRequest) -> HttpResponse:
    """200 while this process answers."""
    return JsonResponse({"status": "ok"})


def health_ready(request: HttpRequest) -> HttpResponse:
    """200 when the service can do its work, else 503; names what is not ready, in words for operators."""
    checks = health.ready()
    state = {one.name: {"ok": one.ok, "detail": one.detail} for one in checks}
    ok = all(one.ok for one in checks)
    return JsonResponse({"status": "ok" if ok else "not ready", "checks": state}, status=200 if ok else 503)
