"""What may be recorded, and how."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.db import transaction

from audit.actors import Actor, acting_as
from audit.codes import UndeclaredCodeError, declare_code
from audit.models import AppendOnlyError, AuditRow
from audit.services import record, record_refusal, record_view
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError
from oncoflow_site.foundation.request_id import bind_request_id

pytestmark = pytest.mark.django_db
declare_code("test.act", "A test acted")


def test_a_row_says_who_did_what_to_which_record() -> None:
    patient = uuid.uuid4()
    with bind_request_id("request-0001"), acting_as(Actor("user", "u1", "radiologist"), source="web"):
        row = record(
            "test.act", action="U", resource="study:1", patient_id=str(patient), detail={"n": 3, "ids": [patient]}
        )
    row.refresh_from_db()
    assert (row.actor_type, row.actor_id, row.actor_role) == ("user", "u1", "radiologist")
    assert (row.action, row.event, row.resource, row.patient) == ("U", "test.act", "study:1", patient)
    assert (row.outcome, row.request_id, row.source) == (0, "request-0001", "web")
    assert row.detail == {"n": 3, "ids": [str(patient)]}


def test_without_an_actor_it_was_the_service_itself() -> None:
    assert record("test.act", action="E", resource="").actor_type == "system"


def test_an_actor_ends_with_its_block_and_a_late_one_is_asked_each_time() -> None:
    answers = iter([Actor.peer("first"), Actor.peer("second")])
    with acting_as(lambda: next(answers)):
        assert record("test.act", action="R", resource="").actor_id == "first"
        assert record("test.act", action="R", resource="").actor_id == "second"
    assert record("test.act", action="R", resource="").actor_id == "oncoflow"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"event": "test.never_declared"}, "declared"),
        ({"action": "X"}, "action"),
        ({"outcome": 1}, "outcome"),
        ({"detail": {"mrn": "12345"}}, "identity"),
        ({"detail": {"Family": "x"}}, "identity"),
        ({"detail": {"note": "x" * 201}}, "longer"),
        ({"detail": {"nested": {"a": 1}}}, "plain"),
        ({"detail": {"data": b"x"}}, "plain"),
    ],
)
def test_what_could_hold_identity_or_makes_no_sense_is_refused(change: dict, why: str) -> None:
    arguments = {"event": "test.act", "action": "R", "resource": "study:1", **change}
    with pytest.raises(EngineError, match=why):
        record(arguments.pop("event"), **arguments)
    assert not AuditRow.objects.exists()


def test_a_row_shares_the_fate_of_what_it_tells() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record("test.act", action="C", resource="study:1")
        raise ZeroDivisionError
    assert not AuditRow.objects.exists()


def test_a_code_has_one_meaning() -> None:
    declare_code("test.act", "A test acted")
    with pytest.raises(EngineError, match="twice"):
        declare_code("test.act", "Something else")
    with pytest.raises(EngineError, match="lower case"):
        declare_code("Test Act", "x")
    assert issubclass(UndeclaredCodeError, EngineError)


def test_views_of_frames_make_one_row_a_minute_per_person_and_record() -> None:
    one, other = Actor("user", "u1"), Actor("user", "u2")
    assert record_view("test.act", resource="study:1", actor=one) is not None
    assert record_view("test.act", resource="study:1", actor=one) is None
    assert record_view("test.act", resource="study:2", actor=one) is not None
    assert record_view("test.act", resource="study:1", actor=other) is not None
    assert AuditRow.objects.count() == 3


def test_a_view_is_recorded_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    record_view("test.act", resource="study:1", actor=Actor("user", "u1"))
    monkeypatch.setattr("audit.services.now", lambda: now() + timedelta(seconds=61))
    assert record_view("test.act", resource="study:1", actor=Actor("user", "u1")) is not None


def test_the_model_gives_no_way_to_change_a_row() -> None:
    row = record("test.act", action="R", resource="")
    row.event = "test.other"
    for attempt in (row.save, row.delete, AuditRow.objects.all().delete, lambda: AuditRow.objects.update(event="x")):
        with pytest.raises(AppendOnlyError):
            attempt()
    assert AuditRow.objects.get().event == "test.act"


@pytest.mark.django_db(transaction=True)
def test_a_refusal_inside_somebody_elses_transaction_is_an_error_not_a_lost_row() -> None:
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        record_refusal("test.act", action="R", resource="study:1")
    row = record_refusal("test.act", action="R", resource="study:1")
    assert row.outcome == 4
