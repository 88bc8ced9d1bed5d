"""DICOM peers and what is exchanged with them, on the administration pages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from imaging.admin.base import HIDDEN, PatientRowsAdmin
from imaging.models import CommitmentRequest, DicomPeer, PriorStudy


@admin.register(DicomPeer)
class DicomPeerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The allow-list of the DICOM door."""

    list_display = ["ae_title", "host", "port", "check_host", "tls", "priors", "active", "created_at"]
    list_filter = ["active", "priors", "tls"]
    search_fields = ["ae_title"]
    readonly_fields = ["created_at"]


@admin.register(PriorStudy)
class PriorStudyAdmin(PatientRowsAdmin):
    """Earlier studies that a PACS was asked for."""

    patient_lookup = "patient"
    list_display = ["created_at", "patient", "peer", "state", "expected_instances", "study", "order"]
    list_filter = ["state", "peer"]
    search_fields = ["id", "study__id", "patient__pseudonym"]
    list_select_related = ["patient", "peer", "study", "order"]


@admin.register(CommitmentRequest)
class CommitmentRequestAdmin(PatientRowsAdmin):
    """What peers asked us to keep, and when they were told."""

    list_display = ["created_at", "peer", "state", "asked", "failed", "times", "reported_at"]
    list_filter = ["state", "peer"]
    exclude = (*HIDDEN, "transaction_index")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows name no patient: whoever may see the list sees all of it."""
        return admin.ModelAdmin.get_queryset(self, request)
