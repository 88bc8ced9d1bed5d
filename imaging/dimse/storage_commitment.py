"""Storage commitment (PS3.4 Annex J, push model): we say which instances we keep safely, and which not.

The request is a row before it is answered; a job looks and reports over an association that we open to the peer, until the
peer has taken it. We commit to whatever is stored here, encrypted and durable; an instance in quarantine is kept too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import F
from pydicom.dataset import Dataset
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from audit import services as audit
from imaging.dimse.associations import calling
from imaging.identifiers import uid_index
from imaging.models import COMMITMENT_MACHINE, CommitmentRequest, CommitmentState, DicomPeer, Instance
from oncoflow_site.foundation import keys, objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import TransientError
from oncoflow_site.foundation.jobs import JobContext, enqueue
from oncoflow_site.foundation.models import Job

__all__ = ["CLASS_CONFLICT", "MAX_ITEMS", "NO_SUCH_INSTANCE", "BadRequest", "accept", "report", "send_event_report"]


PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"


# Failure Reason (0008,1197), PS3.3 C.14.1.1
NO_SUCH_INSTANCE = 0x0112
CLASS_CONFLICT = 0x0119
PROCESSING_FAILURE = 0x0110
MAX_ITEMS = 20_000
REPORT_JOB = "imaging.report_commitment"
_SUBJECT = "inbound"
_CONTEXT = "commitment"
_BATCH = 400


class BadRequest(Exception):
    """A request that cannot be taken. :ivar status: of the N-ACTION response (PS3.7 Annex C)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def accept(peer: DicomPeer, information: Dataset) -> CommitmentRequest:
    """Keep the request (Action Information of PS3.4 Table J.3-1) and have it reported.

    The same Transaction UID again is answered again. :raises BadRequest:
    """
    if not peer.host or not peer.port:
        raise BadRequest(0x0213, "no address is known for the report")
    transaction_uid = str(information.get("TransactionUID") or "")
    items = [
        (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
        for item in information.get("ReferencedSOPSequence") or ()
    ]
    if not transaction_uid or not items or not all(all(pair) for pair in items):
        raise BadRequest(0x0120, "a missing attribute")
    if len(items) > MAX_ITEMS or any(len(uid) > 64 for pair in items for uid in (*pair, transaction_uid)):
        raise BadRequest(0x0213, "too much at once")
    sealed = keys.encrypt(_SUBJECT, json.dumps([transaction_uid, items]).encode(), _CONTEXT)
    with transaction.atomic():
        row, created = CommitmentRequest.objects.get_or_create(
            peer=peer,
            transaction_index=uid_index(transaction_uid),
            defaults={"ciphertext": sealed, "asked": len(items)},
        )
        if not created:
            COMMITMENT_MACHINE.advance(row, "ask", times=F("times") + 1, ciphertext=sealed, asked=len(items))
        audit.record(
            "commitment.request",
            action="C",
            resource=f"commitment:{row.pk}",
            detail={"peer": peer.ae_title, "instances": len(items)},
        )
        enqueue(
            REPORT_JOB,
            subject=f"commitment:{row.pk}",
            key=f"commitment:{row.pk}:{row.times}",
            kwargs={"request_id": row.pk},
        )
    return row


def report(ctx: JobContext, request_id: uuid.UUID | str) -> None:
    """Before: waiting. After: reported: the peer has taken an N-EVENT-REPORT with what we commit to and what not.

    :raises TransientError: the peer cannot be reached or does not take it; the job tries again.
    """
    from imaging.dimse.storage_commitment import send_event_report  # pynetdicom: most processes never need it

    row = CommitmentRequest.objects.select_related("peer").get(pk=request_id)
    if row.state != CommitmentState.WAITING:
        return
    transaction_uid, items = json.loads(keys.decrypt(_SUBJECT, bytes(row.ciphertext), _CONTEXT))
    kept, failed = _look([(str(one), str(two)) for one, two in items])
    send_event_report(row.peer, *_event(transaction_uid, kept, failed))
    with ctx.commit(done=True):
        rows = CommitmentRequest.objects.filter(pk=row.pk)
        COMMITMENT_MACHINE.apply(rows, "report", failed=len(failed), reported_at=now())
        audit.record(
            "commitment.report",
            action="E",
            resource=f"commitment:{row.pk}",
            detail={"peer": row.peer.ae_title, "kept": len(kept), "failed": len(failed)},
            source="worker",
        )


def give_up_report(job: Job, *, request_id: str) -> None:
    """The job that reports it ended for good: the peer has no answer and may ask again."""
    COMMITMENT_MACHINE.apply(CommitmentRequest.objects.filter(pk=request_id), "fail")


Pair = tuple[str, str]


def _look(items: Iterable[Pair]) -> tuple[list[Pair], list[tuple[Pair, int]]]:
    """What we keep, and what not with its Failure Reason."""
    wanted = list(items)
    kept: list[Pair] = []
    failed: list[tuple[Pair, int]] = []
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        indexes = {uid: uid_index(uid) for _, uid in batch}
        rows = Instance.objects.filter(uid_index__in=indexes.values()).select_related("original")
        here = {row.uid_index: row for row in rows}
        for sop_class, uid in batch:
            row = here.get(indexes[uid])
            if row is None:
                failed.append(((sop_class, uid), NO_SUCH_INSTANCE))
            elif row.sop_class_uid != sop_class:
                failed.append(((sop_class, uid), CLASS_CONFLICT))
            elif not objects.is_there(row.original):
                failed.append(((sop_class, uid), PROCESSING_FAILURE))
            else:
                kept.append((sop_class, uid))
    return kept, failed


def _event(transaction_uid: str, kept: list[Pair], failed: list[tuple[Pair, int]]) -> tuple[int, Dataset]:
    """Event Type ID and Event Information (PS3.4 Table J.3-2): 1 all of it, 2 failures exist."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    if kept:
        information.ReferencedSOPSequence = [_reference(pair) for pair in kept]
    if failed:
        information.FailedSOPSequence = [_reference(pair, reason) for pair, reason in failed]
    return (2 if failed else 1), information


def _reference(pair: Pair, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = pair
    if reason is not None:
        item.FailureReason = reason
    return item


def answer(peer: DicomPeer, action_type: int | None, information: Any) -> int:
    """Status of the N-ACTION response for a request that came over the network."""
    if action_type != 1:
        return 0x0123  # no such action type
    try:
        accept(peer, information)
    except BadRequest as error:
        audit.record_refusal(
            "dicom.refuse",
            action="C",
            resource="commitment:refused",
            detail={"peer": peer.ae_title, "status": f"{error.status:04X}"},
        )
        return error.status
    return 0x0000


_INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known Storage Commitment Push Model SOP Instance


def send_event_report(peer: DicomPeer, event_type: int, information: Dataset) -> None:
    """Tell ``peer``. :raises TransientError: it cannot be reached, or answers with a failure."""
    with calling(peer, [StorageCommitmentPushModel], as_scp=True) as assoc:
        status, _ = assoc.send_n_event_report(information, event_type, StorageCommitmentPushModel, _INSTANCE)
        code = int(status.Status) if "Status" in status else None
        if code is None or code & 0xF000 not in (0x0000, 0xB000) or 0x0100 <= code < 0x0300:
            raise TransientError(f"{peer.ae_title} did not take the report", code=f"{code:04X}" if code else "")
