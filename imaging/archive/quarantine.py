"""What a person does about an instance in quarantine: release it when its reason has gone, or discard it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import transaction

from audit import services as audit
from clinical.roles import can
from imaging.archive.filing_header import BadInstance
from imaging.archive.store_instance import StoredInstance, file_again
from imaging.identifiers import open_sop_instance_uid, uid_index
from imaging.models import INSTANCE_MACHINE, Instance, InstanceState
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import JobContext, enqueue

__all__ = ["discard", "file_waiting", "purge", "release"]

PURGE_JOB = "imaging.purge_discarded"
_STAYS = "It stays in quarantine: "


def release(instance: Instance, *, by: Any, reason: str) -> Instance:
    """File the instance anew, as if it came now. Its study is reopened by it, visibly, like by any late instance.

    :param reason: why, in the person's words; kept in the audit record, so it must name no patient.
    :returns: the instance that took its place.
    :raises UserVisibleError: what it was kept apart for still holds. :raises PermissionDenied: not this person's to do.
    """
    return _filed(instance, _checked(instance, by, reason))


def file_waiting(ctx: JobContext, conflict_id: uuid.UUID) -> None:
    """Before: a person has decided whose the images of this identity are. After: they are filed, or stay apart with the reason
    that stands."""
    waiting = Instance.objects.filter(
        identity_conflict=conflict_id, state=InstanceState.QUARANTINED, discarded_at__isnull=True
    )
    for instance in waiting.select_related("original", "study").order_by("received_at", "pk"):
        try:
            _filed(instance, "a person decided whose it is", commit=ctx.commit)
        except UserVisibleError as error:
            Instance.objects.filter(pk=instance.pk).update(reason=error.message.removeprefix(_STAYS).rstrip(".")[:300])


def _filed(
    instance: Instance, reason: str, commit: Callable[[], AbstractContextManager[Any]] = transaction.atomic
) -> Instance:
    """:param commit: the transaction that its rows are written in, after its bytes."""
    try:
        refile = file_again(instance)
        with commit():
            stored = refile()
            if stored.quarantined or stored.duplicate:
                raise _stands(stored)
            uid = open_sop_instance_uid(instance.original.subject, bytes(instance.ciphertext))
            filed = Instance.objects.get(uid_index=uid_index(uid))
            Instance.objects.filter(conflicts_with=instance).update(conflicts_with=filed)
            _delete(instance)
            audit.record(
                "instance.release",
                action="U",
                resource=f"instance:{filed.pk}",
                patient_id=filed.study.patient_id if filed.study else None,
                detail={"was": str(instance.pk), "reason": reason},
            )
    except BadInstance as error:
        raise UserVisibleError(f"It cannot be read: {error.reason}.", code="quarantine-unreadable") from None
    return filed


def _stands(stored: StoredInstance) -> UserVisibleError:
    why = stored.reason or "another instance with its SOP Instance UID is here"
    return UserVisibleError(
        f"{_STAYS}{why}.",
        what_to_do="Remove the cause first (patient, order, the other instance), or discard it.",
        code="quarantine-reason-stands",
    )


def discard(instance: Instance, *, by: Any, reason: str) -> None:
    """Have the instance deleted after ``ONCOFLOW_DISCARD_DAYS``. Until then it can still be released.

    Its SOP Instance UID is free at once, so that the right one can come, or be released.

    :raises UserVisibleError: it is discarded already. :raises PermissionDenied:
    """
    reason = _checked(instance, by, reason)
    moment = now()
    with transaction.atomic():
        kept = Instance.objects.filter(pk=instance.pk, discarded_at__isnull=True)
        if not INSTANCE_MACHINE.apply(kept, "discard", discarded_at=moment, uid_index=None):
            raise UserVisibleError("It has been discarded already.", code="quarantine-discarded")
        audit.record(
            "instance.discard",
            action="D",
            resource=f"instance:{instance.pk}",
            patient_id=instance.study.patient_id if instance.study else None,
            detail={"reason": reason},
        )
        enqueue(
            PURGE_JOB,
            subject=f"instance:{instance.pk}",
            key=f"purge:{instance.pk}",
            kwargs={"instance_id": instance.pk},
            run_after=moment + timedelta(days=settings.ONCOFLOW_DISCARD_DAYS),
        )


def purge(ctx: JobContext, instance_id: uuid.UUID | str) -> None:
    """Before: discarded. After: row and bytes are gone. Does nothing about one that was released meanwhile."""
    instance = Instance.objects.filter(pk=instance_id, discarded_at__isnull=False).first()
    if instance is None:
        return
    with ctx.commit(done=True):
        Instance.objects.filter(conflicts_with=instance).update(conflicts_with=None)
        _delete(instance)
        audit.record("instance.purge", action="D", resource=f"instance:{instance.pk}", source="worker")


def _delete(instance: Instance) -> None:
    original = instance.original
    instance.delete()
    objects.delete(original)


def _checked(instance: Instance, by: Any, reason: str) -> str:
    if not can(by, "manage_system"):
        raise PermissionDenied
    reason = " ".join(reason.split())[:150]
    if len(reason) < 3:
        raise UserVisibleError("A reason is needed.", code="quarantine-no-reason")
    if instance.state != InstanceState.QUARANTINED:
        raise UserVisibleError("It is not in quarantine.", code="quarantine-not-there")
    return reason
