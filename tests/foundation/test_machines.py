"""The state machines: every (state, event) pair."""

from __future__ import annotations

import pytest

from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.machines import StateMachine
from oncoflow_site.foundation.models import DELIVERY_MACHINE, JOB_MACHINE

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
