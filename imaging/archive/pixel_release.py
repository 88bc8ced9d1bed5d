"""A person looks at an image that no machine could clear, and releases it: there is no text in it."""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from django.core.exceptions import PermissionDenied
from django.db import transaction
from PIL import Image

from audit.services import Actor, record, record_refusal
from clinical.access import require_patient
from clinical.roles import can
from imaging.archive import completion
from imaging.deidentification.pixel_inspection import frames_of
from imaging.dicom.sop_classes import IMAGE_CLASSES
from imaging.models import INSTANCE_MACHINE, Instance, InstanceState, PixelRelease
from imaging.rendering.window import apply_range, grey_levels
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError

if TYPE_CHECKING:
    from clinical.models import User

__all__ = ["can_be_released", "picture", "release"]


def can_be_released(instance: Instance) -> bool:
    """Whether looking at it could clear it: a quarantined image that is filed in its series."""
    return (
        instance.state == InstanceState.QUARANTINED
        and instance.series_id is not None
        and instance.conflicts_with_id is None
        and instance.sop_class_uid in IMAGE_CLASSES
    )


def picture(instance: Instance, *, by: User, frame: int = 0) -> bytes:
    """One frame of a quarantined image as PNG, for the person who may release it. The look is recorded.

    :raises PermissionDenied: not theirs to see (recorded).
    :raises UserVisibleError: it is not waiting for anybody's look, or it has no such frame.
    """
    _allowed(instance, by, "pixels.look", "R")
    if not can_be_released(instance):
        raise UserVisibleError("This image is not one that waits for somebody to look at it.")
    try:
        pixels = next(islice(frames_of(objects.get(instance.original)), frame, None), None)
    except Exception as error:  # decoders raise anything, and their text may quote the data
        raise UserVisibleError("The pixels of this image cannot be decoded.") from error
    if pixels is None:
        raise UserVisibleError("This image has no such frame.")
    values = pixels.astype(np.float32)
    shown = grey_levels(apply_range(values, float(values.min()), float(values.max())))
    buffer = BytesIO()
    Image.fromarray(shown).save(buffer, "PNG")
    _record(instance, by, "pixels.look", "R", {"frame": frame})
    return buffer.getvalue()


def release(instance: Instance, *, by: User, reason: str) -> PixelRelease:
    """Release a quarantined image: ``by`` looked at it, and there is no text in it. Its study is prepared again.

    The image is de-identified like any other then, and declares 113101 and (0028,0301) NO, because somebody looked.

    :param reason: what was looked at; kept with the release, no identity belongs into it.
    :raises PermissionDenied: their role or the patient is not theirs (recorded).
    :raises UserVisibleError: no reason, or an instance that a look cannot clear.
    """
    _allowed(instance, by, "pixels.release", "U")
    reason = " ".join(reason.split())[:300]
    if not reason:
        raise UserVisibleError("A reason is needed.", what_to_do="Say what you looked at.")
    with transaction.atomic():
        locked = Instance.objects.select_for_update().get(pk=instance.pk)
        study_id = locked.study_id
        if study_id is None or not can_be_released(locked):
            raise UserVisibleError(
                "This image was not kept apart for its pixels, so looking at it cannot release it.",
                what_to_do="See the reason beside it; a conflict or an unreadable file has to be sent again.",
            )
        made, _ = PixelRelease.objects.update_or_create(instance=locked, defaults={"by": by, "reason": reason})
        INSTANCE_MACHINE.advance(locked, "release", reason="")
        completion.touch(study_id)
        _record(locked, by, "pixels.release", "U", {"release": str(made.pk)})
    instance.refresh_from_db()
    return made


def _allowed(instance: Instance, by: User, event: str, action: str) -> None:
    resource = f"instance:{instance.pk}"
    if not can(by, "release_image"):
        record_refusal(event, action=action, resource=resource, actor=Actor.user(by), detail={"why": "role"})
        raise PermissionDenied("Your role does not allow this.")
    if instance.study is None:
        raise UserVisibleError("This image belongs to no study yet.")
    require_patient(by, instance.study.patient_id, event=event, action=action, resource=resource)


def _record(instance: Instance, by: User, event: str, action: str, detail: dict[str, object]) -> None:
    record(
        event,
        action=action,
        resource=f"instance:{instance.pk}",
        patient_id=instance.study.patient_id if instance.study else None,
        actor=Actor.user(by),
        detail=detail,
    )
