"""Orders: accepted once, moved only as the table allows."""

from __future__ import annotations

import pytest

from audit.models import AuditRow
from clinical.identity import OrderIdentity
from clinical.models import ORDER_MACHINE, Order
from clinical.orders import (
    accept_order,
    advance_order,
    cancel_order,
    change_order,
    find_order,
    find_order_by_accession,
    find_orders_by_study_uid,
    reveal_order,
)
from oncoflow_site.foundation.errors import EngineError, IllegalMove, UserVisibleError
from oncoflow_site.foundation.models import Event

pytestmark = pytest.mark.django_db

EXPECTED = {
    "requested": {"start": "in_progress", "change": "requested", "cancel": "cancelled", "complete": "completed"},
    "in_progress": {
        "change": "in_progress",
        "cancel": "cancelled",
        "complete": "completed",
        "release": "requested",
    },
    "completed": {"reopen": "in_progress"},
    "cancelled": {},
}


@pytest.mark.parametrize(("state", "event"), list(ORDER_MACHINE.pairs()))
def test_every_pair_of_the_table(state: str, event: str) -> None:
    expected = EXPECTED[state].get(event)
    if expected is None:
        with pytest.raises(IllegalMove):
            ORDER_MACHINE.next(state, event)
    else:
        assert ORDER_MACHINE.next(state, event) == expected


@pytest.fixture
def patient(make_patient):
    return make_patient()


def numbers(**more: str) -> OrderIdentity:
    return OrderIdentity(**{"placer_number": "P1", "placer_authority": "EMR", **more})


def accept(patient, identity: OrderIdentity | None = None, **more) -> Order:
    return accept_order(patient, identity or numbers(), source="mllp", peer="EMR", **more)


def events(kind: str) -> int:
    return Event.objects.filter(kind=kind).count()


def test_an_order_is_accepted_once(patient) -> None:
    order = accept(patient, priority="stat", procedure_code="24587-8")
    assert accept(patient).pk == order.pk
    assert (order.status, order.priority, order.peer) == ("requested", "stat", "EMR")
    assert (Order.objects.count(), events("order.accepted"), events("order.changed")) == (1, 1, 0)
    event = Event.objects.get(kind="order.accepted")
    assert (event.subject, event.payload) == (f"order:{order.pk}", {"order_id": str(order.pk)})


def test_numbers_told_later_are_added_and_nothing_is_overwritten(patient) -> None:
    order = accept(patient, numbers(reason="headache", echo={"ORC-2": "P1^EMR"}))
    accept(patient, numbers(accession="ACC1", reason="something else", echo={"ORC-2": "changed", "ORC-3": "F1"}))
    order.refresh_from_db()
    identity = reveal_order(order, purpose="test")
    assert (identity.accession, identity.reason) == ("ACC1", "headache")
    assert identity.echo == {"ORC-2": "P1^EMR", "ORC-3": "F1"}
    assert find_order_by_accession(" ACC1 ") == order
    assert events("order.changed") == 1


def test_a_number_counts_with_its_authority_only(patient) -> None:
    one = accept(patient)
    two = accept(patient, numbers(placer_authority="OTHER"))
    assert one.pk != two.pk
    assert find_order(numbers()) == one
    assert find_order(numbers(placer_authority="")) is None


def test_filler_number_first_then_placer_then_accession(patient) -> None:
    one = accept(patient, numbers(filler_number="F1", accession="A1"))
    assert find_order(OrderIdentity(filler_number="F1", placer_number="P9")) == one
    assert find_order(OrderIdentity(placer_number="P1", placer_authority="EMR")) == one
    assert find_order(OrderIdentity(accession="A1")) == one
    # One placer order that the filler split into two.
    two = accept(patient, numbers(filler_number="F2", accession="A2"))
    assert two.pk != one.pk
    assert find_order(numbers()) is None
    assert find_order(numbers(accession="A2")) == two


