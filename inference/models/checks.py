"""What the checks of a study's volumes found: computed once for a volume set, read by every panel on it."""

from __future__ import annotations

from django.db import models

from imaging.models import VolumeSet
from inference.schemas.checks import CHECKS
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.schema_field import schema_field

__all__ = ["StudyChecks"]


class StudyChecks(models.Model):
    """Plausibility, and the numbers that a distribution judges. Never changed; another version of the checks is a new row."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    volume_set = models.ForeignKey(VolumeSet, on_delete=models.CASCADE, related_name="checks")
    version = models.PositiveSmallIntegerField(help_text="Of the checks.")
    found = schema_field(CHECKS)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "study checks"
        constraints = [models.UniqueConstraint(fields=["volume_set", "version"], name="study_checks_once")]

    def __str__(self) -> str:
        return f"checks of {self.volume_set_id}"
