"""Background entry points of what DICOMweb offers. Each re-reads its rows, checks their state and may run twice."""

from __future__ import annotations

from imaging.models import Study
from oncoflow_site.foundation.jobs import JobContext, job

# What does the work is imported when it is done: highdicom takes a while, and most processes know these jobs by name.

__all__ = ["deface_study", "publish_segmentations", "publish_study"]


@job("imaging.publish_study", queue="default", lease_s=120)
def publish_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: de-identified instances. After: those that may be shown are offered through DICOMweb."""
    from imaging.dicomweb import publish

    publish.publish_study(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.deface_study", queue="default", lease_s=120)
def deface_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: volumes, or a flag. After: with ONCOFLOW_DEFACE on, copies without faces (event study.defaced), or why not."""
    from imaging.deidentification import faces

    faces.deface_study(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.publish_segmentations", queue="default", lease_s=120)
def publish_segmentations(ctx: JobContext, *, study_id: str) -> None:
    """Before: a segmentation that counts. After: it is a DICOM object, offered through DICOMweb."""
    from imaging import dicomseg

    dicomseg.publish_segmentations(ctx, Study.objects.select_related("patient").get(pk=study_id))
