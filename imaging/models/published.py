"""What the DICOMweb door offers: an index over de-identified instances and our own objects. Derived, can be made again."""

from __future__ import annotations

from django.db import models

from imaging.models.archive import OBJECT, Instance, Study
from imaging.models.results import Segmentation
from oncoflow_site.foundation.clock import now

__all__ = ["PublishedInstance"]


class PublishedInstance(models.Model):
    """One SOP instance as it is offered: either the de-identified copy of a received one, or an object of ours.

    Every UID, date and text in it is that of the de-identified data set. ``ciphertext`` is the whole header as DICOM JSON
    (PS3.18 Annex F), compressed and encrypted, so that the metadata of a series is read without opening its files.
    """

    id = models.BigAutoField(primary_key=True)  # rising: the smallest of a series stands for the series
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="published")
    instance = models.OneToOneField(Instance, null=True, blank=True, on_delete=models.CASCADE, related_name="published")
    segmentation = models.OneToOneField(
        Segmentation, null=True, blank=True, on_delete=models.CASCADE, related_name="published"
    )
    object = models.ForeignKey(OBJECT, on_delete=models.PROTECT, related_name="+")
    series_instance_uid = models.CharField(max_length=64, db_index=True)
    sop_instance_uid = models.CharField(max_length=64, unique=True)
    sop_class_uid = models.CharField(max_length=64)
    transfer_syntax_uid = models.CharField(max_length=64)
    modality = models.CharField(max_length=16)
    study_date = models.CharField(max_length=8, blank=True, default="", help_text="Study Date, shifted.")
    series_number = models.IntegerField(null=True, blank=True)
    number = models.IntegerField(null=True, blank=True, help_text="Instance Number (0020,0013).")
    frames = models.PositiveIntegerField(default=0, help_text="0: no pixel data.")
    layout = models.JSONField(default=dict, help_text="Where the pixels lie in the file; bytes.")
    ciphertext = models.BinaryField()
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["study", "series_number", "series_instance_uid", "number", "id"]
        indexes = [
            models.Index(fields=["study", "series_instance_uid", "number"], name="published_series"),
            models.Index(fields=["study_date", "study"], name="published_date"),
        ]
        constraints = [
            models.CheckConstraint(
                name="published_has_one_origin",
                condition=models.Q(instance__isnull=False, segmentation__isnull=True)
                | models.Q(instance__isnull=True, segmentation__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"published {self.pk} of study {self.study_id}"
