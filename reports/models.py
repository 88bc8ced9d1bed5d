"""Reports, their immutable versions, and the keys that sign them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.ids import new_id
from reports.states import REPORT_MACHINE, VERSION_MACHINE, ReportState, VersionStatus

__all__ = [
    "CertificateAuthority",
    "PersonalKey",
    "Report",
    "ReportVersion",
    "SealKey",
    "SignatureKind",
    "SigningAttempt",
]


class SignatureKind(models.TextChoices):
    """Who vouches for a PDF: nobody, the organisation's seal (a machine), or a person."""

    NONE = "none", "not signed"
    SEAL = "seal", "sealed by the organisation, not read by a radiologist"
    PERSON = "person", "signed by a person"


@REPORT_MACHINE.governs("state")
class Report(models.Model):
    """The report of one study: a chain of versions. ``state`` follows `reports.states.REPORT_MACHINE`."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.OneToOneField("imaging.Study", on_delete=models.PROTECT, related_name="report")
    patient = models.ForeignKey("clinical.Patient", on_delete=models.PROTECT, related_name="reports")
    order = models.ForeignKey("clinical.Order", null=True, blank=True, on_delete=models.PROTECT, related_name="reports")
    state = models.CharField(max_length=12, choices=ReportState.choices, default=ReportState.DRAFTING)
    state_reason = models.TextField(
        blank=True, default="", help_text="Why it is held: a sentence a line, the one that decided first; no identity."
    )
    created_at = models.DateTimeField(default=now)
    updated_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"report {self.id} {self.state}"

    @property
    def subject(self) -> str:
        """Subject string of jobs, events and audit rows about this report."""
        return f"report:{self.id}"


@VERSION_MACHINE.governs("status")
class ReportVersion(models.Model):
    """One version of a report. Immutable once ``issued_at`` is set, here and by a trigger in the database.

    ``content`` is the canonical JSON of `reports.lifecycle.assemble`; ``content_sha256`` and ``pdf_sha256`` are the hashes of the
    exact bytes. ``draft_key`` is a hash over everything the draft was made from, so that the same facts make no second
    version.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    report = models.ForeignKey(Report, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=12, choices=VersionStatus.choices, default=VersionStatus.DRAFT)
    draft_key = models.CharField(max_length=64, help_text="SHA-256 over the inputs of the draft.")
    content = models.ForeignKey("foundation.StoredObject", on_delete=models.PROTECT, related_name="+")
    content_sha256 = models.CharField(max_length=64)
    pdf = models.ForeignKey(
        "foundation.StoredObject", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    pdf_sha256 = models.CharField(max_length=64, blank=True, default="")
    signature_kind = models.CharField(max_length=8, choices=SignatureKind.choices, default=SignatureKind.NONE)
    signer = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="signed_versions"
    )
    signed_at = models.DateTimeField(null=True, blank=True)
    certificate_fingerprint = models.CharField(
        max_length=64, blank=True, default="", help_text="SHA-256 of the signing certificate (DER), hexadecimal."
    )
    supersedes = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="superseded_by"
    )
    band = models.CharField(max_length=8, blank=True, default="", help_text="Gate: issue, hold, manual.")
    measurement = models.ForeignKey(
        "imaging.Measurement", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    panel_run = models.ForeignKey(
        "inference.PanelRun", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(default=now)
    issued_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["report", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["report", "number"], name="report_version_number"),
            models.CheckConstraint(
                condition=Q(status__in=["preliminary", "final", "amended"], issued_at__isnull=False, pdf__isnull=False)
                | Q(status__in=["draft", "held", "superseded"], issued_at__isnull=True),
                name="report_version_issued_has_pdf",
            ),
            models.CheckConstraint(
                condition=Q(signature_kind="person", signer__isnull=False) | ~Q(signature_kind="person"),
                name="report_version_person_has_signer",
            ),
        ]

    def __str__(self) -> str:
        return f"report {self.report_id} version {self.number} {self.status}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Write the row; raises `IllegalMove` when the stored row has been issued already."""
        stored = not self._state.adding and type(self).objects.filter(pk=self.pk, issued_at__isnull=False).exists()
        if stored:
            raise IllegalMove(f"version {self.number} of report {self.report_id} is issued and cannot change")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Versions are kept; always raises `IllegalMove`."""
        raise IllegalMove("versions of reports are never deleted")

    @property
    def issued(self) -> bool:
        """True when this version has been sent out and can no longer change."""
        return self.issued_at is not None


class CertificateAuthority(models.Model):
    """The certificate authority this installation issues signing certificates from.

    ``private_key`` is PKCS#8 DER encrypted by `oncoflow_site.foundation.keys` under the subject ``signing``. It is a
    demonstration authority: a hospital replaces it by certificates from its own.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    common_name = models.CharField(max_length=200)
    certificate = models.TextField(help_text="PEM.")
    private_key = models.BinaryField()
    demo = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "certificate authorities"
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=Q(revoked_at__isnull=True), name="one_active_certificate_authority"
            ),
        ]

    def __str__(self) -> str:
        return self.common_name


class SealKey(models.Model):
    """The organisation's seal: what a machine signs preliminary reports with. ``private_key`` as in the authority."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    authority = models.ForeignKey(CertificateAuthority, on_delete=models.PROTECT, related_name="seals")
    common_name = models.CharField(max_length=200)
    certificate = models.TextField(help_text="PEM.")
    private_key = models.BinaryField()
    created_at = models.DateTimeField(default=now)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(models.Value(1), condition=Q(revoked_at__isnull=True), name="one_active_seal"),
        ]

    def __str__(self) -> str:
        return self.common_name


class PersonalKey(models.Model):
    """A person's own signing key.

    ``encrypted_private_key`` is PKCS#8 PEM encrypted with a password that only this person knows (PBES2, scrypt); the
    service cannot sign without it.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="personal_keys")
    authority = models.ForeignKey(CertificateAuthority, on_delete=models.PROTECT, related_name="personal_keys")
    common_name = models.CharField(max_length=200)
    certificate = models.TextField(help_text="PEM.")
    encrypted_private_key = models.TextField(help_text="PKCS#8 PEM, encrypted with the person's password.")
    created_at = models.DateTimeField(default=now)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["user"], condition=Q(revoked_at__isnull=True), name="one_active_personal_key"
            ),
        ]

    def __str__(self) -> str:
        return f"signing key of {self.common_name}"


class SigningAttempt(models.Model):
    """One try to unlock a personal key. Counted to slow down guessing; ``succeeded`` is set when the key opened."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="signing_attempts")
    report = models.ForeignKey(Report, on_delete=models.PROTECT, related_name="signing_attempts")
    succeeded = models.BooleanField(default=False)
    attempted_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-attempted_at"]
        indexes = [models.Index(fields=["user", "attempted_at"], name="signing_attempt_recent")]

    def __str__(self) -> str:
        return f"{'opened' if self.succeeded else 'refused'} {self.attempted_at:%Y-%m-%d %H:%M}"
