"""Events and what follows from them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import transaction

from oncoflow_site.foundation import events, jobs
from oncoflow_site.foundation.models import Event, Job
from oncoflow_site.foundation.request_id import bind_request_id

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower() -> None:
    @jobs.job("t.follow", queue="gpu")
    def one(ctx: jobs.JobContext, *, study_id: str) -> None: ...

    events.declare_event("t.happened", "for a test")


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_nothing_is_emitted(follower: None) -> None:
    with pytest.raises(RuntimeError, match="outside a transaction"):
        events.emit("t.happened", subject="s")
    assert not Event.objects.exists()


def test_followers_are_created_with_the_event(follower: None) -> None:
    events.follow("t.happened", "t.follow")
    study = uuid.uuid4()
    with bind_request_id("request-0002"), transaction.atomic():
        event = events.emit("t.happened", subject=f"study:{study}", study_id=study, other_id=3)
    job = Job.objects.get()
    assert event.payload == {"study_id": str(study), "other_id": 3}
    assert (job.kind, job.queue, job.kwargs) == ("t.follow", "gpu", {"study_id": str(study)})
    assert (job.subject, job.request_id, job.event_id) == (event.subject, "request-0002", event.id)
    assert job.idempotency_key == f"event:{event.id}:t.follow"


def test_event_and_followers_vanish_together(follower: None) -> None:
    events.follow("t.happened", "t.follow", study_id="missing")
    with pytest.raises(LookupError, match="missing"), transaction.atomic():
        events.emit("t.happened", subject="s", study_id="x")
    assert not Event.objects.exists()
    assert not Job.objects.exists()


def test_names_may_differ_and_a_line_said_again_replaces_the_old(follower: None) -> None:
    events.follow("t.happened", "t.follow", ("study_id",))
    events.follow("t.happened", "t.follow", study_id="prior_id")
    events.emit("t.happened", subject="s", prior_id="p")
    assert Job.objects.get().kwargs == {"study_id": "p"}


def test_what_follows_only_with_a_setting_waits_for_it(follower: None, settings: Any) -> None:
    events.follow("t.happened", "t.follow", only_with="ONCOFLOW_DEFACE")
    settings.ONCOFLOW_DEFACE = False
    events.emit("t.happened", subject="s", study_id="a")
    assert not Job.objects.exists()
    settings.ONCOFLOW_DEFACE = True
    events.emit("t.happened", subject="s", study_id="b")
    assert Job.objects.get().kwargs == {"study_id": "b"}


def test_the_event_itself_may_be_passed() -> None:
    @jobs.job("t.tell")
    def tell(ctx: jobs.JobContext, *, kind: str, subject: str) -> None: ...

    events.declare_event("t.happened")
    events.follow("t.happened", "t.tell", pass_event=True)
    events.emit("t.happened", subject="study:9", kind="payload's own")
    assert Job.objects.get().kwargs == {"kind": "t.happened", "subject": "study:9"}


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], 1.5, b"x", "x" * 201])
def test_payloads_hold_ids_only(follower: None, value: Any) -> None:
    with pytest.raises(TypeError, match="must be an id"):
        events.emit("t.happened", subject="s", thing=value)


def test_undeclared_kinds_are_refused() -> None:
    with pytest.raises(LookupError):
        events.emit("t.never-declared", subject="s")


def test_events_without_a_line_are_found(follower: None) -> None:
    assert "t.happened" in events.events_without_a_line()
    events.nothing_follows("t.happened", "a record is enough")
    assert "t.happened" not in events.events_without_a_line()
    assert events.followers()["t.happened"] == ()
    events.follow("t.misspelt", "t.follow")
    assert "t.misspelt" in events.events_without_a_line()
