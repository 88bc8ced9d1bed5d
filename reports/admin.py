"""Administration pages of the reports room: read only; nothing here shows identity or key material."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from oncoflow_site.foundation.admin import ReadOnlyAdmin
from reports.models import CertificateAuthority, PersonalKey, Report, ReportVersion, SealKey, SigningAttempt


class VersionInline(admin.TabularInline):
    """The versions of a report."""

    model = ReportVersion
    fk_name = "report"
    fields = ("number", "status", "band", "signature_kind", "signer", "signed_at", "issued_at", "pdf_sha256")
    readonly_fields = fields
    ordering = ("-number",)
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody adds here."""
        return False


@admin.register(Report)
class ReportAdmin(ReadOnlyAdmin):
    """Reports by state."""

    list_display = ("id", "patient", "state", "state_reason", "created_at", "updated_at")
    list_filter = ("state", "created_at")
    list_select_related = ("patient",)
    search_fields = ("id__exact", "study__id__exact", "patient__pseudonym")
    date_hierarchy = "created_at"
    inlines = (VersionInline,)


@admin.register(ReportVersion)
class ReportVersionAdmin(ReadOnlyAdmin):
    """Versions with their hashes."""

    list_display = ("report", "number", "status", "band", "signature_kind", "signer", "issued_at")
    list_filter = ("status", "signature_kind", "band")
    list_select_related = ("report", "signer")
    search_fields = ("id__exact", "report__id__exact", "pdf_sha256", "content_sha256")


@admin.register(CertificateAuthority)
class CertificateAuthorityAdmin(ReadOnlyAdmin):
    """The authority; its key is never shown."""

    list_display = ("common_name", "demo", "created_at", "revoked_at")
    exclude = ("private_key",)


@admin.register(SealKey)
class SealKeyAdmin(ReadOnlyAdmin):
    """The organisation's seal; its key is never shown."""

    list_display = ("common_name", "authority", "created_at", "revoked_at")
    exclude = ("private_key",)


@admin.register(PersonalKey)
class PersonalKeyAdmin(ReadOnlyAdmin):
    """Who has a signing key; the locked key is never shown."""

    list_display = ("common_name", "user", "created_at", "revoked_at")
    list_filter = ("revoked_at",)
    search_fields = ("common_name", "user__username")
    exclude = ("encrypted_private_key",)


@admin.register(SigningAttempt)
class SigningAttemptAdmin(ReadOnlyAdmin):
    """Tries to open a signing key."""

    list_display = ("user", "succeeded", "attempted_at", "report")
    list_filter = ("succeeded", "attempted_at")
