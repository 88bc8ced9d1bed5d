"""Administration of de-identification: its reports and the faces, for compliance officers to read."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from audit.services import Actor, record
from clinical.roles import can
from imaging.admin.base import PatientRowsAdmin
from imaging.deidentification.report import readable
from imaging.models import DeidentificationReport, FaceRemoval, Study

__all__ = ["DeidentificationReportAdmin", "FaceRemovalAdmin"]

DONE_FIELDS = ("study", "profile", "edition", "option_codes", "instances", "judged", "created_at", "updated_at", "done")


class OfficersAdmin(PatientRowsAdmin):
    """What compliance officers read too: it names nobody, so they need no patient for it. Each look is recorded."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Officers, and whom Django's permissions allow it."""
        return can(request.user, "read_audit") or super().has_view_permission(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """As for viewing."""
        return self.has_view_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Every row for officers."""
        if can(request.user, "read_audit"):
            return self.model._default_manager.all().order_by(*self.get_ordering(request))
        return super().get_queryset(request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list; that it was read is recorded."""
        response = super().changelist_view(request, extra_context)
        record("deidentification.read", action="R", resource="deidentification", actor=Actor.user(request.user))
        return response

    def _study_of(self, row: Any) -> Study:
        return row.study

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """One row; that it was read is recorded."""
        response = super().change_view(request, object_id, form_url, extra_context)
        row = self.get_object(request, object_id)
        if row is not None:
            study = self._study_of(row)
            actor = Actor.user(request.user)
            record(
                "deidentification.read", action="R", resource=study.subject, patient_id=study.patient_id, actor=actor
            )
        return response


@admin.register(DeidentificationReport)
class DeidentificationReportAdmin(OfficersAdmin):
    """What de-identification did to which attribute of a study; no values."""

    list_display = ["created_at", "study", "profile", "edition", "instances", "option_codes", "judged"]
    list_filter = ["edition", "profile"]
    search_fields = ["study__id"]
    date_hierarchy = "created_at"
    list_select_related = ["study"]
    fields = DONE_FIELDS

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """All of it."""
        return [*DONE_FIELDS]

    @admin.display(description="options (CID 7050)")
    def option_codes(self, row: DeidentificationReport) -> str:
        """Their codes."""
        return ", ".join(row.codes)

    @admin.display(description="pixels")
    def judged(self, row: DeidentificationReport) -> str:
        """How they were judged, and how many."""
        return ", ".join(f"{count} {name}" for name, count in row.pixels.items())

    @admin.display(description="attributes")
    def done(self, row: DeidentificationReport) -> SafeString:
        """A table."""
        lines = (
            (one["tag"], one["keyword"], one["vr"], one["action"], one["count"]) for one in readable(row)["attributes"]
        )
        body = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", lines)
        head = "".join(f"<th scope=col>{name}</th>" for name in ("Tag", "Keyword", "VR", "Done", "How often"))
        return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", mark_safe(head), body)  # noqa: S308  (constants)


@admin.register(FaceRemoval)
class FaceRemovalAdmin(OfficersAdmin):
    """Which series lost their faces, and which are held back and why."""

    patient_lookup = "series__study__patient"
    list_display = ["created_at", "series", "removed", "reason", "instances", "voxels"]
    list_filter = ["removed", "reason"]
    search_fields = ["series__id", "series__study__id"]
    list_select_related = ["series__study"]

    def _study_of(self, row: Any) -> Study:
        return row.series.study
