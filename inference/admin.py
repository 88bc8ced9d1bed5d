"""Admin of the inference room: everything can be looked at. A proposed standing is decided here, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from audit import services as audit
from clinical.roles import can
from imaging.brats.regions import REGIONS
from inference.models import (
    CaseEvaluation,
    ExpertRun,
    FusionChoice,
    FusionWeights,
    ModelStatusChange,
    ModelVersion,
    PanelRun,
    ProposalState,
    ReferenceKind,
    StandingProposal,
)
from inference.quality import learned_weights
from inference.quality.charts import csv_lines, dice_chart, dice_series
from inference.quality.drift import decide_proposal
from oncoflow_site.foundation.admin import InspectionAdmin
from oncoflow_site.foundation.errors import UserVisibleError


class ReasonForm(ActionForm):
    """An action with the reason that goes on record."""

    why = forms.CharField(max_length=1000, required=False, label="Reason")


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
    fields = ["at", "from_status", "to_status", "who", "why", "evidence"]
    readonly_fields = fields  # type: ignore[assignment]

    def has_add_permission(self, request: object, obj: object = None) -> bool:
        """Never."""
        return False


@admin.register(ModelVersion)
class ModelVersionAdmin(InspectionAdmin):
    """Registered weights with their standing and evaluation."""

    list_display = ["name", "version", "status", "demo_only", "kind", "architecture", "registered_at"]
    list_filter = ["status", "kind", "demo_only"]
    search_fields = ["name", "version", "sha256"]
    inlines = [StatusChangeInline]
    actions = ["learn_weights"]
    action_form = ReasonForm

    @admin.action(description="Learn the weights of weighted fusion anew (of all models)", permissions=["change"])
    def learn_weights(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        """Record a new version of the fusion weights."""
        if not can(request.user, "manage_system"):
            raise PermissionDenied
        try:
            with audit.acting_as(audit.Actor.user(request.user), source="web"):
                made = learned_weights.learn(who=request.user.get_username(), why=request.POST.get("why", ""))
        except UserVisibleError as error:
            self.message_user(request, str(error), messages.WARNING)
        else:
            self.message_user(request, f"Fusion weights version {made.version} are used from now on.")


@admin.register(ModelStatusChange)
class ModelStatusChangeAdmin(InspectionAdmin):
    """Every change of a standing."""

    list_display = ["at", "model", "from_status", "to_status", "who", "why"]
    list_filter = ["to_status"]
    date_hierarchy = "at"


@admin.register(PanelRun)
class PanelRunAdmin(InspectionAdmin):
    """Panels with their band and reasons."""

    list_display = ["started_at", "study", "state", "band", "fusion", "demo", "concluded_at"]
    list_filter = ["state", "band", "fusion", "demo"]
    search_fields = ["id", "study__id"]
    date_hierarchy = "started_at"
    inlines = [ExpertRunInline]


@admin.register(ExpertRun)
class ExpertRunAdmin(InspectionAdmin):
    """The experts' parts, with runtime and errors."""

    list_display = ["expert", "panel_run", "role", "state", "runtime_s", "device", "error"]
    list_filter = ["state", "expert", "role"]
    search_fields = ["id", "panel_run__id"]


@admin.register(FusionChoice)
class FusionChoiceAdmin(InspectionAdmin):
    """How each consensus came about."""

    list_display = ["at", "panel_run", "automatic", "method", "who", "why", "state", "band"]
    list_filter = ["automatic", "method", "state", "band"]
    date_hierarchy = "at"


@admin.register(FusionWeights)
class FusionWeightsAdmin(InspectionAdmin):
    """Versions of the weights of weighted fusion; the newest is used."""

    list_display = ["version", "at", "who", "why"]


