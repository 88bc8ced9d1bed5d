"""What depends on volume sets or on one outline alone: computed once, kept, read by everything that comes after.

None of these rows is ever changed. What computes them counts its version up when its answers change; rows of another version
are not read.
"""

from __future__ import annotations

from django.db import models

from imaging.models.results import Segmentation, VolumeSet
from imaging.schemas.measurement import MIDLINE_SHIFT, REGIONS
from imaging.schemas.volumes import MATRIX, MIDLINE, QUALITY
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.schema_field import schema_field

__all__ = ["Alignment", "Anatomy", "Volumetry"]


class Alignment(models.Model):
    """Where the head of one volume set lies in another of the same patient: `imaging.preprocessing.rigid.Registration`."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    fixed = models.ForeignKey(VolumeSet, on_delete=models.CASCADE, related_name="alignments")
    moving = models.ForeignKey(VolumeSet, on_delete=models.CASCADE, related_name="+")
    version = models.PositiveSmallIntegerField(help_text="Of the registration.")
    matrix = schema_field(MATRIX, help_text="4 x 4, RAS mm of the fixed images to RAS mm of the moving ones.")
    converged = models.BooleanField()
    reason = models.CharField(max_length=300, blank=True, default="", help_text="Why it did not converge.")
    method = models.CharField(max_length=100)
    quality = schema_field(QUALITY, default=dict, blank=True)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["fixed", "moving", "version"], name="alignment_once")]

    def __str__(self) -> str:
        return f"alignment of {self.fixed_id} with {self.moving_id}"


class Anatomy(models.Model):
    """MNI152 and the midline on the T1 of a volume set: `imaging.measurement.midline_shift.Midline`, no tumour considered."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    volume_set = models.ForeignKey(VolumeSet, on_delete=models.CASCADE, related_name="anatomies")
    version = models.PositiveSmallIntegerField(help_text="Of the search.")
    midline = schema_field(MIDLINE)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "anatomies"
        constraints = [models.UniqueConstraint(fields=["volume_set", "version"], name="anatomy_once")]

    def __str__(self) -> str:
        return f"anatomy of {self.volume_set_id}"


class Volumetry(models.Model):
    """Volumes, diameters and midline shift of one outline. `Measurement` adds what other dates say of its lesions."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    segmentation = models.OneToOneField(Segmentation, on_delete=models.PROTECT, related_name="volumetry")
    regions = schema_field(REGIONS)
    midline_shift = schema_field(MIDLINE_SHIFT)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "volumetries"

    def __str__(self) -> str:
        return f"volumetry of {self.segmentation_id}"
