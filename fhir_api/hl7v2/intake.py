"""The MLLP door: a message is durable, with its verdict and its answer, before it is acknowledged."""

from __future__ import annotations

import hashlib
import logging

from django.db import IntegrityError, close_old_connections, connection, transaction

from audit.services import Actor, acting_as, record, record_refusal
from fhir_api.hl7v2.ack import Fault, accept_mode, build_ack
from fhir_api.hl7v2.er7 import Er7Error, Er7Message, Segment, batch_messages, parse, read_header
from fhir_api.hl7v2.peers import find_peer, note_unlisted, reading_of
from fhir_api.hl7v2.structure import MessageDisposition, examine
from fhir_api.models import Hl7Message, Hl7MessageState, Peer
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import error_frames, safe_error_text
from oncoflow_site.foundation.failpoints import hit
from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.request_id import bind_request_id, current_request_id

__all__ = ["receive", "refuse_too_large"]

logger = logging.getLogger(__name__)

INBOUND = "inbound"


def receive(data: bytes, remote: str) -> bytes:
    """Take one message and return its acknowledgement; empty where none is to be sent.

    A fault of ours (database, storage) is answered with AE and leaves nothing behind: the sender keeps the message and
    sends it again.

    :param data: the bytes between the frame characters. :param remote: the peer's IP address.
    """
    with bind_request_id():
        try:
            if not connection.in_atomic_block:
                close_old_connections()
            batch = batch_messages(data)
            return _receive(data, remote) if batch is None else _receive_batch(batch, remote)
        except Exception as error:  # whatever it is, the sender must not take silence or AA for an answer
            text, frames = safe_error_text(error), error_frames(error)
            logger.error("mllp: message of %d bytes not stored: %s [%s]", len(data), text, frames)
            return _answer(_header(data), (Fault("207", "MSH^1", "The message could not be stored."),), transient=True)
        finally:
            if not connection.in_atomic_block:
                close_old_connections()


def _receive_batch(messages: list[bytes], remote: str) -> bytes:
    """Take each message of a batch file as if it had come alone; the answer is a batch of their acknowledgements, in order."""
    answers = [answer for one in messages if (answer := _receive(one, remote))]
    moment = now().strftime("%Y%m%d%H%M%S+0000").encode()
    return b"BHS|^~\\&|||||" + moment + b"\r" + b"".join(answers) + b"BTS|%d\r" % len(answers)


def refuse_too_large(head: bytes) -> bytes:
    """The answer to a frame over the size limit, of which only ``head`` was read."""
    return _answer(_header(head), (Fault("104", "MSH^1", "The message is larger than this service takes."),))


def _header(data: bytes) -> Segment | None:
    try:
        return read_header(data)
    except Er7Error:
        return None


def _answer(msh: Segment | None, faults: tuple[Fault, ...] = (), *, transient: bool = False) -> bytes:
    """Original mode answers AA, AE or AR; enhanced mode CA, CE or CR, as far as MSH-15 wants it (table 0155)."""
    letter = "E" if transient else "R" if faults else "A"
    enhanced, condition = accept_mode(msh) if msh is not None else (False, "AL")
    if enhanced and (condition == "NE" or (condition == "ER" and not faults) or (condition == "SU" and faults)):
        return b""
    return build_ack(("C" if enhanced else "A") + letter, msh, faults)


def _refuse_stranger(msh: Segment | None, remote: str) -> bytes:
    with acting_as(Actor.peer("unknown"), source="mllp"):
        record_refusal("hl7.refuse", action="C", resource="peer:unknown", detail={"reason": "unknown-peer"})
    if msh is not None:
        note_unlisted(msh, remote)
    logger.warning("mllp: message of a sender that is not listed refused")
    if msh is None:
        return _answer(None, (Fault("100", "MSH^1", "The message does not begin with a readable MSH segment."),))
    return _answer(msh, (Fault("204", "MSH^1^3", "The sending application is not registered here."),))


def _replay(key: dict[str, str]) -> Hl7Message | None:
    return Hl7Message.objects.filter(**key).first()


def _receive(data: bytes, remote: str) -> bytes:
    msh = _header(data)
    peer = find_peer(msh, remote)
    if msh is None or peer is None:
        return _refuse_stranger(msh, remote)
    digest = hashlib.sha256(data).hexdigest()
    key = {
        "msh3": msh.field(3)[:227],
        "msh4": msh.field(4)[:227],
        "control_id": msh.get(10)[:199],
        "sha256": digest,
    }
    with acting_as(Actor.peer(peer.name), source="mllp"):
        known = _replay(key)
        if known is None:
            try:
                return _store(data, msh, peer, key)
            except IntegrityError:
                known = _replay(key)  # the same message over two connections at once
                if known is None:
                    raise
        logger.info("mllp: message %s came again and was answered as before", known.id)
        return bytes(known.ack)


def _store(data: bytes, msh: Segment, peer: Peer, key: dict[str, str]) -> bytes:
    message: Er7Message | None = None
    try:
        message = parse(data, peer.default_charset)
        verdict = examine(message, reading_of(peer), refuses_unused=peer.refuses_unused)
    except Er7Error as error:
        kind = f"{msh.get(9, 1)}^{msh.get(9, 2)}"[:32]
        verdict = MessageDisposition("refused", kind, faults=(Fault.of(error),), reason=error.condition)
    # An acknowledgement is never acknowledged.
    silent = message is not None and message.first("MSA") is not None
    ack = b"" if silent else _answer(msh, verdict.faults)
    letter = "R" if verdict.faults else "A"
    code = ("C" if accept_mode(msh)[0] else "A") + letter
    same_id = Hl7Message.objects.filter(msh3=key["msh3"], msh4=key["msh4"], control_id=key["control_id"])
    if key["control_id"] and same_id.exists():
        logger.warning("mllp: %s reused a control id for another message", peer.name)
    raw = objects.write(data, subject=INBOUND, kind="hl7v2", content_type="x-application/hl7-v2+er7")
    with transaction.atomic():
        objects.keep(raw)
        row = Hl7Message.objects.create(
            **key,
            message_type=verdict.message_type,
            peer=peer,
            raw=raw,
            size=len(data),
            ack=ack,
            ack_code=code,
            patient_index=verdict.lane,
            state=verdict.state,
            error=verdict.reason,
            request_id=current_request_id(),
        )
        record(
            "hl7.refuse" if verdict.faults else "hl7.receive",
            action="C",
            resource=f"message:{row.id}",
            outcome=4 if verdict.faults else 0,
            detail={"type": verdict.message_type, "state": verdict.state, "conditions": verdict.reason},
        )
        if verdict.state == Hl7MessageState.STORED:
            enqueue(
                "fhir_api.process_hl7",
                subject=f"message:{row.id}",
                key=f"hl7:{row.id}",
                kwargs={"message_id": row.id},
            )
        hit("mllp.before_commit")
    hit("mllp.after_commit")
    return ack
