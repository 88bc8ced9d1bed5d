"""Imaging orders: accepted once, changed, cancelled, moved on as the table in `clinical.models.orders` allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from audit.actors import Actor
from audit.services import record
from clinical.cleaning import clean
from clinical.events import ORDER_ACCEPTED, ORDER_CANCELLED, ORDER_CHANGED
from clinical.identity import OrderIdentity
from clinical.models import ORDER_MACHINE, Order, OrderPriority, OrderStatus, Patient
from clinical.registry import current_patient, identities_for_cleaning
from clinical.vault import accession_index, dicom_uid_index, ei_index, open_json, seal_json
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError, IllegalMove, UserVisibleError
from oncoflow_site.foundation.events import emit

__all__ = [
    "accept_order",
    "advance_order",
    "cancel_order",
    "change_order",
    "cleaned_reason",
    "find_order",
    "find_order_by_accession",
    "find_orders_by_index",
    "find_orders_by_study_uid",
    "reveal_order",
]

_PLACER = "order.placer"
_FILLER = "order.filler"


def _context(order: Order) -> str:
    return f"order:{order.pk}"


def _load(order: Order) -> OrderIdentity:
    return OrderIdentity.from_json(open_json(order.key_subject, order.ciphertext, context=_context(order)))


def _indexes(identity: OrderIdentity) -> dict[str, str | None]:
    return {
        "accession_index": accession_index(identity.accession),
        "placer_index": ei_index(_PLACER, identity.placer_number, identity.placer_authority),
        "filler_index": ei_index(_FILLER, identity.filler_number, identity.filler_authority),
        "study_uid_index": dicom_uid_index(identity.study_instance_uid),
    }


def _seal(order: Order, identity: OrderIdentity) -> None:
    for name, value in _indexes(identity).items():
        setattr(order, name, value)
    order.key_subject = order.key_subject or order.patient.key_subject
    order.ciphertext = seal_json(order.key_subject, identity.to_json(), context=_context(order))


def cleaned_reason(order: Order) -> str:
    """The reason for the study without the patient's identifiers: what a model may read. Empty where none was given."""
    return clean(_load(order).reason, *identities_for_cleaning(order.patient)).text.strip()


def find_order_by_accession(accession: str) -> Order | None:
    """The order with this accession number, or None."""
    index = accession_index(accession)
    return Order.objects.filter(accession_index=index).select_related("patient").first() if index else None


def find_orders_by_study_uid(study_instance_uid: str) -> QuerySet[Order]:
    """Orders that announced this Study Instance UID (IPC-3, ZDS-1): one study may answer several orders."""
    index = dicom_uid_index(study_instance_uid)
    return Order.objects.filter(study_uid_index=index).select_related("patient") if index else Order.objects.none()


def find_orders_by_index(accession: str, study_uid: str) -> tuple[Order | None, list[Order]]:
    """The order of a study's accession number, and those that announced its Study Instance UID, the earliest first.

    Nothing is decrypted. :param accession: `clinical.vault.accession_index`, empty without a number. :param study_uid:
    `clinical.vault.dicom_uid_index`.
    """
    orders = Order.objects.select_related("patient")
    numbered = orders.filter(accession_index=accession).first() if accession else None
    return numbered, list(orders.filter(study_uid_index=study_uid).order_by("requested_at", "pk")) if study_uid else []


def find_order(identity: OrderIdentity) -> Order | None:
    """The order these numbers mean: by filler number, then placer number, then accession number, each number with its
    authority. A placer number that a filler has split into several orders decides nothing by itself."""
    indexes = _indexes(identity)
    orders = Order.objects.select_related("patient")
    if indexes["filler_index"]:
        found = orders.filter(filler_index=indexes["filler_index"]).first()
        if found is not None:
            return found
    if indexes["placer_index"]:
        placed = orders.filter(placer_index=indexes["placer_index"])
        if indexes["filler_index"]:
            placed = placed.filter(filler_index__isnull=True)  # another filler number is another order
        candidates = list(placed[:2])
        if len(candidates) == 1:
            return candidates[0]
        if len(candidates) > 1 and indexes["accession_index"]:
            return placed.filter(accession_index=indexes["accession_index"]).first()
    if indexes["accession_index"]:
        return orders.filter(accession_index=indexes["accession_index"]).first()
    return None


