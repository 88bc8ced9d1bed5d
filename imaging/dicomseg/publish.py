"""Our segmentations as stored DICOM objects, offered through DICOMweb beside the images they were drawn on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit import services as audit
from imaging.dicomseg.encode import Identity, NotEncodable, encode
from imaging.dicomweb.dicom_json import read_published
from imaging.dicomweb.index import publish_object
from imaging.models import SegmentationKind, Study
from oncoflow_site.foundation import objects

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["publish_segmentations"]

# What counts, or counted once. An expert's own outline is shown on the study's page and is nobody's result.
KINDS = (SegmentationKind.CONSENSUS, SegmentationKind.PERSON, SegmentationKind.IMPORT)


def publish_segmentations(ctx: JobContext, study: Study) -> int:
    """Make and store the objects of ``study`` that are missing. Idempotent; the UIDs follow from the segmentation.

    :returns: how many were made by this call.
    """
    made = 0
    waiting = study.segmentations.filter(kind__in=KINDS, published__isnull=True).order_by("version")
    for segmentation in waiting.select_related("volume_set", "study__patient", "labels", "parent"):
        ctx.progress(0.1, "Writing the segmentation as DICOM")
        try:
            data = encode(segmentation, Identity.DEIDENTIFIED)
        except NotEncodable:
            continue  # nothing outlined, or no images to refer to: there is no object, and the report says which
        read = read_published(data)
        stored = objects.write(data, subject=study.key_subject, kind="dicom-seg", content_type="application/dicom")
        with ctx.commit():
            objects.keep(stored)
            if publish_object(study, stored, read, segmentation=segmentation) is None:
                objects.delete(stored)  # another attempt was faster, or the object came back from a PACS
                continue
            audit.record(
                "segmentation.publish",
                action="C",
                resource=study.subject,
                patient_id=study.patient_id,
                detail={"segmentation": segmentation.pk, "version": segmentation.version},
                source="worker",
            )
        made += 1
    return made
