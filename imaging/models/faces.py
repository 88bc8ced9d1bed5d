"""Faces taken off heads: the copies of images that show none, and which series have no such copies and why."""

from __future__ import annotations

from django.db import models

from imaging.models.archive import OBJECT, Instance, Series
from imaging.models.results import VolumeSet
from oncoflow_site.foundation.clock import now

__all__ = ["DefacedInstance", "FaceRemoval"]


class DefacedInstance(models.Model):
    """The de-identified copy of an instance with the face at the image's lowest value; the brain mask that told it."""

    id = models.BigAutoField(primary_key=True)
    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="defaced")
    volume_set = models.ForeignKey(VolumeSet, on_delete=models.PROTECT, related_name="+")
    object = models.ForeignKey(OBJECT, on_delete=models.PROTECT, related_name="+")
    voxels = models.BigIntegerField(default=0, help_text="How many were set to the lowest value.")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["instance"]

    def __str__(self) -> str:
        return f"defaced {self.instance_id}"


class FaceRemoval(models.Model):
    """What became of one series when faces were taken off: copies without a face, or the reason why it is held back."""

    id = models.BigAutoField(primary_key=True)
    series = models.OneToOneField(Series, on_delete=models.CASCADE, related_name="face_removal")
    volume_set = models.ForeignKey(VolumeSet, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    removed = models.BooleanField()
    reason = models.CharField(max_length=200, blank=True, default="", help_text="Why it is held back; no identity.")
    instances = models.PositiveIntegerField(default=0)
    voxels = models.BigIntegerField(default=0, help_text="Set to the lowest value, in all instances.")
    plane = models.JSONField(default=dict, help_text="normal (RAS) and offset_mm in the space of the volume set.")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["series"]

    def __str__(self) -> str:
        return f"face of series {self.series_id}"
