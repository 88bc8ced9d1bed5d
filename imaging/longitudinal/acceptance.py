"""A person stands by an outline as the models made it: what is said of a change may rest on it from then on."""

from __future__ import annotations

from imaging.longitudinal.compare_study import JOB
from imaging.longitudinal.history import later_studies
from imaging.models import OutlineAcceptance, Segmentation
from imaging.segmentation.label_maps import current_segmentations
from oncoflow_site.foundation.jobs import enqueue

__all__ = ["accept_outline"]


def accept_outline(segmentation: Segmentation, *, by: str) -> None:
    """Record that the user ``by`` accepted the outline, and have later studies compared with it anew. In a transaction."""
    _, made = OutlineAcceptance.objects.get_or_create(segmentation=segmentation, defaults={"accepted_by": by})
    if not made:
        return
    later = list(later_studies(segmentation.study))
    outlined = current_segmentations(later)
    for row in later:
        if row.pk in outlined:
            key = f"compare:{row.pk}:accepted:{segmentation.pk}"
            enqueue(JOB, subject=row.subject, key=key, kwargs={"study_id": str(row.pk)})
