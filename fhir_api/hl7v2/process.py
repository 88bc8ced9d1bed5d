"""What received messages do: registrations and orders, in the order in which each patient's messages came."""

from __future__ import annotations

import logging
import uuid

from django.db.models import F

from audit.services import Actor, acting_as, record
from clinical import services as clinical
from clinical.identity import IdentityData
from clinical.models import Order, OrderStatus, Patient
from clinical.notices import write_notice
from fhir_api.hl7v2.er7 import Er7Error, Er7Message, parse
from fhir_api.hl7v2.fields import InboundOrder, identity_of, order_of, recorded_at
from fhir_api.hl7v2.merges import apply_merges, apply_renumbering
from fhir_api.hl7v2.peers import PeerReading, reading_of
from fhir_api.hl7v2.structure import (
    ADT_CORRECTIONS,
    ADT_EVENTS,
    MERGE_EVENTS,
    ORDER_TYPES,
    RENUMBER_EVENTS,
    orders,
)
from fhir_api.models import HL7_MESSAGE_MACHINE, Hl7Message, Hl7MessageState, Peer
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import (
    LostLease,
    PermanentError,
    TransientError,
    UserVisibleError,
    safe_error_text,
)
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.jobs import JobContext, enqueue
from oncoflow_site.foundation.models import Job

__all__ = ["MAX_ATTEMPTS", "give_up", "move_to_patient", "process_lane", "process_waiting", "retry_message"]

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5

# ORC-1 (table 0119) by what they mean to us, who fill orders. RO carries the order that takes the place of one replaced by RP.
_NEW = frozenset({"NW", "RO"})
_CHANGE = frozenset({"XO", "RP"})
_CANCEL = frozenset({"CA", "DC", "OC", "OD"})
# Asked of us, and not something that we can do: the message fails, where a person sees it, instead of vanishing under AA.
_UNABLE = frozenset({"HD", "RL", "RU"})


def process_lane(ctx: JobContext, message: Hl7Message) -> None:
    """Process ``message`` and before it whatever is left of the same patient's earlier messages.

    Two workers may do this for one patient at once: each message is claimed by compare-and-swap inside the transaction
    that holds its effects, so the second waits and then passes on. Raises `TransientError` to be tried again.
    """
    lane = Hl7Message.objects.filter(state=Hl7MessageState.STORED, received_at__lte=message.received_at)
    if message.patient_index:
        lane = lane.filter(patient_index=message.patient_index)
    else:
        lane = lane.filter(pk=message.pk)
    for row in list(lane.select_related("raw", "peer").order_by("received_at", "id")):
        with acting_as(Actor.peer(row.peer.name if row.peer else "unknown"), source="worker"):
            _process(ctx, row)


def _process(ctx: JobContext, row: Hl7Message) -> None:
    try:
        with ctx.commit():
            # The lock on its row: a second worker waits here, and then finds it processed.
            held = Hl7Message.objects.select_for_update().filter(pk=row.pk, state=Hl7MessageState.STORED).first()
            if held is not None:
                _apply_and_note(row)
    except clinical.IdentityContradiction as error:
        _hold(ctx, row, error)
    except (UserVisibleError, PermanentError, Er7Error) as error:
        _fail(ctx, row, str(error))
    except LostLease:
        raise
    except Exception as error:
        Hl7Message.objects.filter(pk=row.pk).update(attempts=F("attempts") + 1)
        row.refresh_from_db(fields=["attempts"])
        if row.attempts >= MAX_ATTEMPTS:
            _fail(ctx, row, safe_error_text(error))
            return
        raise TransientError(f"message {row.pk}: {safe_error_text(error)}") from error


def _apply_and_note(row: Hl7Message) -> None:
    data = objects.get(row.raw)
    message = parse(data, row.peer.default_charset if row.peer else "")
    patient, note, ignored = _apply(message, row.peer)
    HL7_MESSAGE_MACHINE.advance(
        row,
        "ignore" if ignored else "process",
        patient=patient,
        error=note[:500],
        processed_at=now(),
        identity_conflict=None,
    )
    record(
        "hl7.process",
        action="E",
        resource=f"message:{row.pk}",
        patient_id=patient.pk,
        detail={"type": row.message_type, "ignored": ignored},
    )


