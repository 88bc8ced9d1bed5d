"""What de-identification did to a study, and who looked at pixels that no machine could clear."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from imaging.models.archive import Instance, Study
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_id

__all__ = ["DeidentificationReport", "PixelRelease"]


class DeidentificationReport(models.Model):
    """What was done to which attribute of a study's instances, without any value. One row a profile and table edition.

    ``attributes`` lists ``[tag, VR, action, count]`` with the tag as eight hexadecimal digits and the action as in
    `imaging.deidentification.profile.ACTIONS`; ``pixels`` counts what the pixels were: pass, ocr, released, quarantine.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="deidentification_reports")
    profile = models.CharField(max_length=64)
    edition = models.CharField(max_length=32, help_text="Of PS3.15 Table E.1-1.")
    codes = models.JSONField(default=list, help_text="CID 7050 codes that any instance carries.")
    instances = models.PositiveIntegerField(default=0)
    attributes = models.JSONField(default=list)
    pixels = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=now)
    updated_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["study", "profile", "edition"], name="one_report_a_profile_and_edition")
        ]

    def __str__(self) -> str:
        return f"de-identification of study {self.study_id} ({self.edition})"


class PixelRelease(models.Model):
    """A person looked at a quarantined image and says that there is no text in it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="pixel_release")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=300)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"release of instance {self.instance_id}"
