"""Studies, series and instances as they arrive, and who may send them.

Everything that names a patient is in ``ciphertext`` fields (encrypted with the patient's data key) or in stored objects;
the rest of a row may be logged. UIDs as sent are found again by a keyed hash (``uid_index``).
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models

from imaging.states import STUDY_MACHINE, StudyState
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.machines import StateMachine

__all__ = [
    "INSTANCE_MACHINE",
    "OBJECT",
    "DicomPeer",
    "Instance",
    "InstanceState",
    "MrSequence",
    "PriorsBy",
    "QuarantinedInstance",
    "Series",
    "Study",
    "StudyPurpose",
    "StudySource",
]

OBJECT = "foundation.StoredObject"


class StudySource(models.TextChoices):
    """Through which door a study came in."""

    DICOM = "dicom", "DICOM C-STORE"
    STOW = "stow", "DICOMweb STOW-RS"
    INGEST = "ingest", "DICOM files, read by command"
    UPLOAD = "upload", "DICOM files, brought in on the web or over REST"
    WATCHED = "watched", "DICOM files, from a watched folder or bucket"
    NIFTI = "nifti", "NIfTI files"


class MrSequence(models.TextChoices):
    """What an MRI series shows."""

    T1 = "T1", "T1-weighted"
    T1C = "T1c", "T1-weighted with contrast agent"
    T2 = "T2", "T2-weighted"
    FLAIR = "FLAIR", "T2-FLAIR"
    OTHER = "other", "another kind (localizer, diffusion, susceptibility, derived)"
    UNKNOWN = "unknown", "not recognised"


class InstanceState(models.TextChoices):
    """``quarantined`` instances are kept, encrypted, and never reach a model or a viewer."""

    RECEIVED = "received"
    DEIDENTIFIED = "deidentified"
    QUARANTINED = "quarantined"


INSTANCE_MACHINE = StateMachine(
    name="instance",
    states=tuple(InstanceState.values),
    table={
        ("received", "deidentify"): "deidentified",
        ("received", "quarantine"): "quarantined",
        ("quarantined", "release"): "received",  # a person looked at its pixels: there is no text in them
        ("quarantined", "discard"): "quarantined",  # `discarded_at` says when; until it is deleted it can be released
    },
)


class StudyPurpose(models.TextChoices):
    """Why a study is here. A report is made of what was sent to be read, not of what we fetched to compare with."""

    READ = "read", "sent to be read"
    PRIOR = "prior", "an earlier study, fetched for comparison: no report of its own unless an order asks for it"


class PriorsBy(models.TextChoices):
    """How a PACS is asked for a patient's earlier studies."""

    NONE = "", "not asked"
    DIMSE = "dimse", "C-FIND and C-MOVE"
    DICOMWEB = "dicomweb", "QIDO-RS and WADO-RS"


class DicomPeer(models.Model):
    """A DICOM application entity that may open an association with us. No row, no association.

    ``host`` and ``port`` are where we reach it: for the report of a storage commitment, and as the PACS that has priors.
    ``credential`` is encrypted with a data key of the peer's own.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    ae_title = models.CharField(max_length=16, unique=True, help_text="Calling AE title (PS3.8 section 9.3.2).")
    host = models.CharField(max_length=255, blank=True, default="")
    port = models.PositiveIntegerField(null=True, blank=True)
    check_host = models.BooleanField(default=False, help_text="Refuse associations from any address but host's.")
    tls = models.BooleanField(default=False, help_text="We call it with TLS.")
    priors = models.CharField(
        max_length=8,
        choices=PriorsBy.choices,
        blank=True,
        default=PriorsBy.NONE,
        help_text="How it is asked for a patient's earlier studies when an order arrives.",
    )
    dicomweb_url = models.URLField(max_length=300, blank=True, default="", help_text="Base address of its DICOMweb.")
    credential = models.BinaryField(blank=True, default=b"", editable=False, help_text="Encrypted HTTP Authorization.")
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["ae_title"]
        verbose_name = "DICOM peer"

    def __str__(self) -> str:
        return self.ae_title

    @property
    def key_subject(self) -> str:
        """Whose data key encrypts ``credential``."""
        return f"dicom-peer:{self.pk}"


@STUDY_MACHINE.governs("state")
class Study(models.Model):
    """One DICOM study (or one date of NIfTI files) of one patient; at most one order.

    ``ciphertext`` holds `imaging.identifiers.StudyIdentity`. ``performed_at`` is the true moment, aware. ``key_subject`` names
    the data key of all that belongs to the study: that of the patient under whom it came, whomever they are merged into.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    patient = models.ForeignKey("clinical.Patient", on_delete=models.PROTECT, related_name="studies")
    order = models.ForeignKey("clinical.Order", null=True, blank=True, on_delete=models.PROTECT, related_name="studies")
    unsolicited = models.BooleanField(default=False, help_text="Looked for its order and found none.")
    state = models.CharField(max_length=12, choices=StudyState.choices, default=StudyState.RECEIVING, db_index=True)
    uid_index = models.CharField(max_length=64, unique=True, help_text="Keyed hash of the Study Instance UID.")
    accession_index = models.CharField(max_length=64, blank=True, default="", db_index=True)
    deidentified_uid = models.CharField(max_length=64, unique=True)
    ciphertext = models.BinaryField()
    key_subject = models.CharField(max_length=60, default="", editable=False)
    performed_at = models.DateTimeField(db_index=True)
    performed_on_day = models.BooleanField(
        default=False, help_text="Only the day is known: the time of performed_at is noon and is never shown."
    )
    modality = models.CharField(max_length=16, default="MR")
    expected_instances = models.PositiveIntegerField(null=True, blank=True)
    spacing_known = models.BooleanField(default=True, help_text="False: no millimetre is computed from it.")
    source = models.CharField(max_length=10, choices=StudySource.choices, default=StudySource.DICOM)
    purpose = models.CharField(max_length=5, choices=StudyPurpose.choices, default=StudyPurpose.READ)
    deidentification = models.JSONField(
        default=dict, blank=True, help_text="Profile, codes and counts of what was done."
    )
    generation = models.PositiveIntegerField(default=1, help_text="Grows each time a late instance reopens it.")
    created_at = models.DateTimeField(default=now)
    last_received_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-performed_at", "-id"]
        verbose_name_plural = "studies"
        indexes = [models.Index(fields=["patient", "performed_at"], name="study_patient_date")]

    def __str__(self) -> str:
        return f"study {self.id} ({self.state})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; a new study takes its patient's key."""
        self.key_subject = self.key_subject or self.patient.key_subject
        super().save(*args, **kwargs)

    @property
    def subject(self) -> str:
        """Name used as subject of jobs and events."""
        return f"study:{self.id}"

    @property
    def open_findings(self) -> list[Any]:
        """What is wrong with it now (`StudyFinding`), the heaviest first, then in the order in which it was found."""
        heaviest = ("stops", "warning", "note")
        rows = [row for row in self.findings.all() if row.cleared_at is None]
        return sorted(rows, key=lambda row: heaviest.index(row.severity))

    @property
    def flag_code(self) -> str:
        """Code of the heaviest open finding; empty where there is none."""
        return next((row.code for row in self.open_findings), "")

    @property
    def flag_message(self) -> str:
        """Its sentence."""
        return next((row.message for row in self.open_findings), "")

    @property
    def to_be_reported(self) -> bool:
        """Whether a report is made of it: not of an earlier study that we fetched, unless an order asks for that."""
        return self.purpose != StudyPurpose.PRIOR or self.order_id is not None


