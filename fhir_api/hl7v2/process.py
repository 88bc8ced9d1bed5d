"""What received messages do: registrations and orders, in the order in which each patient's messages came."""

from __future__ import annotations

import logging

from django.db.models import F

from audit.services import Actor, acting_as, record
from clinical import services as clinical
from clinical.models import Order, Patient
from clinical.notices import write_notice
from fhir_api.hl7v2.er7 import Er7Error, Er7Message, parse
from fhir_api.hl7v2.fields import InboundOrder, identity_of, order_of
from fhir_api.hl7v2.structure import ADT_EVENTS, ORDER_TYPES, orders
from fhir_api.models import HL7_MESSAGE_MACHINE, Hl7Message, Hl7MessageState
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import (
    LostLease,
    PermanentError,
    TransientError,
    UserVisibleError,
    safe_error_text,
)
from oncoflow_site.foundation.jobs import JobContext

__all__ = ["MAX_ATTEMPTS", "process_lane", "retry_message"]

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5

# ORC-1 (table 0119) by what they mean to us, who fill orders.
_NEW = frozenset({"NW"})
_CHANGE = frozenset({"XO", "RP"})
_CANCEL = frozenset({"CA", "DC", "OC", "OD"})


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
            if _claim(row, "process"):
                _apply_and_note(row)
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


def _claim(row: Hl7Message, event: str) -> bool:
    rows = Hl7Message.objects.filter(pk=row.pk, state=Hl7MessageState.STORED)
    return bool(rows.update(state=HL7_MESSAGE_MACHINE.next(Hl7MessageState.STORED, event), processed_at=now()))


def _apply_and_note(row: Hl7Message) -> None:
    data = objects.get(row.raw)
    message = parse(data, row.peer.default_charset if row.peer else "")
    patient, ignored = _apply(message, row.peer.name if row.peer else "")
    fields: dict[str, object] = {"patient": patient, "error": ignored[:500]}
    if ignored:
        fields["state"] = Hl7MessageState.IGNORED
    inbound = row.raw
    if inbound.subject != patient.key_subject:
        # From here on it belongs to the patient: erasing the patient's key must erase it too.
        fields["raw"] = objects.put(data, subject=patient.key_subject, kind="hl7v2", content_type=inbound.content_type)
    Hl7Message.objects.filter(pk=row.pk).update(**fields)
    if "raw" in fields:
        objects.delete(inbound)
    record(
        "hl7.process",
        action="E",
        resource=f"message:{row.pk}",
        patient_id=patient.pk,
        detail={"type": row.message_type, "ignored": bool(ignored)},
    )


def _fail(ctx: JobContext, row: Hl7Message, text: str) -> None:
    with ctx.commit():
        if _claim(row, "fail"):
            Hl7Message.objects.filter(pk=row.pk).update(error=text[:500])
            record(
                "hl7.process", action="E", resource=f"message:{row.pk}", outcome=8, detail={"type": row.message_type}
            )
            write_notice("message.failed", f"hl7message:{row.pk}")
    logger.warning("message %s (%s) failed: %s", row.pk, row.message_type, text)


def retry_message(row: Hl7Message) -> bool:
    """Let a failed or ignored message be processed again; the caller enqueues the job. False when it is neither."""
    for state in HL7_MESSAGE_MACHINE.sources("retry"):
        rows = Hl7Message.objects.filter(pk=row.pk, state=state)
        if rows.update(state=HL7_MESSAGE_MACHINE.next(state, "retry"), attempts=0, error="", processed_at=None):
            record("hl7.retry", action="U", resource=f"message:{row.pk}")
            return True
    return False


def _apply(message: Er7Message, peer: str) -> tuple[Patient, str]:
    """Do what the message says; returns the patient and, when nothing was to be done, why."""
    code, event = message.type
    pid = message.first("PID")
    if pid is None:
        raise PermanentError("The message names no patient.")
    identity = identity_of(pid)
    if code == "ADT" and event in ADT_EVENTS:
        return clinical.register_patient(identity, source="mllp"), ""
    if (code, event) not in ORDER_TYPES:
        raise PermanentError(f"There is no processing for {code}^{event}.")
    # An order may overtake the registration: it makes a provisional patient that the ADT message then confirms.
    patient = clinical.register_patient(identity, source="mllp", provisional=True)
    ignored = [_order(patient, order_of(message, group), peer) for group in orders(message)]
    return patient, ", ".join(filter(None, ignored)) if all(ignored) else ""


def _order(patient: Patient, facts: InboundOrder, peer: str) -> str:
    if facts.control in _CANCEL:
        clinical.cancel_order(_known(patient, facts, required=True), source="mllp")  # type: ignore[arg-type]
        return ""
    if facts.control not in _NEW | _CHANGE:
        return f"order control {facts.control[:2]} asks for nothing here"
    known = _known(patient, facts, required=False) if facts.control in _CHANGE else None
    if known is not None:
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
        peer=peer,
    )
    return ""


def _known(patient: Patient, facts: InboundOrder, *, required: bool) -> Order | None:
    order = clinical.find_order(facts.identity)
    if order is None:
        if required:
            raise UserVisibleError(
                "The message speaks of an order that is not known here.",
                what_to_do="Look for the order's first message, then process this one again.",
                code="order-unknown",
            )
        return None
    if clinical.current_patient(order.patient).pk != patient.pk:
        raise UserVisibleError(
            "The order's numbers belong to an order of another patient.",
            what_to_do="Have the sender correct the patient or the order number.",
            code="order-patient-conflict",
        )
    return order
