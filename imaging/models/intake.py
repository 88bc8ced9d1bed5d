"""Files that were found in a watched folder or bucket: one row for each name and version, so that none is taken twice."""

from __future__ import annotations

import os

from django.db import models

from oncoflow_site.foundation import keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine

__all__ = ["INTAKE_MACHINE", "IntakeFile", "IntakeState"]

_SUBJECT = "intake"


class IntakeState(models.TextChoices):
    """What became of a file."""

    SEEN = "seen", "its job will file it"
    DONE = "done", "filed, or here already"
    REFUSED = "refused", "cannot be filed; the reason lies beside it"
    GONE = "gone", "taken away or replaced before it was read"


INTAKE_MACHINE = StateMachine(
    name="intake file",
    states=tuple(IntakeState.values),
    table={
        ("seen", "finish"): "done",
        ("seen", "refuse"): "refused",
        ("seen", "vanish"): "gone",
    },
)


@INTAKE_MACHINE.governs("state")
class IntakeFile(models.Model):
    """One version of one file. Its name is somebody else's and may name a patient: ``ciphertext``, found by a keyed hash."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    version_index = models.CharField(
        max_length=64, unique=True, help_text="Keyed hash of name and ETag; the row's own id once that may come again."
    )
    ciphertext = models.BinaryField()
    etag = models.CharField(max_length=128)
    size = models.BigIntegerField()
    batch = models.UUIDField(db_index=True, help_text="Files of one batch are filed by one job.")
    state = models.CharField(max_length=8, choices=IntakeState.choices, default=IntakeState.SEEN)
    reason = models.CharField(max_length=300, blank=True, default="", help_text="Why it was refused; no identity.")
    created_at = models.DateTimeField(default=now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return f"intake file {self.id} ({self.state})"

    @staticmethod
    def index_of(name: str, etag: str) -> str:
        """`version_index` of a file."""
        return keys.keyed_hash("intake-version", os.fsencode(name) + b"\0" + etag.encode()).hex()

    @staticmethod
    def seal_name(name: str) -> bytes:
        """``ciphertext`` for a name."""
        return keys.encrypt(_SUBJECT, os.fsencode(name), "name")

    @property
    def name(self) -> str:
        """Its name in the store."""
        return os.fsdecode(keys.decrypt(_SUBJECT, bytes(self.ciphertext), "name"))
