"""Administration of imaging: look, filter, and a few named actions. No page shows identity, pixels or ciphertext."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse

from clinical.roles import can
from imaging.admin.base import PatientRowsAdmin
from imaging.archive import quarantine
from imaging.models import (
    Instance,
    InstanceState,
    MrSequence,
    ProtocolRule,
    QuarantinedInstance,
    Series,
    Study,
    StudyFinding,
)
from imaging.recognition import learned_protocols
from imaging.recognition.overrides import override_sequence
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.jobs import enqueue


class FindingInline(admin.TabularInline):  # type: ignore[type-arg]
    """What is or was wrong with a study."""

    model = StudyFinding
    fields = readonly_fields = (
        "raised_at",
        "code",
        "severity",
        "message",
        "raised_by",
        "cleared_at",
        "cleared_by",
    )
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


class FindingFilter(admin.SimpleListFilter):
    """Studies by what is wrong with them now."""

    title = "finding"
    parameter_name = "finding"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The codes of open findings."""
        codes = StudyFinding.objects.filter(cleared_at=None).order_by("code").values_list("code", flat=True)
        return [(code, code) for code in codes.distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those that have it."""
        if not self.value():
            return queryset
        with_it = StudyFinding.objects.filter(cleared_at=None, code=self.value()).values("study")
        return queryset.filter(pk__in=with_it)


@admin.register(Study)
class StudyAdmin(PatientRowsAdmin):
    """Studies; "prepare again" takes one up where it stands."""

    patient_lookup = "patient"
    list_display = [
        "performed_at",
        "patient",
        "modality",
        "state",
        "found",
        "unsolicited",
        "purpose",
        "source",
        "generation",
    ]
    list_filter = ["state", "unsolicited", "purpose", "source", "modality", "spacing_known", FindingFilter]
    search_fields = ["id", "patient__pseudonym"]
    date_hierarchy = "performed_at"
    list_select_related = ["patient"]
    actions = ["prepare_again"]
    inlines = [FindingInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With their findings."""
        return super().get_queryset(request).prefetch_related("findings")

    @admin.display(description="findings")
    def found(self, row: Study) -> str:
        """Codes of what is wrong with it now, the heaviest first."""
        return ", ".join(one.code for one in row.open_findings)

    @admin.action(description="Prepare the selected studies again", permissions=["change"])
    def prepare_again(self, request: HttpRequest, queryset: QuerySet[Study]) -> None:
        """Enqueue the preparation; a study that is still receiving stays as it is."""
        for study in queryset:
            enqueue(
                "imaging.prepare_study",
                subject=study.subject,
                key=f"admin:{study.pk}:{new_id()}",
                kwargs={"study_id": str(study.pk)},
            )
        self.message_user(request, f"{len(queryset)} studies will be prepared again.")


@admin.register(Series)
class SeriesAdmin(PatientRowsAdmin):
    """Series and what they show; the actions let a person say it."""

    list_display = ["study", "number", "modality", "sequence", "sequence_confidence", "description", "overridden_by"]
    list_filter = ["sequence", "modality", ("overridden_by", admin.EmptyFieldListFilter)]
    search_fields = ["id", "study__id", "study__patient__pseudonym"]
    list_select_related = ["study"]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """One action a sequence, for those whose role may override."""
        actions = super().get_actions(request)
        if can(request.user, "override_sequence"):
            for value in (MrSequence.T1, MrSequence.T1C, MrSequence.T2, MrSequence.FLAIR, MrSequence.OTHER):
                name = f"says_{value}"
                actions[name] = (_override_action(value.value), name, f"The selected series show: {value.label}")
        return actions


def _each(
    modeladmin: admin.ModelAdmin[Any],
    request: HttpRequest,
    rows: QuerySet[Any],
    what: str,
    act: Callable[[Any], object],
) -> int:
    """Do `act` with every row; what refuses is told, and the rest goes on. Returns how many were done."""
    done = 0
    for row in rows:
        try:
            act(row)
            done += 1
        except PermissionDenied:
            modeladmin.message_user(request, f"One {what} was left: you may not change it.", messages.WARNING)
        except UserVisibleError as error:
            modeladmin.message_user(request, str(error), messages.ERROR)
    return done


def _override_action(sequence: str) -> Any:
    def action(modeladmin: SeriesAdmin, request: HttpRequest, queryset: QuerySet[Series]) -> None:
        rows = queryset.select_related("study__patient")
        done = _each(modeladmin, request, rows, "series", lambda one: override_sequence(one, sequence, by=request.user))  # type: ignore[arg-type]
        modeladmin.message_user(request, f"{done} series changed; their studies will be prepared again.")

    return action


@admin.register(ProtocolRule)
class ProtocolRuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What people said of whole protocols; removing one lets the header decide again."""

    list_display = ["said_at", "words", "sequence", "said_by", "used"]
    list_filter = ["sequence"]
    actions = ["forget"]

    @admin.display(description="protocol")
    def words(self, row: ProtocolRule) -> str:
        """Its cleaned words and its numbers."""
        numbers = ", ".join(f"{name} {value:g}" for name, value in row.protocol["numbers"].items() if value is not None)
        return f"{' '.join(row.protocol['words']) or 'no words'} ({row.protocol['manufacturer'] or 'maker unknown'}; {numbers})"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """They come from overrides."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Looking and removing only."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may say what a series shows."""
        return can(request.user, "override_sequence") or super().has_view_permission(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """As for viewing."""
        return self.has_view_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """By the action below, which writes the record."""
        return False

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Removing is for those whose role may override."""
        actions = super().get_actions(request)
        if not can(request.user, "override_sequence"):
            actions.pop("forget", None)
        return actions

    @admin.action(description="Remove the selected rules")
    def forget(self, request: HttpRequest, queryset: QuerySet[ProtocolRule]) -> None:
        """Remove, on the record."""
        with transaction.atomic():
            rows = list(queryset)
            for rule in rows:
                learned_protocols.remove(rule, by=request.user)  # type: ignore[arg-type]
        self.message_user(request, f"{len(rows)} rules removed.")


@admin.register(Instance)
class InstanceAdmin(PatientRowsAdmin):
    """Instances; filter by "quarantined" to see what was kept apart and why."""

    list_display = ["received_at", "state", "reason", "sop_class", "study", "number", "peer"]
    list_filter = ["state", ("conflicts_with", admin.EmptyFieldListFilter), "peer", "sop_class_uid"]
    search_fields = ["id", "study__id", "study__patient__pseudonym", "reason"]
    list_select_related = ["study"]
    raw_id_fields = ["original", "deidentified", "conflicts_with"]

    @admin.display(description="SOP class")
    def sop_class(self, row: Instance) -> str:
        """Its name in the standard."""
        from pydicom.uid import UID  # takes a second, and every process loads the admin

        return UID(row.sop_class_uid).name


@admin.register(QuarantinedInstance)
class QuarantineAdmin(InstanceAdmin):
    """Instances kept apart, with the reason: released when it has gone, or discarded. Both ask for a reason and are recorded."""

    list_display = ["received_at", "reason", "sop_class", "study", "peer", "conflicts_with", "discarded_at"]
    list_filter = [
        "reason",
        ("discarded_at", admin.EmptyFieldListFilter),
        ("conflicts_with", admin.EmptyFieldListFilter),
        "peer",
        "sop_class_uid",
    ]
    date_hierarchy = "received_at"
    actions = ["release", "discard"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Quarantined only."""
        return super().get_queryset(request).filter(state=InstanceState.QUARANTINED)

    @admin.action(description="Release the selected instances: their reason has gone", permissions=["change"])
    def release(self, request: HttpRequest, queryset: QuerySet[Instance]) -> TemplateResponse | None:
        """File them anew."""
        return self._with_reason(request, queryset, "release", quarantine.release)

    @admin.action(description="Discard the selected instances", permissions=["change"])
    def discard(self, request: HttpRequest, queryset: QuerySet[Instance]) -> TemplateResponse | None:
        """Have them deleted after some days."""
        return self._with_reason(request, queryset, "discard", quarantine.discard)

    def _with_reason(
        self, request: HttpRequest, queryset: QuerySet[Instance], name: str, act: Any
    ) -> TemplateResponse | None:
        reason = request.POST.get("quarantine_reason", "").strip()
        if not reason:
            context = {
                **self.admin_site.each_context(request),
                "title": f"Why {name}?",
                "action": name,
                "rows": queryset,
                "opts": self.model._meta,
            }
            return TemplateResponse(request, "admin/imaging/quarantine_reason.html", context)
        # The rows are of the proxy; what acts on them works with the model itself.
        rows = Instance.objects.filter(pk__in=queryset.values("pk")).select_related("study", "original")
        done = _each(self, request, rows, "instance", lambda one: act(one, by=request.user, reason=reason))
        self.message_user(request, f"{name.capitalize()}: {done} done.")
        return None