def _conflict(what: str, code: str) -> UserVisibleError:
    return UserVisibleError(what, what_to_do="Check the order at its source and send it again.", code=code)


def accept_order(
    patient: Patient,
    identity: OrderIdentity,
    *,
    priority: str = "routine",
    procedure_code: str = "",
    procedure_text: str = "",
    requested_at: datetime | None = None,
    source: str,
    peer: str = "",
) -> Order:
    """Take an order on; emits ``order.accepted``. The same order again is returned as it stands; numbers that it did
    not have before are added (``order.changed``), nothing is overwritten.

    :param priority: routine, asap or stat.
    :param requested_at: aware; now where the sender did not say.
    :raises UserVisibleError: no number at all, unknown priority, or numbers of another patient's or another order.
    """
    if priority not in OrderPriority.values:
        raise _conflict(f"Priority must be one of {', '.join(OrderPriority.values)}.", "bad-priority")
    if not any(_indexes(identity).values()):
        raise _conflict("An order needs a placer, filler or accession number.", "no-order-number")
    patient = current_patient(patient)
    for attempt in (1, 2):
        try:
            with transaction.atomic():
                # PostgreSQL: two orders of one patient take turns, so that neither misses the other.
                Patient.objects.select_for_update().get(pk=patient.pk)
                known = find_order(identity)
                if known is not None:
                    return _accept_again(known, patient, identity, source=source)
                order = Order(
                    patient=patient,
                    priority=priority,
                    procedure_code=procedure_code[:100],
                    procedure_text=procedure_text[:200],
                    requested_at=requested_at or now(),
                    source=source,
                    peer=peer[:150],
                )
                _seal(order, identity)
                order.save(force_insert=True)
                record(
                    "order.accept",
                    action="C",
                    resource=f"order:{order.pk}",
                    patient_id=patient.pk,
                    source=source,
                    detail={"priority": priority},
                )
                emit(ORDER_ACCEPTED, subject=f"order:{order.pk}", order_id=order.pk)
                return order
        except IntegrityError:
            if attempt == 2:
                raise _conflict(
                    "A number of this order is already in use by another order.", "order-number-conflict"
                ) from None
    raise AssertionError("unreachable")


def _accept_again(order: Order, patient: Patient, told: OrderIdentity, *, source: str) -> Order:
    if current_patient(order.patient).pk != patient.pk:
        raise _conflict("This order's number belongs to an order for another patient.", "order-patient-conflict")
    known = _load(order)
    fields: dict[str, Any] = {
        name: value for name, value in told.to_json().items() if name != "echo" and value and not getattr(known, name)
    }
    # An authority belongs to its number: never pair a known number with an authority told later for another one.
    for number, authority in (("placer_number", "placer_authority"), ("filler_number", "filler_authority")):
        if authority in fields and number not in fields:
            del fields[authority]
    echo = {**told.echo, **known.echo}
    merged = replace(known, **fields, echo=echo)
    if merged == known:
        return order
    _store(order, merged)
    record("order.change", action="U", resource=f"order:{order.pk}", patient_id=patient.pk, source=source)
    emit(ORDER_CHANGED, subject=f"order:{order.pk}", order_id=order.pk)
    return order


def _store(order: Order, identity: OrderIdentity, **fields: Any) -> None:
    _seal(order, identity)
    for name, value in fields.items():
        setattr(order, name, value)
    order.save()


def _locked(order: Order) -> Order:
    """The row as it is now, locked (SQLite: the transaction is exclusive anyway)."""
    row = Order.objects.select_for_update().get(pk=order.pk)
    row.patient = Patient.objects.get(pk=row.patient_id)
    return row


