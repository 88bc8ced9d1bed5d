"""What is agreed with other DICOM nodes: storage we promised to keep, earlier studies we asked for."""

from __future__ import annotations

from typing import Any

from django.db import models

from imaging.models.archive import DicomPeer, Study
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine

__all__ = ["COMMITMENT_MACHINE", "PRIOR_MACHINE", "CommitmentRequest", "CommitmentState", "PriorState", "PriorStudy"]


class CommitmentState(models.TextChoices):
    """``reported``: the peer has taken our answer. ``failed``: it could not be told; asked again it will be."""

    WAITING = "waiting"
    REPORTED = "reported"
    FAILED = "failed"


COMMITMENT_MACHINE = StateMachine(
    name="storage commitment",
    states=tuple(CommitmentState.values),
    table={
        ("waiting", "report"): "reported",
        ("waiting", "fail"): "failed",
        # the same Transaction UID again
        ("waiting", "ask"): "waiting",
        ("reported", "ask"): "waiting",
        ("failed", "ask"): "waiting",
    },
)


@COMMITMENT_MACHINE.governs("state")
class CommitmentRequest(models.Model):
    """One request for storage commitment (PS3.4 Annex J). ``ciphertext`` holds `imaging.dimse.storage_commitment.Requested`."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    peer = models.ForeignKey(DicomPeer, on_delete=models.CASCADE, related_name="commitments")
    transaction_index = models.CharField(max_length=64, help_text="Keyed hash of the Transaction UID.")
    ciphertext = models.BinaryField()
    state = models.CharField(max_length=8, choices=CommitmentState.choices, default=CommitmentState.WAITING)
    asked = models.PositiveIntegerField(help_text="Instances asked about.")
    failed = models.PositiveIntegerField(null=True, blank=True, help_text="Of these, how many we could not commit to.")
    times = models.PositiveIntegerField(default=1, help_text="How often it was asked.")
    created_at = models.DateTimeField(default=now)
    reported_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["peer", "transaction_index"], name="commitment_transaction")]

    def __str__(self) -> str:
        return f"storage commitment {self.id} ({self.state})"


class PriorState(models.TextChoices):
    """``held``: all of it is here. ``partial``: the PACS could not give all that it announced."""

    WANTED = "wanted"
    HELD = "held"
    PARTIAL = "partial"


PRIOR_MACHINE = StateMachine(
    name="prior study",
    states=tuple(PriorState.values),
    table={
        ("wanted", "hold"): "held",
        ("partial", "hold"): "held",
        ("wanted", "stop"): "partial",
        ("partial", "stop"): "partial",
    },
)


@PRIOR_MACHINE.governs("state")
class PriorStudy(models.Model):
    """An earlier study that a PACS says it has of a patient, and that we asked for.

    What arrives under its UID is filed only under ``patient``. ``ciphertext`` holds `imaging.priors.fetch.WantedPrior`.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    patient = models.ForeignKey("clinical.Patient", on_delete=models.PROTECT, related_name="+")
    order = models.ForeignKey("clinical.Order", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    peer = models.ForeignKey(DicomPeer, on_delete=models.CASCADE, related_name="priors_asked_for")
    study = models.ForeignKey(Study, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    uid_index = models.CharField(max_length=64, unique=True, help_text="Keyed hash of the Study Instance UID.")
    ciphertext = models.BinaryField()
    key_subject = models.CharField(max_length=60, default="", editable=False)
    expected_instances = models.PositiveIntegerField(null=True, blank=True)
    state = models.CharField(max_length=7, choices=PriorState.choices, default=PriorState.WANTED)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "prior studies"

    def __str__(self) -> str:
        return f"prior {self.id} ({self.state})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; a new row takes its patient's key, and keeps it whomever the patient is merged into."""
        self.key_subject = self.key_subject or self.patient.key_subject
        super().save(*args, **kwargs)
