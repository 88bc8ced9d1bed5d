"""What the administration pages of imaging have in common: they are read, and show no identity, pixels or ciphertext."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from clinical.access import patients_for

__all__ = ["HIDDEN", "ReadOnlyAdmin"]

HIDDEN: tuple[str, ...] = ("ciphertext", "uid_index", "accession_index")


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows of the patients that this person may see (superusers: all, under pseudonyms); written by services only."""

    patient_lookup = "study__patient"
    list_per_page = 50
    exclude = HIDDEN

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """Every field but the hidden ones."""
        return [field.name for field in self.model._meta.fields if field.name not in HIDDEN]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Filtered to the patients of the person."""
        rows = super().get_queryset(request)
        if getattr(request.user, "is_superuser", False):
            return rows
        return rows.filter(**{f"{self.patient_lookup}__in": patients_for(request.user)})

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False
