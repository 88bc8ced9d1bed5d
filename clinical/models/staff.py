"""Accounts of staff and connected systems, and what they are told."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from guardian.mixins import GuardianUserMixin

from clinical.roles import Role, can
from oncoflow_site.foundation.clock import now

if TYPE_CHECKING:
    from clinical.models.patients import Patient

__all__ = ["Notice", "User", "check_npi"]

_READS_AUDIT = ("audit.read_audit", "audit.view_auditrow")


def check_npi(value: str) -> None:
    """A National Provider Identifier: ten digits, the last one the Luhn check digit of ``80840`` and the other nine (45 CFR
    162.406). Raises `ValidationError`."""
    digits = [int(one) for one in f"80840{value}"] if value.isascii() and value.isdigit() and len(value) == 10 else []
    total = sum(one if place % 2 == 0 else sum(divmod(2 * one, 10)) for place, one in enumerate(reversed(digits)))
    if not digits or total % 10:
        raise ValidationError("An NPI has ten digits, the last of which is its check digit.", code="npi")


class User(GuardianUserMixin, AbstractUser):
    """An account. ``is_superuser`` opens the administration pages only; it is no way to a patient's record."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.CLINICIAN)
    npi = models.CharField(
        "NPI",
        max_length=10,
        blank=True,
        default="",
        validators=[check_npi],
        help_text="National Provider Identifier: named on reports that this person signs.",
    )
    employee_number = models.CharField(
        max_length=40, blank=True, default="", help_text="The hospital's own number of this person."
    )

    class Meta:
        ordering = ["username"]
        constraints = [models.UniqueConstraint(fields=["npi"], name="user_npi", condition=~Q(npi=""))]

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Django's answer, except where the role or the care team alone decides, whatever else the account is."""
        if perm.startswith("audit."):
            # Reading the record is a matter of role, whatever else the account is; changing it is nobody's.
            return perm in _READS_AUDIT and can(self, "read_audit")
        if perm == "clinical.access_patient":
            return obj is not None and self.is_active and self.assignments.current().filter(patient=obj).exists()
        return super().has_perm(perm, obj)

    @property
    def display_name(self) -> str:
        """Full name where there is one, else the username."""
        return self.get_full_name() or self.username


class Notice(models.Model):
    """Something staff should look at. The message holds no identity: it appears on lists."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=60, db_index=True, help_text="The event it tells of, e.g. report.held.")
    subject = models.CharField(max_length=200, db_index=True, help_text="e.g. study:<uuid>")
    message = models.CharField(max_length=300)
    patient: models.ForeignKey[Patient | None] = models.ForeignKey(  # type: ignore[assignment]
        "clinical.Patient", null=True, blank=True, on_delete=models.CASCADE, related_name="notices"
    )
    for_role = models.CharField(
        max_length=20, choices=Role.choices, blank=True, default="", help_text="Empty: everybody"
    )
    created_at = models.DateTimeField(default=now)
    seen_at = models.DateTimeField(null=True, blank=True)
    seen_by = models.ForeignKey(
        "clinical.User", null=True, blank=True, on_delete=models.SET_NULL, related_name="notices_seen"
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["seen_at", "created_at"], name="notice_unseen")]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"