def test_numbers_of_another_patient_are_refused(patient, make_patient) -> None:
    accept(patient)
    with pytest.raises(UserVisibleError) as caught:
        accept(make_patient())
    assert caught.value.code == "order-patient-conflict"
    assert "P1" not in str(caught.value)


def test_an_accession_number_serves_one_order(patient) -> None:
    accept(patient, OrderIdentity(filler_number="F1", accession="A1"))
    other = accept(patient, OrderIdentity(filler_number="F2", accession="A2"))
    with pytest.raises(UserVisibleError) as caught:
        change_order(other, identity=OrderIdentity(accession="A1"))
    assert caught.value.code == "order-number-conflict"
    assert find_order_by_accession("A1").filler_index != other.filler_index


@pytest.mark.parametrize(
    ("identity", "more", "code"),
    [(OrderIdentity(reason="x"), {}, "no-order-number"), (numbers(), {"priority": "urgent"}, "bad-priority")],
)
def test_orders_that_make_no_sense(patient, identity, more, code) -> None:
    with pytest.raises(UserVisibleError) as caught:
        accept(patient, identity, **more)
    assert caught.value.code == code
    assert not Order.objects.exists()


def test_a_change_is_told_and_no_change_is_not(patient) -> None:
    order = accept(patient, procedure_text="MRI brain")
    changed = change_order(order, priority="asap", identity=numbers(accession="A7"))
    assert (changed.priority, find_order_by_accession("A7").pk) == ("asap", order.pk)
    assert events("order.changed") == 1
    change_order(order, priority="asap", identity=numbers())
    assert events("order.changed") == 1
    with pytest.raises(UserVisibleError):
        change_order(order, priority="soon")


def test_cancelling_is_told_once_and_ends_changes(patient) -> None:
    order = accept(patient)
    assert cancel_order(order).status == "cancelled"
    assert cancel_order(order).status == "cancelled"
    assert events("order.cancelled") == 1
    with pytest.raises(UserVisibleError) as caught:
        change_order(order, priority="stat")
    assert caught.value.code == "order-closed"


def test_a_completed_order_cannot_be_cancelled(patient) -> None:
    order = accept(patient)
    advance_order(order, "start")
    advance_order(order, "complete")
    with pytest.raises(UserVisibleError) as caught:
        cancel_order(order)
    assert caught.value.code == "order-completed"
    assert advance_order(order, "reopen").status == "in_progress"
    assert advance_order(order, "release").status == "requested"


def test_moving_twice_is_harmless_and_wrong_moves_are_refused(patient) -> None:
    order = accept(patient)
    assert advance_order(order, "start").status == "in_progress"
    rows = AuditRow.objects.count()
    assert advance_order(order, "start").status == "in_progress"
    assert AuditRow.objects.count() == rows
    cancel_order(order)
    with pytest.raises(IllegalMove):
        advance_order(order, "complete")
    with pytest.raises(EngineError):
        advance_order(order, "cancel")


def test_an_order_that_announced_its_study(patient) -> None:
    order = accept(patient, numbers(study_instance_uid="1.2.3"))
    assert list(find_orders_by_study_uid("1.2.3")) == [order]
    assert not find_orders_by_study_uid("").exists()


def test_revealing_an_order_is_on_the_record_and_its_columns_hold_no_number(patient) -> None:
    order = accept(patient, numbers(accession="SECRETACC", ordering_provider="Dr Who"))
    assert reveal_order(order, purpose="delivery").ordering_provider == "Dr Who"
    row = AuditRow.objects.get(event="order.identity")
    assert (row.resource, row.detail) == (f"order:{order.pk}", {"purpose": "delivery"})
    values = str(Order.objects.values().get()) + str(list(AuditRow.objects.values()))
    assert "SECRETACC" not in values
    assert "SECRETACC" not in repr(reveal_order(order, purpose="delivery"))
