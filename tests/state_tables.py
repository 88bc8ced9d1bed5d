"""Which events of which state machine the product fires, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from oncoflow_site.foundation.machines import StateMachine
from tests.rules import ROOT, product_files

__all__ = ["Fired", "fired_events"]

EXECUTORS = {"apply": 1, "advance": 1, "next": 1}
"""Methods of a machine that make a move -> where among their arguments the event stands."""


@dataclass(frozen=True)
class Fired:
    """One call of an executor. ``event`` is None where it is no literal."""

    machine: StateMachine
    event: str | None
    place: str


def fired_events() -> list[Fired]:
    """Every move that the product makes, in the order of its files."""
    return [fired for path in product_files() for fired in _of_file(path)]


def _of_file(path: Path) -> Iterator[Fired]:
    text = path.read_text(encoding="utf-8")
    if "_MACHINE" not in text or (path.name == "machines.py" and path.parent.name == "foundation"):
        return
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        if node.func.attr not in EXECUTORS or not isinstance(owner, (ast.Name, ast.Attribute)):
            continue
        name = owner.id if isinstance(owner, ast.Name) else owner.attr
        machine = getattr(module, name, None) if isinstance(owner, ast.Name) else None
        if not name.endswith("_MACHINE"):
            continue
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        assert isinstance(machine, StateMachine), f"{place}: import {name} by its name"
        events = node.args[EXECUTORS[node.func.attr]]
        for event in _literals(events):
            yield Fired(machine, event, place)


def _literals(node: ast.expr) -> list[str | None]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _literals(node.body) + _literals(node.orelse)
    return [None]