def _fail(ctx: JobContext, row: Hl7Message, text: str) -> None:
    with ctx.commit():
        _note_failure(row, text)
    logger.warning("message %s (%s) failed: %s", row.pk, row.message_type, text)


def _note_failure(row: Hl7Message, text: str) -> None:
    rows = Hl7Message.objects.filter(pk=row.pk)
    if HL7_MESSAGE_MACHINE.apply(rows, "fail", error=text[:500], processed_at=now()):
        record("hl7.process", action="E", resource=f"message:{row.pk}", outcome=8, detail={"type": row.message_type})
        write_notice("message.failed", f"hl7message:{row.pk}")


def give_up(job: Job, *, message_id: str) -> None:
    """The job that processes it ended for good: the message has failed, and somebody is told."""
    _note_failure(Hl7Message.objects.get(pk=message_id), "Its processing failed for good.")


def move_to_patient(ctx: JobContext, message: Hl7Message) -> None:
    """Have the message encrypted under its patient's key: from here on, erasing that key must erase the message too.

    Before: processed or ignored, its bytes under the key of what came in. Safe to repeat.
    """
    row = Hl7Message.objects.select_related("raw", "patient").get(pk=message.pk)
    inbound, patient = row.raw, row.patient
    if patient is None or inbound.subject == patient.key_subject:
        return
    data = objects.get(inbound)
    own = objects.write(data, subject=patient.key_subject, kind="hl7v2", content_type=inbound.content_type)
    with ctx.commit():
        if Hl7Message.objects.filter(pk=row.pk, raw=inbound).update(raw=own):
            objects.keep(own)
            objects.delete(inbound)


def _hold(ctx: JobContext, row: Hl7Message, error: clinical.IdentityContradiction) -> None:
    """Keep the message until a person has decided whose it is."""
    with ctx.commit():
        mine = Hl7Message.objects.filter(pk=row.pk)
        if HL7_MESSAGE_MACHINE.apply(mine, "hold", error=error.message[:500], processed_at=now()):
            conflict = clinical.note_conflict(error, source="mllp", sender=row.peer.name if row.peer else "")
            mine.update(identity_conflict=conflict)
            record(
                "hl7.process",
                action="E",
                resource=f"message:{row.pk}",
                outcome=4,
                detail={"type": row.message_type, "waits": True},
            )
    logger.warning("message %s (%s) waits for a person: %s", row.pk, row.message_type, error.code)


def retry_message(row: Hl7Message) -> bool:
    """Let a failed, ignored or waiting message be processed again; the caller enqueues the job. False when it is none of them."""
    mine = Hl7Message.objects.filter(pk=row.pk)
    moved = HL7_MESSAGE_MACHINE.apply(mine, "retry", attempts=0, error="", processed_at=None)
    if moved:
        record("hl7.retry", action="U", resource=f"message:{row.pk}")
    return bool(moved)


def process_waiting(ctx: JobContext, conflict_id: uuid.UUID) -> None:
    """Messages that waited for this decision, oldest first, go to their lanes again."""
    for row in Hl7Message.objects.filter(identity_conflict=conflict_id, state=Hl7MessageState.HELD).order_by(
        "received_at", "id"
    ):
        with ctx.commit():
            if retry_message(row):
                enqueue(
                    "fhir_api.process_hl7",
                    subject=f"message:{row.id}",
                    key=f"hl7:{row.id}:decided:{new_id()}",
                    kwargs={"message_id": row.id},
                )


