"""The record in the administration pages: to be read, by those whose role reads it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse

from audit.actors import Actor
from audit.models import AuditRow
from audit.services import record
from oncoflow_site.foundation.admin import ReadOnlyAdmin


@admin.register(AuditRow)
class AuditRowAdmin(ReadOnlyAdmin):
    """Read-only."""

    list_display = ("recorded", "event", "actor_type", "actor_id", "resource", "patient", "outcome", "source")
    list_filter = ("event", "actor_type", "outcome", "source")
    date_hierarchy = "recorded"
    list_per_page = 50
    show_full_result_count = False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list; that it was read is recorded."""
        response = super().changelist_view(request, extra_context)
        if self.has_view_permission(request):
            record("audit.view", action="R", resource="audit", actor=Actor.user(request.user), source="web")
        return response
