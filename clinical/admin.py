"""Administration of accounts, care teams, patients (by pseudonym), orders and documents.

Encrypted fields are never shown. Who a patient is can be revealed on that patient's page, by somebody on the care team
whose role may, and on the record.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from audit.actors import Actor
from audit.services import record, record_refusal
from clinical.access import assign, check_assignment, patients_for, sync_permission, unassign, user_can_see
from clinical.events import DOCUMENT_ARRIVED
from clinical.models import (
    AssigningAuthority,
    CareAssignment,
    ClinicalDocument,
    IdentityConflict,
    MergedRecord,
    Notice,
    Order,
    Patient,
    PatientGroupPermission,
    PatientIdentifier,
    PatientIdentity,
    PatientIndex,
    PatientMerge,
    PatientUserPermission,
    User,
)
from clinical.models.documents import DOCUMENT_MACHINE
from clinical.registry import reveal_identity
from clinical.roles import can
from oncoflow_site.foundation.admin import ReadOnlyAdmin
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.events import emit

__all__: list[str] = []


class PatientsOnlyMixin:
    """Lists are filtered to the care team's patients, except for superusers, who see pseudonyms only."""

    patient_lookup = "patient"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows that this person may see."""
        rows: QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        if getattr(request.user, "is_superuser", False):
            return rows
        return rows.filter(**{f"{self.patient_lookup}__in": patients_for(request.user)})


class UserCreationForm(AdminUserCreationForm):
    """With the role."""

    class Meta(AdminUserCreationForm.Meta):
        model = User
        fields = ("username", "role")


@admin.register(User)
class OncoFlowUserAdmin(UserAdmin):
    """Accounts. Rights follow from the role; groups and single permissions are not used."""

    add_form = UserCreationForm
    list_display = ("username", "role", "first_name", "last_name", "is_active", "is_staff", "last_login")
    list_filter = ("role", "is_active", "is_staff")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Role", {"fields": ("role",)}),
        ("Person", {"fields": ("first_name", "last_name", "email", "npi", "employee_number")}),
        ("Account", {"fields": ("is_active", "is_staff", "is_superuser", "last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("username", "role", "usable_password", "password1", "password2")}),
    )
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")

    def save_model(self, request: HttpRequest, obj: User, form: forms.ModelForm, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            record(
                "user.change" if change else "user.create",
                action="U" if change else "C",
                resource=f"user:{obj.pk}",
                actor=Actor.user(request.user),
                detail={"role": obj.role, "fields": sorted(form.changed_data)},
            )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the record names accounts: they are made inactive, never removed


@admin.register(Patient)
class PatientAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Patients by pseudonym."""

    patient_lookup = "pk"
    list_display = ("pseudonym", "provisional", "merged_into", "created_at")
    list_filter = ("provisional",)
    search_fields = ("pseudonym",)
    readonly_fields = (
        *("id", "pseudonym", "provisional", "confirmed_at", "confirmed_by", "merged_into", "created_at", "updated_at"),
        "identity_link",
    )
    fields = readonly_fields

    @admin.display(description="Identity")
    def identity_link(self, obj: Patient) -> str:
        """Link to the audited reveal."""
        return format_html(
            '<a href="{}">Reveal (recorded)</a>', reverse("admin:clinical_patient_reveal", args=[obj.pk])
        )

    def get_urls(self) -> list[URLPattern]:
        mine = [
            path(
                "<uuid:patient_id>/reveal/",
                self.admin_site.admin_view(self.reveal_view),
                name="clinical_patient_reveal",
            )
        ]
        return mine + super().get_urls()

    def reveal_view(self, request: HttpRequest, patient_id: Any) -> HttpResponse:
        """Ask why; then show the identity once, on the record."""
        patient = get_object_or_404(Patient, pk=patient_id)
        if not can(request.user, "reveal_identity") or not user_can_see(request.user, patient):
            record_refusal(
                "patient.identity",
                action="R",
                resource=f"patient:{patient.pk}",
                patient_id=patient.pk,
                actor=Actor.user(request.user),
                detail={"why": "not permitted"},
            )
            raise PermissionDenied("You have no access to this patient.")
        identity = None
        if request.method == "POST":
            identity = reveal_identity(patient, purpose="administration-page", actor=Actor.user(request.user))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Identity of {patient.pseudonym}",
            "patient": patient,
            "identity": identity,
            "opts": self.opts,
        }
        response = TemplateResponse(request, "admin/clinical/reveal.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response


@admin.register(PatientIdentity)
class PatientIdentityAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """That there is one; what it says is encrypted."""

    list_display = ("patient", "updated_at")
    fields = ("patient", "updated_at")


@admin.register(PatientIdentifier)
class PatientIdentifierAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Which authorities know a patient; the numbers are hashes."""

    list_display = ("patient", "authority", "kind", "matches", "created_at")
    list_filter = ("authority", "kind", "matches")
    fields = ("patient", "authority", "kind", "matches", "created_at")


@admin.register(PatientIndex)
class PatientIndexAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Which look-ups exist; the values are hashes."""

    list_display = ("patient", "kind")
    list_filter = ("kind",)
    fields = ("patient", "kind")


@admin.register(AssigningAuthority)
class AssigningAuthorityAdmin(admin.ModelAdmin):
    """Whose patient numbers are known, and which of them recognise a patient."""

    list_display = ("name", "universal_id", "system", "matching_types")
    search_fields = ("name", "universal_id", "system")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: numbers refer to it. Empty its matching types instead."""
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Its name is part of the look-up of every number."""
        return ("name",) if obj else ()

    def save_model(self, request: HttpRequest, obj: AssigningAuthority, form: forms.ModelForm, change: bool) -> None:
        """Save and record together."""
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            record(
                "authority.change",
                action="U" if change else "C",
                resource=f"assigningauthority:{obj.pk}",
                actor=Actor.user(request.user),
                detail={"fields": sorted(form.changed_data)},
            )


@admin.register(IdentityConflict)
class IdentityConflictAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Contradicting identities; what they say is encrypted. They are decided on the page of identities."""

    list_display = ("created_at", "kind", "patient", "contradicts", "source", "state", "decided_by", "times")
    list_filter = ("state", "kind", "source")
    list_select_related = ("patient", "decided_by")
    exclude = ("ciphertext", "fingerprint")


@admin.register(PatientMerge)
class PatientMergeAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Merges: asked for, made, refused, taken back."""

    patient_lookup = "survivor"
    list_display = ("requested_at", "prior", "survivor", "state", "source", "sender", "requested_by", "decided_by")
    list_filter = ("state", "source")
    list_select_related = ("prior", "survivor", "requested_by", "decided_by")


@admin.register(MergedRecord)
class MergedRecordAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """What a merge moved."""

    patient_lookup = "merge__survivor"
    list_display = ("merge", "model", "record_id")
    list_filter = ("model",)
    list_select_related = ("merge__survivor", "merge__prior")


@admin.register(PatientUserPermission)
class PatientUserPermissionAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Guardian's rows; they follow from the care assignments."""

    patient_lookup = "content_object"
    list_display = ("user", "content_object", "permission")
    list_select_related = ("user", "content_object", "permission")


@admin.register(PatientGroupPermission)
class PatientGroupPermissionAdmin(ReadOnlyAdmin):
    """Stays empty."""

    list_display = ("group", "content_object", "permission")


@admin.register(CareAssignment)
class CareAssignmentAdmin(PatientsOnlyMixin, admin.ModelAdmin):
    """Care teams. Made and ended through the service, so that permission and record follow."""

    list_display = ("patient", "user", "starts_at", "ends_at", "emergency", "reason")
    list_filter = ("emergency", "user__role")
    search_fields = ("patient__pseudonym", "user__username")
    list_select_related = ("patient", "user")
    fields = ("patient", "user", "ends_at", "reason")
    autocomplete_fields = ("patient", "user")
    actions = ("end_now",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return can(request.user, "assign_patient")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """The form, with the service's own checks."""
        base = super().get_form(request, obj, change, **kwargs)

        class AssignmentForm(base):  # type: ignore[misc, valid-type]
            def clean(self) -> dict[str, Any]:
                data: dict[str, Any] = super().clean() or self.cleaned_data
                if data.get("user") and data.get("patient") and not self.errors:
                    try:
                        check_assignment(
                            data["user"],
                            data["patient"],
                            reason=data["reason"],
                            by=request.user,  # type: ignore[arg-type]
                            ends_at=data["ends_at"],
                        )
                    except (UserVisibleError, PermissionDenied) as error:
                        raise forms.ValidationError(str(error)) from None
                return data

        return AssignmentForm

    def save_model(self, request: HttpRequest, obj: CareAssignment, form: forms.ModelForm, change: bool) -> None:
        made = assign(obj.user, obj.patient, reason=obj.reason, by=request.user, ends_at=obj.ends_at)  # type: ignore[arg-type]
        obj.pk = made.pk

    @admin.action(description="End the selected assignments now", permissions=["view"])
    def end_now(self, request: HttpRequest, queryset: QuerySet[CareAssignment]) -> None:
        """End them through the service."""
        for row in queryset.select_related("user", "patient"):
            unassign(row.user, row.patient, by=request.user)  # type: ignore[arg-type]
            sync_permission(row.user, row.patient)
        messages.success(request, "The assignments were ended.")


@admin.register(Order)
class OrderAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Orders without their numbers."""

    list_display = ("id", "patient", "status", "priority", "procedure_text", "requested_at", "source", "peer")
    list_filter = ("status", "priority", "source", "peer")
    search_fields = ("patient__pseudonym",)
    list_select_related = ("patient",)
    fields = (
        "id",
        "patient",
        "status",
        "priority",
        "procedure_code",
        "procedure_text",
        "requested_at",
        "source",
        "peer",
    )


@admin.register(ClinicalDocument)
class ClinicalDocumentAdmin(PatientsOnlyMixin, ReadOnlyAdmin):
    """Documents: what they are and whether they could be read."""

    list_display = ("id", "patient", "type_text", "authored_on", "content_type", "state", "state_reason")
    list_filter = ("state", "type_code", "content_type")
    search_fields = ("patient__pseudonym",)
    list_select_related = ("patient",)
    fields = ("id", "patient", "type_code", "type_text", "authored_on", "content_type", "state", "state_reason")
    actions = ("read_again",)

    @admin.action(description="Try to read the selected unreadable documents again", permissions=["view"])
    def read_again(self, request: HttpRequest, queryset: QuerySet[ClinicalDocument]) -> None:
        """Set them back to received; the job follows."""
        count = 0
        for row in queryset:
            with transaction.atomic():
                if not DOCUMENT_MACHINE.apply(ClinicalDocument.objects.filter(pk=row.pk), "retry"):
                    continue
                emit(DOCUMENT_ARRIVED, subject=f"document:{row.pk}", document_id=row.pk)
                count += 1
        messages.success(request, f"{count} document(s) will be read again.")


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    """What staff were told, and who saw it."""

    list_display = ("created_at", "kind", "message", "for_role", "seen_at", "seen_by")
    list_filter = ("kind", "for_role")
    list_select_related = ("seen_by",)
