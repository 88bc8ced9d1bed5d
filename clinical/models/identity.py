"""Whose is it: assigning authorities, identities that contradict each other, and merges of patients."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from clinical.models.patients import Patient
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.machines import StateMachine

__all__ = [
    "CONFLICT_MACHINE",
    "MERGE_MACHINE",
    "AssigningAuthority",
    "ConflictState",
    "IdentityConflict",
    "MergeState",
    "MergedRecord",
    "PatientMerge",
]


def _medical_record_number() -> list[str]:
    return ["MR"]


class AssigningAuthority(models.Model):
    """Who gives out patient numbers (HL7 v2 CX.4), under every name that senders use for it.

    The hospital's own (``ONCOFLOW_ASSIGNING_AUTHORITY``) is known without a row; a row of its name adds to it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(
        max_length=200, unique=True, help_text="CX.4.1, the namespace id, as this service keeps it."
    )
    universal_id = models.CharField(
        max_length=255, blank=True, default="", help_text="CX.4.2, e.g. an OID: 1.2.840.113619."
    )
    system = models.CharField(max_length=255, blank=True, default="", help_text="FHIR identifier system (URI).")
    other_names = models.JSONField(
        default=list, blank=True, help_text="Further namespace ids or universal ids that mean this authority."
    )
    matching_types = models.JSONField(
        default=_medical_record_number,
        blank=True,
        help_text="HL7 table 0203 codes of the numbers by which a patient is recognised; any other number is kept as an "
        "attribute and recognises nobody.",
    )
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "assigning authorities"
        constraints = [
            models.UniqueConstraint(
                fields=["universal_id"], name="authority_universal_id", condition=~Q(universal_id="")
            ),
            models.UniqueConstraint(fields=["system"], name="authority_system", condition=~Q(system="")),
        ]

    def __str__(self) -> str:
        return self.name


class ConflictState(models.TextChoices):
    """Where a contradiction of identities stands."""

    OPEN = "open", "waits for a person"
    SAME = "same", "the same person"
    OTHER = "other", "another person"


CONFLICT_MACHINE = StateMachine(
    name="identity conflict",
    states=tuple(ConflictState.values),
    table={
        ("open", "same"): "same",
        ("open", "other"): "other",
        ("same", "reopen"): "open",
        ("other", "reopen"): "open",
    },
)


@CONFLICT_MACHINE.governs("state")
class IdentityConflict(models.Model):
    """An identity that a known number matches and that name, birth date or sex contradict, or that carries the numbers of
    two patients. Nothing is matched until a person has decided.

    ``ciphertext`` is the identity as it came, under a data key of its own: until somebody has decided it is nobody's.
    ``fingerprint`` is a keyed hash of that identity: the same contradiction again is the same row.
    """

    class Kind(models.TextChoices):
        """What contradicts what."""

        CONTRADICTION = "contradiction", "name, birth date or sex contradict"
        NUMBERS = "numbers", "numbers of two patients"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=13, choices=Kind.choices)
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="identity_conflicts")
    other_patient = models.ForeignKey(
        Patient, null=True, blank=True, on_delete=models.CASCADE, related_name="identity_conflicts_as_other"
    )
    contradicts = models.JSONField(default=list, help_text="name, birth_date, sex")
    fingerprint = models.CharField(max_length=64, unique=True, editable=False)
    ciphertext = models.BinaryField(editable=False)
    source = models.CharField(max_length=20, help_text="mllp, fhir, dicom, web or command")
    sender = models.CharField(max_length=150, blank=True, default="", help_text="Which connected system sent it.")
    state = models.CharField(max_length=5, choices=ConflictState.choices, default=ConflictState.OPEN)
    take_over = models.BooleanField(default=False, help_text="Same person: what came replaces what was known.")
    reason = models.CharField(max_length=300, blank=True, default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(
        "clinical.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="identity_decisions"
    )
    times = models.PositiveIntegerField(default=1, help_text="How often it came.")
    created_at = models.DateTimeField(default=now)
    last_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["state", "created_at"], name="identity_conflict_state")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.id}"

    @property
    def key_subject(self) -> str:
        """Name of the data key that encrypts the identity as it came."""
        return f"identity-conflict:{self.id}"


class MergeState(models.TextChoices):
    """Where a merge stands."""

    REQUESTED = "requested", "waits for a second person"
    MERGED = "merged", "merged"
    REFUSED = "refused", "refused"
    UNMERGED = "unmerged", "taken back"


MERGE_MACHINE = StateMachine(
    name="patient merge",
    states=tuple(MergeState.values),
    table={
        ("requested", "merge"): "merged",
        ("requested", "refuse"): "refused",
        ("merged", "unmerge"): "unmerged",
    },
)


@MERGE_MACHINE.governs("state")
class PatientMerge(models.Model):
    """One merge of two records of one person: ``prior`` into ``survivor`` (HL7 v2.5.1 section 3.6.2: MRG into PID)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    survivor = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="merges_survived")
    prior = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="merges_as_prior")
    state = models.CharField(max_length=9, choices=MergeState.choices, default=MergeState.REQUESTED)
    contradicts = models.JSONField(default=list, help_text="name, birth_date, sex: what spoke against it")
    source = models.CharField(max_length=20, help_text="mllp, web or command")
    sender = models.CharField(max_length=150, blank=True, default="", help_text="Which connected system asked for it.")
    reason = models.CharField(max_length=300, blank=True, default="")
    requested_by = models.ForeignKey(
        "clinical.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="merges_requested"
    )
    requested_at = models.DateTimeField(default=now)
    decided_by = models.ForeignKey(
        "clinical.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="merges_decided"
    )
    merged_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.ForeignKey(
        "clinical.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="merges_ended"
    )
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Refused or taken back.")
    end_reason = models.CharField(max_length=300, blank=True, default="")

    class Meta:
        ordering = ["-requested_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(survivor=models.F("prior")), name="merge_of_two"),
            models.UniqueConstraint(
                fields=["prior"], name="merge_prior_once", condition=Q(state__in=["requested", "merged"])
            ),
        ]
        indexes = [models.Index(fields=["state", "requested_at"], name="merge_state")]

    def __str__(self) -> str:
        return f"{self.prior} into {self.survivor}: {self.get_state_display()}"


class MergedRecord(models.Model):
    """One row that a merge moved to the survivor: what an unmerge gives back."""

    id = models.BigAutoField(primary_key=True)
    merge = models.ForeignKey(PatientMerge, on_delete=models.CASCADE, related_name="records")
    model = models.CharField(max_length=60, help_text="Django's label, e.g. clinical.Order")
    record_id = models.CharField(max_length=36)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["merge", "model", "record_id"], name="merged_record_once")]
        indexes = [models.Index(fields=["model", "record_id"], name="merged_record_of")]

    def __str__(self) -> str:
        return f"{self.model} {self.record_id}"
