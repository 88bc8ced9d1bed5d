"""What people said that the series of a scanner's protocol show. Holds nothing of a patient."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from imaging.models.archive import MrSequence
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id

__all__ = ["ProtocolRule"]


class ProtocolRule(models.Model):
    """A person's answer, kept for the next study of that protocol (see `imaging.recognition.learned_protocols`)."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    key = models.CharField(max_length=64, db_index=True, help_text="SHA-256 of the protocol's words and kinds.")
    protocol = models.JSONField(help_text="Its words (cleaned), kinds and numbers: what a series must match.")
    sequence = models.CharField(max_length=10, choices=MrSequence.choices)
    said_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    said_at = models.DateTimeField(default=now)
    used = models.PositiveIntegerField(default=0, help_text="Series that were named by it.")

    class Meta:
        ordering = ["-said_at", "-id"]

    def __str__(self) -> str:
        return f"protocol {' '.join(self.protocol.get('words', []))[:60] or self.key[:12]} shows {self.sequence}"