def change_order(
    order: Order,
    *,
    identity: OrderIdentity | None = None,
    priority: str | None = None,
    procedure_code: str | None = None,
    procedure_text: str | None = None,
    requested_at: datetime | None = None,
    actor: Actor | None = None,
    source: str = "",
) -> Order:
    """Change what is given; emits ``order.changed`` if anything differs. Empty fields of ``identity`` change nothing.

    :raises UserVisibleError: the order is completed or cancelled, or a number belongs to another order.
    """
    if priority is not None and priority not in OrderPriority.values:
        raise _conflict(f"Priority must be one of {', '.join(OrderPriority.values)}.", "bad-priority")
    given: Mapping[str, Any] = {
        "priority": priority,
        "procedure_code": procedure_code[:100] if procedure_code is not None else None,
        "procedure_text": procedure_text[:200] if procedure_text is not None else None,
        "requested_at": requested_at,
    }
    try:
        with transaction.atomic():
            row = _locked(order)
            known = _load(row)
            told = {} if identity is None else {k: str(v) for k, v in identity.to_json().items() if v and k != "echo"}
            merged = replace(known, **told, echo={**known.echo, **(identity.echo if identity else {})})
            fields = {name: value for name, value in given.items() if value is not None and getattr(row, name) != value}
            if merged == known and not fields:
                return row
            try:
                ORDER_MACHINE.advance(row, "change")
            except IllegalMove:
                raise UserVisibleError(
                    f"The order is {row.get_status_display()} and cannot be changed.",
                    what_to_do="Place a new order.",
                    code="order-closed",
                ) from None
            _store(row, merged, **fields)
            record(
                "order.change",
                action="U",
                resource=f"order:{row.pk}",
                patient_id=row.patient_id,
                actor=actor,
                source=source,
                detail={"fields": sorted(fields)},
            )
            emit(ORDER_CHANGED, subject=f"order:{row.pk}", order_id=row.pk)
    except IntegrityError:
        raise _conflict("A number of this order is already in use by another order.", "order-number-conflict") from None
    return row


def cancel_order(order: Order, *, actor: Actor | None = None, source: str = "") -> Order:
    """Cancel; emits ``order.cancelled``. Cancelling again changes nothing.

    :raises UserVisibleError: the order is completed: too late to cancel (ORC-1 answer UC).
    """
    with transaction.atomic():
        row = _locked(order)
        if row.status == OrderStatus.CANCELLED:
            return row
        try:
            ORDER_MACHINE.advance(row, "cancel", updated_at=now())
        except IllegalMove:
            raise UserVisibleError(
                "The order is completed and can no longer be cancelled.",
                what_to_do="Call the department.",
                code="order-completed",
            ) from None
        record(
            "order.cancel",
            action="U",
            resource=f"order:{row.pk}",
            patient_id=row.patient_id,
            actor=actor,
            source=source,
        )
        emit(ORDER_CANCELLED, subject=f"order:{row.pk}", order_id=row.pk)
    return row


def advance_order(order: Order, event: str, *, actor: Actor | None = None) -> Order:
    """Move an order by ``start``, ``complete``, ``release`` or ``reopen``; a move that has been made already is none.

    :raises IllegalMove: the table has no such move from the order's state.
    :raises EngineError: an event that has a function of its own (change, cancel) or does not exist.
    """
    if event not in ("start", "complete", "release", "reopen"):
        raise EngineError(f"order event {event!r} is not one of start, complete, release, reopen")
    target = {"start": "in_progress", "complete": "completed", "release": "requested", "reopen": "in_progress"}[event]
    with transaction.atomic():
        row = _locked(order)
        if row.status == target:
            return row
        ORDER_MACHINE.advance(row, event, updated_at=now())
        record(
            "order.advance",
            action="U",
            resource=f"order:{row.pk}",
            patient_id=row.patient_id,
            actor=actor,
            detail={"status": row.status},
        )
    return row


def reveal_order(order: Order, *, purpose: str, actor: Actor | None = None) -> OrderIdentity:
    """The order's numbers, reason and echo fields; always on the record.

    :param purpose: a short code of why; no identity in it.
    """
    if not purpose.strip():
        raise EngineError("revealing an order needs a purpose")
    with transaction.atomic():
        identity = _load(order)
        record(
            "order.identity",
            action="R",
            resource=f"order:{order.pk}",
            patient_id=order.patient_id,
            actor=actor,
            detail={"purpose": purpose.strip()[:60]},
        )
    return identity