@admin.register(StandingProposal)
class StandingProposalAdmin(InspectionAdmin):
    """Proposed changes of standing. "Confirm" and "dismiss" need a reason; nothing changes without one of them."""

    list_display = ["at", "model", "to_status", "why", "state", "decided_by", "decision"]
    list_filter = ["state", "to_status"]
    date_hierarchy = "at"
    actions = ["confirm", "dismiss"]
    action_form = ReasonForm

    @admin.action(description="Confirm the selected open proposals", permissions=["change"])
    def confirm(self, request: HttpRequest, queryset: QuerySet[StandingProposal]) -> None:
        """Change each model's standing as proposed."""
        self._decide(request, queryset, confirm=True)

    @admin.action(description="Dismiss the selected open proposals", permissions=["change"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet[StandingProposal]) -> None:
        """Leave each model's standing as it is."""
        self._decide(request, queryset, confirm=False)

    def _decide(self, request: HttpRequest, queryset: QuerySet[StandingProposal], *, confirm: bool) -> None:
        if not can(request.user, "manage_system"):
            raise PermissionDenied
        for proposal in queryset.filter(state=ProposalState.OPEN).select_related("model"):
            try:
                with audit.acting_as(audit.Actor.user(request.user), source="web"):
                    decided = decide_proposal(proposal, request.user, confirm=confirm, why=request.POST.get("why", ""))
            except UserVisibleError as error:
                self.message_user(request, str(error), messages.WARNING)
            else:
                self.message_user(request, f"{decided.model}: {decided.state}.")


@admin.register(CaseEvaluation)
class CaseEvaluationAdmin(InspectionAdmin):
    """Every outline against every reference; charts of mean Dice over time, and an export under pseudonyms."""

    list_display = ["at", "expert", "model_version", "region", "reference_kind", "dice", "iou", "hd95_mm", "runtime_s"]
    list_filter = ["reference_kind", "region", "expert", "model_version"]
    search_fields = ["study__id"]
    date_hierarchy = "at"
    list_select_related = ["model_version"]

    def get_urls(self) -> list[URLPattern]:
        """Two more pages, before the one that takes anything for an id."""

        def guarded(view: Callable[..., Any]) -> Callable[..., Any]:
            return self.admin_site.admin_view(view)

        return [
            path("charts/", guarded(self.charts), name="inference_caseevaluation_charts"),
            path("export.csv", guarded(self.export), name="inference_caseevaluation_export"),
            *super().get_urls(),
        ]

    def _chosen(self, request: HttpRequest) -> tuple[QuerySet[CaseEvaluation], str, str]:
        if not self.has_view_permission(request):
            raise PermissionDenied
        region, reference = request.GET.get("region", ""), request.GET.get("reference", "")
        region = region if region in REGIONS else ""
        reference = reference if reference in ReferenceKind.values else ReferenceKind.REVIEWED
        rows = CaseEvaluation.objects.filter(reference_kind=reference)
        return (rows.filter(region=region) if region else rows), region, reference

    def charts(self, request: HttpRequest) -> HttpResponse:
        """Mean Dice per model version and month, as a picture and as a table; the fusion weights in use."""
        rows, region, reference = self._chosen(request)
        weights = FusionWeights.objects.first()
        with transaction.atomic():
            series = dice_series(rows)
            audit.record(
                "evaluation.charts",
                action="R",
                resource="evaluation",
                detail={"region": region, "reference": reference},
                actor=audit.Actor.user(request.user),
            )
        context = {
            **self.admin_site.each_context(request),
            "title": "Mean Dice over time",
            "series": series,
            "chart": dice_chart(series),
            "regions": REGIONS,
            "region": region,
            "references": ReferenceKind.choices,
            "reference": reference,
            "weights": weights,
            "weight_rows": [
                {"name": f"{one['name']} {one['version']}", "region": name, **found}
                for one in (weights.weights.values() if weights else ())
                for name, found in one["regions"].items()
            ],
        }
        return TemplateResponse(request, "admin/inference/caseevaluation/charts.html", context)

    def export(self, request: HttpRequest) -> HttpResponse:
        """The chosen rows as CSV. On record with how many there were; studies and patients by pseudonym only."""
        rows, region, reference = self._chosen(request)
        with transaction.atomic():
            text = "".join(csv_lines(rows))
            audit.record(
                "evaluation.export",
                action="R",
                resource="evaluation",
                detail={"region": region, "reference": reference, "count": text.count("\n") - 1},
                actor=audit.Actor.user(request.user),
            )
        headers = {
            "Content-Disposition": 'attachment; filename="evaluations.csv"',
            "Cache-Control": "no-store, private",
        }
        return HttpResponse(text, content_type="text/csv; charset=utf-8", headers=headers)
