"""Files that somebody brings in, until they are filed: what was declared, what has arrived, what came of it.

Names of files and the declaration point at people: they are encrypted with the upload's own data key.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models

from imaging.models.archive import OBJECT, Study
from imaging.states import UPLOAD_MACHINE, UploadState
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id

__all__ = ["Upload", "UploadFile", "UploadPart"]


@UPLOAD_MACHINE.governs("state")
class Upload(models.Model):
    """Files that belong together under one declaration. Only its owner sees it.

    ``declaration`` holds an `imaging.intake.upload_declaration` and is emptied when the upload is done; ``notes`` a list of
    sentences that may show file names.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=10, choices=UploadState.choices, default=UploadState.RECEIVED)
    declaration = models.BinaryField(default=b"")
    notes = models.BinaryField(default=b"")
    counts = models.JSONField(default=dict, help_text="stored, duplicate, quarantined, refused, ignored")
    studies = models.ManyToManyField(Study, blank=True, related_name="+")
    code = models.CharField(max_length=50, blank=True, default="", help_text="Why it failed; the sentence is a note.")
    attempt = models.PositiveIntegerField(default=0, help_text="How often it was completed.")
    job = models.UUIDField(null=True, blank=True, help_text="The job that files it.")
    created_at = models.DateTimeField(default=now)
    expires_at = models.DateTimeField(help_text="Bytes that are not filed by then are deleted.")
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["state", "expires_at"], name="upload_state_expires")]

    def __str__(self) -> str:
        return f"upload {self.id} ({self.state})"

    @property
    def subject(self) -> str:
        """Subject of its job and events, and name of the data key that encrypts what it holds."""
        return f"upload:{self.id}"


class UploadFile(models.Model):
    """One file of an upload. ``ciphertext`` is its name as its sender called it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    upload = models.ForeignKey(Upload, on_delete=models.CASCADE, related_name="files")
    ciphertext = models.BinaryField()
    fingerprint = models.CharField(max_length=64, blank=True, default="", help_text="By which a client knows it again.")
    size = models.BigIntegerField(help_text="Bytes, as declared.")
    sha256 = models.CharField(max_length=64, blank=True, default="", help_text="As declared; checked before filing.")
    offset = models.BigIntegerField(default=0, help_text="Bytes that have arrived.")
    staged_name = models.CharField(max_length=120, blank=True, default="", help_text="In the staging store.")
    signed = models.BooleanField(default=False, help_text="It comes by a signed address, in one piece.")
    etag = models.CharField(max_length=128, blank=True, default="", help_text="Of the staged bytes when completed.")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return f"file {self.id}"


class UploadPart(models.Model):
    """Bytes of a file that one request brought, from ``offset``."""

    file = models.ForeignKey(UploadFile, on_delete=models.CASCADE, related_name="parts")
    offset = models.BigIntegerField()
    object = models.ForeignKey(OBJECT, on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["offset"]
        constraints = [models.UniqueConstraint(fields=["file", "offset"], name="upload_part_once")]

    def __str__(self) -> str:
        return f"part {self.pk}"
