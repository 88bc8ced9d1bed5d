"""Which events of which state machine the product fires, read from its source.

A function that hands one of its own arguments on as the event is followed to its callers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from oncoflow_site.foundation.machines import StateMachine
from tests.rules import EXECUTOR, ROOT, product_files

__all__ = ["Fired", "fired_events"]

MOVES = {"apply", "advance", "next"}
"""Methods of a machine that make a move; the event is their second argument."""


@dataclass(frozen=True)
class Fired:
    """One move. ``event`` is None where it is neither a literal nor an argument of the function around it."""

    machine: StateMachine
    event: str | None
    place: str


@dataclass(frozen=True)
class _Wrapper:
    machine: StateMachine
    position: int


def fired_events() -> list[Fired]:
    """Every move that the product makes, in the order of its files."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in product_files()}
    trees = {path: tree for path, tree in trees.items() if str(path.relative_to(ROOT)) != EXECUTOR}
    fired: list[Fired] = []
    wrappers: dict[str, _Wrapper] = {}
    for path, tree in trees.items():
        for around, call, machine in _moves(path, tree):
            event = call.args[1]
            arguments = [one.arg for one in around.args.args] if around is not None else []
            if around is not None and isinstance(event, ast.Name) and event.id in arguments:
                wrappers[around.name] = _Wrapper(machine, arguments.index(event.id))
            else:
                fired += [Fired(machine, one, _place(path, call)) for one in _literals(event)]
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (wrapper := wrappers.get(_name(node.func))):
                event = node.args[wrapper.position]
                fired += [Fired(wrapper.machine, one, _place(path, node)) for one in _literals(event)]
    return fired


def _moves(path: Path, tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | None, ast.Call, StateMachine]]:
    """Each call of an executor with the function around it and its machine."""

    def visit(node: ast.AST, around: ast.FunctionDef | None) -> Iterator[tuple[ast.FunctionDef | None, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr in MOVES:
                owner = child.func.value
                if isinstance(owner, ast.Name) and owner.id.endswith("_MACHINE"):
                    yield around, child
            yield from visit(child, child if isinstance(child, ast.FunctionDef) else around)

    found = list(visit(tree, None))
    if not found:
        return
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for around, call in found:
        assert isinstance(call.func, ast.Attribute)
        assert isinstance(call.func.value, ast.Name)
        yield around, call, getattr(module, call.func.value.id)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _place(path: Path, node: ast.Call) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def _literals(node: ast.expr) -> list[str | None]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _literals(node.body) + _literals(node.orelse)
    return [None]
