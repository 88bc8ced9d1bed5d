"""The state tables against the code: every event that is fired is in its table, every event of a table is fired."""

from __future__ import annotations

import pytest

from oncoflow_site.foundation.machines import StateMachine, governed
from oncoflow_site.foundation.models import DELIVERY_MACHINE, JOB_MACHINE
from tests.state_tables import fired_events

MACHINES = (JOB_MACHINE, DELIVERY_MACHINE)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_what_is_fired_and_what_the_table_has_are_the_same(machine: StateMachine) -> None:
    fired = [one for one in fired_events() if one.machine is machine]
    assert [one.place for one in fired if one.event is None] == [], "the event must be a literal"
    assert {one.event for one in fired} == set(machine.events)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_state_is_reached_and_every_machine_has_its_model(machine: StateMachine) -> None:
    assert {machine.states[0], *machine.table.values()} == set(machine.states)
    assert [model.__name__ for model, bound in governed().items() if bound.machine is machine]