def _apply(message: Er7Message, peer: Peer | None) -> tuple[Patient, str, bool]:
    """Do what the message says; returns the patient, a note for people, and whether there was nothing to do."""
    code, event = message.type
    reading = reading_of(peer)
    pid = message.first("PID")
    if pid is None:
        raise PermanentError("The message names no patient.")
    identity = identity_of(pid, reading)
    if code == "ADT" and event in ADT_EVENTS:
        patient = clinical.register_patient(
            identity,
            source="mllp",
            provisional=peer is not None and not peer.confirms_identity,
            may_correct=event in ADT_CORRECTIONS,
            as_of=recorded_at(message),
        )
        return patient, "", False
    if code == "ADT" and peer is not None and event in MERGE_EVENTS:
        return *apply_merges(message, reading, peer), False
    if code == "ADT" and peer is not None and event in RENUMBER_EVENTS:
        return *apply_renumbering(message, reading, peer), False
    if (code, event) not in ORDER_TYPES:
        raise PermanentError(f"There is no processing for {code}^{event}.")
    patient = _patient_of_order(identity, reading, peer)
    found = [order_of(message, group) for group in orders(message)]
    replaced = any(one.control == "RO" for one in found)
    notes = [_order(patient, one, reading, peer, replaced=replaced) for one in found]
    return patient, ", ".join(dict.fromkeys(filter(None, notes))), all(notes)


def _patient_of_order(identity: IdentityData, reading: PeerReading, peer: Peer | None) -> Patient:
    """An order may overtake the registration: it makes a provisional patient that the ADT message then confirms, unless this
    peer's orders are only for patients who are registered."""
    if peer is not None and not peer.registers_by_order:
        numbers = reading.policy.matching(identity.identifiers)
        if not any(clinical.find_patient(one.authority, one.value, one.kind) for one in numbers):
            raise UserVisibleError(
                "The order is for a patient whom nobody has registered.",
                what_to_do="Have the registration sent, then process this message again.",
                code="patient-unknown",
            )
    return clinical.register_patient(identity, source="mllp", provisional=True)


def _order(patient: Patient, facts: InboundOrder, reading: PeerReading, peer: Peer | None, *, replaced: bool) -> str:
    """What one order group asks for; returns why nothing was done, "" where something was."""
    if facts.control in _CANCEL or (facts.control == "RP" and replaced):
        clinical.cancel_order(_known_order(patient, facts), source="mllp")
        return ""
    if facts.control in _UNABLE:
        raise UserVisibleError(
            f"Order control {facts.control} (hold, release) cannot be done here.",
            what_to_do="Call whoever placed the order, or cancel it.",
            code="order-control",
        )
    if facts.control not in _NEW | _CHANGE:
        return f"order control {facts.control[:2]} asks for nothing here"
    if not reading.wants_order(facts.modality, facts.procedure_code):
        return "not an order for this service, by its modality or its code"
    known = _known(patient, facts)
    if known is not None and facts.control in _NEW and known.status == OrderStatus.CANCELLED:
        raise UserVisibleError(
            "The order was cancelled and has been placed again under the same number.",
            what_to_do="Place it under a new number.",
            code="order-closed",
        )
    if known is not None and facts.control in _NEW and known.status == OrderStatus.COMPLETED:
        return "the order is completed already"
    if known is not None:
        # A new order with a known number is the order as it is now; one that is closed says so, where a person sees it.
        clinical.change_order(
            known,
            identity=facts.identity,
            priority=facts.priority,
            procedure_code=facts.procedure_code or None,
            procedure_text=facts.procedure_text or None,
            source="mllp",
        )
        return ""
    clinical.accept_order(
        patient,
        facts.identity,
        priority=facts.priority,
        procedure_code=facts.procedure_code,
        procedure_text=facts.procedure_text,
        requested_at=facts.requested_at,
        source="mllp",
        peer=peer.name if peer else "",
    )
    return ""


def _known_order(patient: Patient, facts: InboundOrder) -> Order:
    order = _known(patient, facts)
    if order is None:
        raise UserVisibleError(
            "The message speaks of an order that is not known here.",
            what_to_do="Look for the order's first message, then process this one again.",
            code="order-unknown",
        )
    return order


def _known(patient: Patient, facts: InboundOrder) -> Order | None:
    order = clinical.find_order(facts.identity)
    if order is None:
        return None
    if clinical.current_patient(order.patient).pk != patient.pk:
        raise UserVisibleError(
            "The order's numbers belong to an order of another patient.",
            what_to_do="Have the sender correct the patient or the order number.",
            code="order-patient-conflict",
        )
    return order
