"""Volumes, outlines, measurements and comparisons on the administration pages: to be read."""

from __future__ import annotations

from django.contrib import admin

from imaging.admin.base import PatientRowsAdmin
from imaging.models import Comparison, Measurement, Segmentation, Volume, VolumeSet


@admin.register(VolumeSet)
class VolumeSetAdmin(PatientRowsAdmin):
    """Preparations of studies."""

    list_display = ["created_at", "study", "version", "shape", "spacing"]
    search_fields = ["id", "study__id"]


@admin.register(Volume)
class VolumeAdmin(PatientRowsAdmin):
    """Volumes of preparations, with registration quality."""

    patient_lookup = "volume_set__study__patient"
    list_display = ["volume_set", "sequence", "quality"]
    list_filter = ["sequence"]
    search_fields = ["id", "volume_set__study__id"]


@admin.register(Segmentation)
class SegmentationAdmin(PatientRowsAdmin):
    """Label maps: who made them, from what."""

    list_display = ["created_at", "study", "version", "kind", "author", "reason"]
    list_filter = ["kind", "author"]
    search_fields = ["id", "study__id"]


@admin.register(Measurement)
class MeasurementAdmin(PatientRowsAdmin):
    """Measured regions and lesions."""

    list_display = ["created_at", "study", "segmentation"]
    search_fields = ["id", "study__id"]


@admin.register(Comparison)
class ComparisonAdmin(PatientRowsAdmin):
    """Comparisons over time."""

    list_display = ["created_at", "study", "prior_study", "category"]
    search_fields = ["id", "study__id"]

    @admin.display(description="response")
    def category(self, row: Comparison) -> str:
        """Response category, or that it was not assessed."""
        return row.result.response.category
