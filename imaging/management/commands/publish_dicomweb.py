"""Queue what DICOMweb should offer and does not yet; with ``ONCOFLOW_DEFACE``, the copies without faces first."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import transaction

from imaging.models import Study, StudySource
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import enqueue


class Command(BaseCommand):
    """For studies that were received before DICOMweb existed here, or whose index is to be looked through again."""

    help = "Queue publishing to DICOMweb for every study that came as DICOM. Does nothing twice."

    def handle(self, *args: Any, **options: Any) -> None:
        """Queue the jobs."""
        count, stamp = 0, now().isoformat()
        # The copies without faces first: their job leads to publishing.
        first = "imaging.deface_study" if settings.ONCOFLOW_DEFACE else "imaging.publish_study"
        studies = Study.objects.exclude(source=StudySource.NIFTI).order_by("created_at")
        for study in studies.only("id").iterator():
            with transaction.atomic():
                for kind in (first, "imaging.publish_segmentations"):
                    enqueue(
                        kind,
                        subject=study.subject,
                        key=f"{kind}:{study.pk}:{stamp}",
                        kwargs={"study_id": str(study.pk)},
                    )
            count += 1
        self.stdout.write(f"{count} studies queued.")
