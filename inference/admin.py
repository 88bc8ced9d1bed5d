"""Admin of the inference room: everything can be looked at; standings are changed with a reason by command."""

from __future__ import annotations

from django.contrib import admin

from inference.models import ExpertRun, ModelStatusChange, ModelVersion, PanelRun
from oncoflow_site.foundation.admin import ReadOnlyAdmin


class ExpertRunInline(admin.TabularInline):  # type: ignore[type-arg]
    """The experts of a panel."""

    model = ExpertRun
    extra = 0
    can_delete = False
    fields = ["expert", "role", "state", "runtime_s", "device", "model_version", "segmentation", "error"]
    readonly_fields = fields  # type: ignore[assignment]

    def has_add_permission(self, request: object, obj: object = None) -> bool:
        """Never."""
        return False


class StatusChangeInline(admin.TabularInline):  # type: ignore[type-arg]
    """How a model version came by its standing."""

    model = ModelStatusChange
    extra = 0
    can_delete = False
    fields = ["at", "from_status", "to_status", "who", "why"]
    readonly_fields = fields  # type: ignore[assignment]

    def has_add_permission(self, request: object, obj: object = None) -> bool:
        """Never."""
        return False


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    """Registered weights with their standing and evaluation."""

    list_display = ["name", "version", "status", "demo_only", "kind", "architecture", "registered_at"]
    list_filter = ["status", "kind", "demo_only"]
    search_fields = ["name", "version", "sha256"]
    inlines = [StatusChangeInline]


@admin.register(ModelStatusChange)
class ModelStatusChangeAdmin(ReadOnlyAdmin):
    """Every change of a standing."""

    list_display = ["at", "model", "from_status", "to_status", "who", "why"]
    list_filter = ["to_status"]
    date_hierarchy = "at"


@admin.register(PanelRun)
class PanelRunAdmin(ReadOnlyAdmin):
    """Panels with their band and reasons."""

    list_display = ["started_at", "study", "state", "band", "fusion", "demo", "concluded_at"]
    list_filter = ["state", "band", "fusion", "demo"]
    search_fields = ["id", "study__id"]
    date_hierarchy = "started_at"
    inlines = [ExpertRunInline]


@admin.register(ExpertRun)
class ExpertRunAdmin(ReadOnlyAdmin):
    """The experts' parts, with runtime and errors."""

    list_display = ["expert", "panel_run", "role", "state", "runtime_s", "device", "error"]
    list_filter = ["state", "expert", "role"]
    search_fields = ["id", "panel_run__id"]
