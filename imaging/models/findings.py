"""What is wrong with a study, or worth knowing before one relies on it: one row for each thing, never one flag for all."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from imaging.models.archive import Study
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id

__all__ = ["FindingSeverity", "StudyFinding"]


class FindingSeverity(models.TextChoices):
    """How much it weighs, the heaviest first."""

    STOPS = "stops", "the study goes no further"
    WARNING = "warning", "a person has to look"
    NOTE = "note", "to be known"


class StudyFinding(models.Model):
    """One thing about one study, from when it was raised until it was cleared. Rows are kept."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="findings")
    code = models.CharField(max_length=50, help_text="A short stable name.")
    severity = models.CharField(max_length=7, choices=FindingSeverity.choices)
    message = models.CharField(max_length=500, help_text="A sentence for a radiologist, free of identity.")
    raised_by = models.CharField(max_length=50, help_text="The step that found it.")
    raised_at = models.DateTimeField(default=now)
    cleared_by = models.CharField(max_length=150, blank=True, default="", help_text="The step or the person.")
    cleared_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["raised_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["study", "code"], condition=Q(cleared_at__isnull=True), name="finding_open_once"
            ),
            models.CheckConstraint(
                condition=Q(cleared_at__isnull=True, cleared_by="") | (Q(cleared_at__isnull=False) & ~Q(cleared_by="")),
                name="finding_cleared_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} ({self.severity})"
