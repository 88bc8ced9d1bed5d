"""The state tables against the code: every event that is fired is in its table, every event of a table is fired."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps

from oncoflow_site.foundation.machines import StateMachine, governed
from tests.state_tables import fired_events

MACHINES = {bound.machine.name: bound.machine for bound in governed().values()}
WITHOUT_A_TABLE = {
    "inference.ModelVersion": "a standing, set to any other by a person with a reason (inference.registry.standing)",
}
"""Models whose state has no machine, and why."""


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_what_is_fired_and_what_the_table_has_are_the_same(machine: StateMachine) -> None:
    fired = [one for one in fired_events() if one.machine is machine]
    assert [one.place for one in fired if one.event is None] == [], "the event must be a literal"
    assert {one.event for one in fired} == set(machine.events)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_every_state_is_reached(machine: StateMachine) -> None:
    reached = {machine.states[0], *machine.table.values(), *BEGINNINGS.get(machine.name, ())}
    assert reached == set(machine.states)


BEGINNINGS = {
    "HL7 message": ("ignored", "refused"),  # what the door says of a message when it stores it
    "expert run": ("not_run",),
    "instance": ("quarantined",),
    "fusion choice": ("done",),  # the automatic one
    "report version": ("final", "amended"),  # what a person signs is a new version
}
"""States in which rows begin, beside the first of the table."""


def test_every_model_with_a_state_has_its_table() -> None:
    known = {model._meta.label for model in governed()}
    rooms = {"foundation", "clinical", "imaging", "inference", "reports", "fhir_api"}

    def has_state(model: Any) -> bool:
        names = {field.name for field in model._meta.fields if getattr(field, "choices", None)}
        return bool(names & {"state", "status"}) and not model._meta.proxy

    wanted = {model._meta.label for model in apps.get_models() if model._meta.app_label in rooms and has_state(model)}
    assert wanted == known | WITHOUT_A_TABLE.keys()