class Series(models.Model):
    """One DICOM series, or one NIfTI file. ``ciphertext`` holds `imaging.identifiers.SeriesIdentity`."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="series")
    uid_index = models.CharField(max_length=64, unique=True, help_text="Keyed hash of the Series Instance UID.")
    deidentified_uid = models.CharField(max_length=64, unique=True)
    modality = models.CharField(max_length=16, default="MR")
    number = models.IntegerField(null=True, blank=True, help_text="Series Number (0020,0011).")
    sequence = models.CharField(max_length=10, choices=MrSequence.choices, default=MrSequence.UNKNOWN)
    sequence_confidence = models.FloatField(default=0.0, help_text="0 to 1.")
    sequence_reason = models.CharField(max_length=500, blank=True, default="")
    overridden_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    description = models.CharField(max_length=200, blank=True, default="", help_text="Cleaned by the allow-list.")
    parameters = models.JSONField(default=dict, blank=True, help_text="Acquisition facts used for recognition.")
    protocol = models.JSONField(default=dict, blank=True, help_text="What tells its protocol.")
    ciphertext = models.BinaryField()
    nifti = models.ForeignKey(OBJECT, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["study", "number", "created_at"]
        verbose_name_plural = "series"

    def __str__(self) -> str:
        return f"series {self.id} ({self.sequence})"


@INSTANCE_MACHINE.governs("state")
class Instance(models.Model):
    """One SOP instance: the bytes as received (a DICOM file, encrypted) and the de-identified copy.

    ``uid_index`` is empty for an instance whose UID an other content already holds (``conflicts_with``).
    ``ciphertext`` holds the SOP Instance UID as sent, the way back for SEG and SR.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, null=True, blank=True, on_delete=models.PROTECT, related_name="instances")
    series = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="instances")
    uid_index = models.CharField(max_length=64, unique=True, null=True, blank=True)
    conflicts_with = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="conflicts"
    )
    sop_class_uid = models.CharField(max_length=64)
    transfer_syntax_uid = models.CharField(max_length=64)
    number = models.IntegerField(null=True, blank=True, help_text="Instance Number (0020,0013).")
    original = models.ForeignKey(OBJECT, on_delete=models.PROTECT, related_name="+")
    sha256 = models.CharField(max_length=64, help_text="Of the file as stored on arrival.")
    content_sha256 = models.CharField(max_length=64, help_text="Of the data set without preamble and file meta.")
    canonical_sha256 = models.CharField(
        max_length=64,
        blank=True,
        default="",
        help_text="Of the canonical form, pixels decoded; computed when its UID comes again with other bytes.",
    )
    deidentified = models.ForeignKey(OBJECT, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    image = models.JSONField(
        null=True, blank=True, help_text="Place and pixels of the de-identified copy; empty: its file must be read."
    )
    state = models.CharField(max_length=12, choices=InstanceState.choices, default=InstanceState.RECEIVED)
    reason = models.CharField(max_length=300, blank=True, default="", help_text="Why it is quarantined; no identity.")
    identity_conflict = models.ForeignKey(
        "clinical.IdentityConflict",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="What a person must decide before it can be filed.",
    )
    discarded_at = models.DateTimeField(null=True, blank=True, help_text="Quarantined only: deleted some days later.")
    peer = models.CharField(max_length=64, blank=True, default="", help_text="Who sent it.")
    ciphertext = models.BinaryField(default=b"")
    received_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["series", "number", "id"]
        indexes = [
            models.Index(fields=["state", "received_at"], name="instance_state"),
            models.Index(fields=["study", "state"], name="instance_study_state"),
        ]

    def __str__(self) -> str:
        return f"instance {self.id} ({self.state})"


class QuarantinedInstance(Instance):
    """The instances in quarantine, as a list of their own for the PACS administrator."""

    class Meta:
        proxy = True
        ordering = ["-received_at"]
        verbose_name = "instance in quarantine"
        verbose_name_plural = "quarantine"
