"""The state machines: every (state, event) pair."""

from __future__ import annotations

import pytest
from django.db.models import F

from oncoflow_site.foundation import machines
from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.machines import StateMachine
from oncoflow_site.foundation.models import DELIVERY_MACHINE, JOB_MACHINE, Event, Job

JOB = {
    "claim": {"waiting": "running"},
    "finish": {"running": "done"},
    "postpone": {"running": "waiting"},
    "refuse": {"running": "failed"},
    "exhaust": {"running": "dead"},
    "cancel": {"waiting": "cancelled", "running": "cancelled"},
    "retry": {"failed": "waiting", "dead": "waiting", "cancelled": "waiting"},
}
DELIVERY = {
    "send": {"waiting": "sending", "sending": "sending"},
    "accept": {"sending": "delivered"},
    "postpone": {"sending": "waiting"},
    "refuse": {"sending": "failed"},
    "exhaust": {"sending": "dead"},
    "resend": {"failed": "waiting", "dead": "waiting"},
    "abandon": {"waiting": "abandoned", "failed": "abandoned", "dead": "abandoned"},
}


@pytest.mark.parametrize(
    ("machine", "expected", "state", "event"),
    [(m, e, s, v) for m, e in ((JOB_MACHINE, JOB), (DELIVERY_MACHINE, DELIVERY)) for s, v in m.pairs()],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", ""),
)
def test_every_pair(machine: StateMachine, expected: dict[str, dict[str, str]], state: str, event: str) -> None:
    target = expected[event].get(state)
    if target is None:
        with pytest.raises(IllegalMove, match=event):
            machine.next(state, event)
        assert state not in machine.sources(event)
    else:
        assert machine.next(state, event) == target
        assert state in machine.sources(event)


def test_the_tables_know_no_other_event() -> None:
    assert set(JOB_MACHINE.events) == set(JOB)
    assert set(DELIVERY_MACHINE.events) == set(DELIVERY)


def test_a_table_with_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        StateMachine("broken", ("here",), {("here", "go"): "nowhere"})


def test_what_nothing_leaves_is_terminal() -> None:
    assert JOB_MACHINE.terminal == ("done",)
    assert DELIVERY_MACHINE.terminal == ("delivered", "abandoned")


def job(key: str, state: str = "waiting") -> Job:
    return Job.objects.create(kind="t", queue="default", subject="s", idempotency_key=key, state=state)


@pytest.mark.django_db
def test_the_executor_moves_what_the_table_allows_and_leaves_the_rest() -> None:
    rows = {state: job(state, state) for state in JOB_MACHINE.states}
    assert JOB_MACHINE.apply(Job.objects.all(), "cancel", error="stopped") == 2
    after = {row.idempotency_key: (row.state, row.error) for row in Job.objects.all()}
    moved = {"waiting": ("cancelled", "stopped"), "running": ("cancelled", "stopped")}
    assert after == {state: moved.get(state, (state, "")) for state in rows}
    with pytest.raises(IllegalMove, match="no event 'explode'"):
        JOB_MACHINE.apply(Job.objects.all(), "explode")
    with pytest.raises(LookupError, match="Event is not governed"):
        JOB_MACHINE.apply(Event.objects.all(), "cancel")
    with pytest.raises(LookupError, match="Job is not governed by the delivery machine"):
        DELIVERY_MACHINE.apply(Job.objects.all(), "send")


@pytest.mark.django_db
def test_one_event_may_lead_to_different_states(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StateMachine("job", JOB_MACHINE.states, {("failed", "x"): "waiting", ("dead", "x"): "cancelled"})
    monkeypatch.setitem(machines._governed, Job, machines.Governed(machine, "state"))
    for state in ("failed", "dead", "done"):
        job(state, state)
    assert machine.apply(Job.objects.all(), "x") == 2
    states = dict(Job.objects.values_list("idempotency_key", "state"))
    assert states == {"failed": "waiting", "dead": "cancelled", "done": "done"}


@pytest.mark.django_db
def test_one_row_that_must_move_does_or_raises() -> None:
    row = job("a")
    stale = Job.objects.get(pk=row.pk)
    JOB_MACHINE.advance(row, "claim", attempts=F("attempts") + 1)
    assert (row.state, row.attempts) == ("running", 1)
    with pytest.raises(IllegalMove, match="'claim' is not possible in state 'running'"):
        JOB_MACHINE.advance(stale, "claim")
