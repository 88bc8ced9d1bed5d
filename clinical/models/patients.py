"""Patients under their pseudonyms, the encrypted identity beside them, and who may see whom."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime

from django.db import models
from django.db.models import Q
from guardian.models import GroupObjectPermissionBase, UserObjectPermissionBase

from oncoflow_site.foundation.clock import now

__all__ = [
    "CareAssignment",
    "Patient",
    "PatientGroupPermission",
    "PatientIdentifier",
    "PatientIdentity",
    "PatientIndex",
    "PatientUserPermission",
    "new_pseudonym",
]

# Crockford's base 32: no I, L, O or U, so that a pseudonym can be read out loud.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_pseudonym() -> str:
    """A random label such as ``OF-7K3M-9QXA-2B`` (50 bits). It is drawn, not computed from anything."""
    drawn = "".join(secrets.choice(_ALPHABET) for _ in range(10))
    return f"OF-{drawn[:4]}-{drawn[4:8]}-{drawn[8:]}"


class Patient(models.Model):
    """A patient, known by a pseudonym.

    ``provisional``: made from an order or an image, and nobody has confirmed yet who it is. The hospital's registration
    confirms, or a person (`clinical.patients.confirming`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pseudonym = models.CharField(max_length=20, unique=True, default=new_pseudonym, editable=False)
    provisional = models.BooleanField(default=False)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    confirmed_by = models.ForeignKey(
        "clinical.User",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="identities_confirmed",
        help_text="Empty where a connected system's registration confirmed it.",
    )
    merged_into = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="merged_from")
    created_at = models.DateTimeField(default=now)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["pseudonym"]
        permissions = [("access_patient", "May see this patient")]

    def __str__(self) -> str:
        return self.pseudonym

    @property
    def key_subject(self) -> str:
        """Name of the data key that encrypts everything belonging to this patient."""
        return f"patient:{self.id}"


class PatientIdentity(models.Model):
    """The encrypted `clinical.identity.IdentityData` of one patient."""

    patient = models.OneToOneField(Patient, primary_key=True, on_delete=models.CASCADE, related_name="identity")
    ciphertext = models.BinaryField()
    as_of = models.DateTimeField(
        null=True, blank=True, help_text="When its source recorded it (EVN-2, MSH-7): an older message changes nothing."
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "patient identities"

    def __str__(self) -> str:
        return str(self.patient_id)


class PatientIdentifier(models.Model):
    """A patient's number, as a blind index under its assigning authority (HL7 v2 PID-3 CX.4 and CX.5).

    ``matches``: of a configured type and authority, so that it recognises its one patient. Any other number (insurance,
    social security, account) is an attribute that several people may share.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="identifiers")
    authority = models.CharField(max_length=200, help_text="Assigning authority.")
    kind = models.CharField(max_length=20, default="MR", help_text="HL7 table 0203 code.")
    blind_index = models.CharField(max_length=64)
    matches = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["authority", "kind", "blind_index"], name="patient_identifier_unique", condition=Q(matches=True)
            ),
            models.UniqueConstraint(
                fields=["patient", "authority", "kind", "blind_index"], name="patient_attribute_unique"
            ),
        ]
        indexes = [models.Index(fields=["authority", "kind", "blind_index"], name="patient_number")]

    def __str__(self) -> str:
        return f"{self.authority} {self.kind}"


class PatientIndex(models.Model):
    """Blind indexes for look-up by name and birth date; anything finer is decrypted among the patients one may see."""

    class Kind(models.TextChoices):
        """What was hashed."""

        FAMILY = "family", "normalised family name"
        FAMILY3 = "family3", "its first three letters"
        BIRTH_DATE = "birth_date", "birth date"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="indexes")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    value = models.CharField(max_length=64)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["patient", "kind", "value"], name="patient_index_unique")]
        indexes = [models.Index(fields=["kind", "value"], name="patient_index_value")]
        verbose_name_plural = "patient indexes"

    def __str__(self) -> str:
        return self.kind


class CareAssignmentQuerySet(models.QuerySet["CareAssignment"]):
    """Assignments."""

    def current(self, at: datetime | None = None) -> CareAssignmentQuerySet:
        """Those that have begun and not ended at ``at`` (now)."""
        at = at or now()
        return self.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=at), starts_at__lte=at)


class CareAssignment(models.Model):
    """A member of staff is on a patient's care team for a time. This is the truth; the guardian row follows from it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="assignments")
    user = models.ForeignKey("clinical.User", on_delete=models.CASCADE, related_name="assignments")
    starts_at = models.DateTimeField(default=now)
    ends_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    emergency = models.BooleanField(default=False, help_text="Opened by break-glass.")
    created_by = models.ForeignKey(
        "clinical.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="assignments_made"
    )
    created_at = models.DateTimeField(default=now)

    objects = CareAssignmentQuerySet.as_manager()

    class Meta:
        ordering = ["-starts_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ends_at__isnull=True) | Q(ends_at__gte=models.F("starts_at")),
                name="assignment_ends_after_start",
            )
        ]
        indexes = [models.Index(fields=["user", "ends_at"], name="assignment_current")]

    def __str__(self) -> str:
        return f"{self.user_id} on {self.patient_id}"


class PatientUserPermission(UserObjectPermissionBase):
    """Guardian's row for one person and one patient. Written by `clinical.access` only."""

    content_object = models.ForeignKey(Patient, on_delete=models.CASCADE)

    class Meta(UserObjectPermissionBase.Meta):
        verbose_name = "patient permission"


class PatientGroupPermission(GroupObjectPermissionBase):
    """Guardian looks for this table; it stays empty, because care teams are made of people."""

    content_object = models.ForeignKey(Patient, on_delete=models.CASCADE)

    class Meta(GroupObjectPermissionBase.Meta):
        verbose_name = "patient group permission"
