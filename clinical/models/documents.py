"""Clinical documents: the original as it arrived and the text read from it, both encrypted."""

from __future__ import annotations

import uuid

from django.db import models

from clinical.models.patients import Patient
from oncoflow_site.foundation.clock import DatedMoment, Precision, now
from oncoflow_site.foundation.machines import StateMachine
from oncoflow_site.foundation.models import StoredObject

__all__ = ["DOCUMENT_MACHINE", "ClinicalDocument", "DocumentState"]


class DocumentState(models.TextChoices):
    """Whether the document's text could be read."""

    RECEIVED = "received", "received"
    READ = "read", "read"
    UNREADABLE = "unreadable", "unreadable"


DOCUMENT_MACHINE = StateMachine(
    name="document",
    states=tuple(DocumentState.values),
    table={
        ("received", "read"): "read",
        ("received", "refuse"): "unreadable",
        ("unreadable", "retry"): "received",
    },
)


@DOCUMENT_MACHINE.governs("state")
class ClinicalDocument(models.Model):
    """One document of one patient. Citations are byte offsets into ``text``, so a text once stored never changes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    patient = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="documents")
    type_code = models.CharField(max_length=20, blank=True, default="", help_text="LOINC code.")
    type_text = models.CharField(max_length=200, blank=True, default="")
    authored_on = models.DateTimeField(null=True, blank=True)
    authored_precision = models.CharField(
        max_length=5, default=Precision.TIME, choices=[(one.value, one.value) for one in Precision]
    )
    content_type = models.CharField(max_length=100)
    original = models.ForeignKey(StoredObject, on_delete=models.PROTECT, related_name="+")
    text = models.ForeignKey(StoredObject, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    text_sha256 = models.CharField(max_length=64, blank=True, default="", help_text="Of the UTF-8 text, hexadecimal.")
    source_index = models.CharField(max_length=64, unique=True, help_text="Blind index of sender's id and content.")
    state = models.CharField(max_length=10, choices=DocumentState.choices, default=DocumentState.RECEIVED)
    state_reason = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-authored_on", "-created_at"]
        indexes = [models.Index(fields=["patient", "state"], name="document_patient_state")]

    def __str__(self) -> str:
        return f"{self.type_text or self.type_code or 'document'} {self.id}"

    @property
    def authored(self) -> DatedMoment | None:
        """When it was written, as exactly as its sender said."""
        return DatedMoment(self.authored_on, Precision(self.authored_precision)) if self.authored_on else None
