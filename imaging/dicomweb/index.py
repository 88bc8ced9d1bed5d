"""Filling the index of the DICOMweb door. Idempotent; only de-identified instances and our own objects get in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from django.conf import settings
from django.db.models import F, Q

from imaging.archive.filing_header import integer
from imaging.dicomweb.dicom_json import Published, Unpublishable, published_from, read_published
from imaging.models import Instance, InstanceState, PublishedInstance, Study
from oncoflow_site.foundation import keys, objects
from oncoflow_site.foundation.errors import required

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from imaging.dicom.written_file import WrittenFile
    from imaging.models import Segmentation
    from oncoflow_site.foundation.jobs import JobContext
    from oncoflow_site.foundation.models import StoredObject

__all__ = ["headers_json", "offered", "publish_object", "publish_study"]

_CONTEXT = "published-header"
BATCH = 16


def publish_study(ctx: JobContext, study: Study) -> int:
    """Put every de-identified instance of ``study`` into the index that is not there, or there with an older copy.

    With ``ONCOFLOW_DEFACE`` that is the copy without a face; what has none is not offered.

    :returns: how many were written by this call.
    """
    copy = "defaced__object" if settings.ONCOFLOW_DEFACE else "deidentified"
    waiting = (
        Instance.objects.filter(study=study, state=InstanceState.DEIDENTIFIED, **{f"{copy}__isnull": False})
        .filter(Q(published__isnull=True) | ~Q(published__object=F(copy)))
        .select_related("deidentified", "defaced__object")
        .order_by("series", "number", "id")
    )
    rows = [(one, one.defaced.object if settings.ONCOFLOW_DEFACE else one.deidentified) for one in waiting]
    for begin in range(0, len(rows), BATCH):
        read = []
        for row, copy_object in rows[begin : begin + BATCH]:
            stored = required(copy_object, "the object of a de-identified image")
            try:
                read.append((row, stored, read_published(objects.get(stored))))
            except Unpublishable:
                continue  # kept, used for volumes, not offered: there is no header to offer
        with ctx.commit():
            for row, stored, published in read:
                publish_object(study, stored, published, instance=row)
        ctx.progress((begin + len(read)) / len(rows), "Offering the images to viewers")
    return len(rows)


def offered(file: WrittenFile, header: Dataset) -> Callable[[Study, Instance, StoredObject], object] | None:
    """For a copy that was just made: what puts it into the index in the transaction that keeps it, read while it is in memory.

    None where it is not offered: with ``ONCOFLOW_DEFACE`` (the copy without a face will be), or without a readable header.
    """
    if settings.ONCOFLOW_DEFACE:
        return None
    try:
        published = published_from(file, header)
    except Unpublishable:
        return None
    return lambda study, instance, stored: publish_object(study, stored, published, instance=instance)


def publish_object(
    study: Study,
    stored: StoredObject,
    published: Published,
    *,
    instance: Instance | None = None,
    segmentation: Segmentation | None = None,
) -> PublishedInstance | None:
    """Write or renew one row of the index, inside the caller's transaction.

    :returns: None where another object holds the SOP Instance UID already: ours, come back from the PACS.
    """
    header = published.dataset
    uid = str(header.SOPInstanceUID)
    holder = PublishedInstance.objects.filter(sop_instance_uid=uid).first()
    mine = (
        holder is not None
        and holder.instance_id == getattr(instance, "pk", None)
        and holder.segmentation_id == getattr(segmentation, "pk", None)
    )
    if holder is not None and not mine:
        return None
    packed = zlib.compress(published.json.encode(), 6)
    values = {
        "object": stored,
        "series_instance_uid": str(header.SeriesInstanceUID),
        "sop_class_uid": str(header.SOPClassUID),
        "transfer_syntax_uid": published.transfer_syntax_uid,
        "modality": str(header.get("Modality") or "OT")[:16],
        "study_date": str(header.get("StudyDate") or "")[:8],
        "series_number": integer(header.get("SeriesNumber")),
        "number": integer(header.get("InstanceNumber")),
        "frames": published.frames,
        "layout": published.layout,
        "ciphertext": keys.encrypt(stored.subject, packed, _CONTEXT),
    }
    row, _ = PublishedInstance.objects.update_or_create(
        sop_instance_uid=uid, defaults={"study": study, "instance": instance, "segmentation": segmentation, **values}
    )
    return row


def headers_json(rows: Iterable[PublishedInstance]) -> list[str]:
    """The DICOM JSON object of each row's header, with one look at the keys. Select ``object`` with the rows."""
    wanted = [(row.object.subject, bytes(row.ciphertext), _CONTEXT) for row in rows]
    return [zlib.decompress(packed).decode() for packed in keys.decrypt_many(wanted)]
