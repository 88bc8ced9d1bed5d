"""The audit record. Rows are only ever added: the database itself refuses anything else (see the migrations)."""

from __future__ import annotations

from typing import Any

from django.db import models

from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError

__all__ = ["Action", "ActorType", "AppendOnlyError", "AuditRow", "Outcome"]


class AppendOnlyError(EngineError):
    """Somebody tried to change or remove an audit row."""


class ActorType(models.TextChoices):
    """Who acts: a signed-in person, another system, or this service itself."""

    USER = "user", "person"
    PEER = "peer", "other system"
    SYSTEM = "system", "this service"


class Action(models.TextChoices):
    """FHIR R4 AuditEvent.action."""

    CREATE = "C", "create"
    READ = "R", "read"
    UPDATE = "U", "update"
    DELETE = "D", "delete"
    EXECUTE = "E", "execute"


class Outcome(models.IntegerChoices):
    """FHIR R4 AuditEvent.outcome (DICOM PS3.15 section A.5, EventOutcomeIndicator)."""

    SUCCESS = 0, "success"
    MINOR_FAILURE = 4, "refused or failed"
    SERIOUS_FAILURE = 8, "serious failure"
    MAJOR_FAILURE = 12, "major failure"


class AuditQuerySet(models.QuerySet["AuditRow"]):
    """A query set that can add and read. The triggers refuse the rest too; this only gives the clearer message."""

    def update(self, **kwargs: Any) -> int:
        """Refused; raises `AppendOnlyError`."""
        raise AppendOnlyError("Audit rows cannot be changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        """Refused; raises `AppendOnlyError`."""
        raise AppendOnlyError("Audit rows cannot be removed.")


class AuditRow(models.Model):
    """One act. It names records by their ids and patients by their pseudonymous id, and holds no identity."""

    recorded = models.DateTimeField(default=now, db_index=True)
    actor_type = models.CharField(max_length=6, choices=ActorType.choices)
    actor_id = models.CharField(max_length=150, db_index=True, help_text="User id, peer name, or component name.")
    actor_role = models.CharField(max_length=30, blank=True, default="")
    action = models.CharField(max_length=1, choices=Action.choices)
    event = models.CharField(max_length=60, db_index=True, help_text="Declared code, e.g. report.sign.")
    resource = models.CharField(max_length=200, blank=True, default="", db_index=True, help_text="e.g. study:<uuid>")
    patient = models.UUIDField(null=True, blank=True, db_index=True, help_text="Pseudonymous id.")
    outcome = models.PositiveSmallIntegerField(choices=Outcome.choices, default=Outcome.SUCCESS)
    request_id = models.CharField(max_length=64, blank=True, default="")
    source = models.CharField(
        max_length=20, blank=True, default="", help_text="web, fhir, mllp, dicom, worker, command"
    )
    detail = models.JSONField(default=dict)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        permissions = [("read_audit", "May read the audit record")]
        indexes = [models.Index(fields=["patient", "recorded"], name="audit_patient_recorded")]

    def __str__(self) -> str:
        return f"{self.recorded:%Y-%m-%d %H:%M:%S} {self.event} {self.resource}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; raises `AppendOnlyError` for a row that exists already."""
        if not self._state.adding:
            raise AppendOnlyError("Audit rows cannot be changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Refused; raises `AppendOnlyError`."""
        raise AppendOnlyError("Audit rows cannot be removed.")
