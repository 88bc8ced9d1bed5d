"""What is made from a study: volumes on one grid, segmentations, measurements, comparisons."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from imaging.models.archive import OBJECT, MrSequence, Series, Study
from imaging.schemas.assessed import REGIONS_NOT_ASSESSED
from imaging.schemas.comparison import COMPARISON
from imaging.schemas.measurement import ANATOMY, LESIONS, REGIONS
from imaging.schemas.outline import MADE_BY
from imaging.schemas.volumes import MATRIX, QUALITY, SHAPE, SPACING, TRANSFORM, VOLUME_PARAMETERS
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.schema_field import schema_field

__all__ = ["Comparison", "Measurement", "OutlineAcceptance", "Segmentation", "SegmentationKind", "Volume", "VolumeSet"]


class SegmentationKind(models.TextChoices):
    """Who made a segmentation."""

    EXPERT = "expert", "one expert of the panel"
    CONSENSUS = "consensus", "the panel's consensus"
    PERSON = "person", "a person"
    IMPORT = "import", "imported"


class VolumeSet(models.Model):
    """The volumes of one preparation of a study, all on one grid (RAS, mm)."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="volume_sets")
    version = models.PositiveIntegerField(default=1)
    affine = schema_field(MATRIX, help_text="4 x 4, voxel index (x, y, z) to RAS mm.")
    shape = schema_field(SHAPE, help_text="[x, y, z] voxels.")
    spacing = schema_field(SPACING, help_text="[x, y, z] mm.")
    parameters = schema_field(VOLUME_PARAMETERS, default=dict, blank=True)
    brain_mask = models.ForeignKey(OBJECT, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["study", "-version"]
        constraints = [models.UniqueConstraint(fields=["study", "version"], name="volumeset_version")]

    def __str__(self) -> str:
        return f"volumes {self.version} of study {self.study_id}"


class Volume(models.Model):
    """One sequence resampled on the grid of its set, as NIfTI."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    volume_set = models.ForeignKey(VolumeSet, on_delete=models.CASCADE, related_name="volumes")
    sequence = models.CharField(max_length=10, choices=MrSequence.choices)
    object = models.ForeignKey(OBJECT, on_delete=models.PROTECT, related_name="+")
    sha256 = models.CharField(max_length=64)
    source_series = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="volumes")
    source_sha256 = models.CharField(
        max_length=64, blank=True, default="", db_index=True, help_text="Of the source's voxels in RAS order."
    )
    transform = schema_field(TRANSFORM, null=True, blank=True, help_text="Rigid transform found, and how.")
    quality = schema_field(QUALITY, default=dict, blank=True)

    class Meta:
        ordering = ["volume_set", "sequence"]
        constraints = [models.UniqueConstraint(fields=["volume_set", "sequence"], name="volume_sequence")]

    def __str__(self) -> str:
        return f"{self.sequence} of {self.volume_set_id}"


class Segmentation(models.Model):
    """A label map (uint8: 0, 1 NCR, 2 ED, 3 ET) on the grid of a volume set. Never changed; a correction is a new row."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="segmentations")
    volume_set = models.ForeignKey(VolumeSet, on_delete=models.PROTECT, related_name="segmentations")
    kind = models.CharField(max_length=10, choices=SegmentationKind.choices)
    version = models.PositiveIntegerField(default=1, help_text="Counts within the study.")
    author = models.CharField(max_length=150, help_text="Expert or user name; never a patient's.")
    model = schema_field(MADE_BY, null=True, blank=True, help_text="Name, version and hash of what made it.")
    labels = models.ForeignKey(OBJECT, on_delete=models.PROTECT, related_name="+")
    probability = models.ForeignKey(OBJECT, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="corrections")
    edited = models.BooleanField(default=False, help_text="A person changed its parent; else drawn or brought anew.")
    reason = models.CharField(max_length=300, blank=True, default="")
    not_assessed = schema_field(
        REGIONS_NOT_ASSESSED,
        default=dict,
        blank=True,
        help_text="Region -> why it says nothing about it; a region that is not named is assessed.",
    )
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["study", "-version"]
        constraints = [models.UniqueConstraint(fields=["study", "version"], name="segmentation_version")]

    def __str__(self) -> str:
        return f"{self.kind} segmentation {self.version} of study {self.study_id}"


class OutlineAcceptance(models.Model):
    """A person stands by an outline as it is: whoever signed a report that rests on it. Written once."""

    segmentation = models.OneToOneField(Segmentation, on_delete=models.PROTECT, related_name="acceptance")
    accepted_by = models.CharField(max_length=150, help_text="User name.")
    accepted_at = models.DateTimeField(default=now)

    def __str__(self) -> str:
        return f"acceptance of segmentation {self.segmentation_id}"


class Measurement(models.Model):
    """Region volumes, diameters and lesions of one segmentation (`imaging.schemas.measurement`)."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="measurements")
    segmentation = models.ForeignKey(Segmentation, on_delete=models.PROTECT, related_name="measurements")
    regions = schema_field(REGIONS)
    lesions = schema_field(LESIONS, default=list, blank=True)
    highest_lesion = models.PositiveIntegerField(default=0, help_text="The highest number of its lesions: 3 of L3.")
    anatomy = schema_field(ANATOMY, default=dict, blank=True, help_text="Midline shift and what it stands on.")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["study", "-created_at", "-id"]

    def __str__(self) -> str:
        return f"measurement {self.id}"


class Comparison(models.Model):
    """A measurement against an earlier study's; without a prior it is the baseline."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="comparisons")
    measurement = models.ForeignKey(Measurement, on_delete=models.PROTECT, related_name="comparisons")
    prior_study = models.ForeignKey(Study, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    prior_measurement = models.ForeignKey(
        Measurement, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    result = schema_field(COMPARISON)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["study", "-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["measurement", "prior_measurement"], name="comparison_pair"),
            models.UniqueConstraint(
                fields=["measurement"], condition=Q(prior_measurement__isnull=True), name="comparison_baseline"
            ),
        ]

    def __str__(self) -> str:
        return f"comparison {self.id}"
