"""Every (state, event) pair of both machines."""

from __future__ import annotations

import pytest

from oncoflow_site.foundation.errors import IllegalMove
from reports.states import REPORT_MACHINE, VERSION_MACHINE

LEGAL = {
    "report": {
        ("drafting", "draft", "drafting"),
        ("held", "draft", "drafting"),
        ("preliminary", "draft", "drafting"),
        ("final", "draft", "drafting"),
        ("amended", "draft", "drafting"),
        ("drafting", "issue", "preliminary"),
        ("drafting", "hold", "held"),
        ("drafting", "fail", "failed"),
        ("failed", "draft", "drafting"),
        ("failed", "issue", "preliminary"),
        ("failed", "hold", "held"),
        ("held", "sign", "final"),
        ("preliminary", "sign", "final"),
        ("held", "amend", "amended"),
    },
    "report version": {
        ("draft", "issue", "preliminary"),
        ("draft", "hold", "held"),
        ("draft", "overtake", "superseded"),
        ("held", "overtake", "superseded"),
    },
}
PAIRS = [(machine, state, event) for machine in (REPORT_MACHINE, VERSION_MACHINE) for state, event in machine.pairs()]


@pytest.mark.parametrize(("machine", "state", "event"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_pair(machine, state: str, event: str) -> None:
    targets = {target for first, by, target in LEGAL[machine.name] if (first, by) == (state, event)}
    if targets:
        assert {machine.next(state, event)} == targets
    else:
        with pytest.raises(IllegalMove):
            machine.next(state, event)


def test_nothing_leaves_an_issued_status() -> None:
    assert not [
        state for state, _ in VERSION_MACHINE.table if state in ("preliminary", "final", "amended", "superseded")
    ]
