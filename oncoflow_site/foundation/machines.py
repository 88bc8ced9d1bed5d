"""State machines as data, and the one executor that walks them.

A machine is a table (state, event) -> state. `StateMachine.governs` binds it to the column of a model; from then on that
column changes through `StateMachine.apply` (any number of rows) or `StateMachine.advance` (one row) and in no other
place: both are one UPDATE whose WHERE names the states that the table allows, so of two that move the same row at the
same time one finds it moved already. Events are written as literals at the call, so that a test can hold those that are
fired against the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from oncoflow_site.foundation.errors import IllegalMove

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

__all__ = ["Governed", "StateMachine", "governed"]

M = TypeVar("M", bound="type[Model]")


class Governed(NamedTuple):
    """The machine of a model and the column that holds its state."""

    machine: StateMachine
    field: str


_governed: dict[type[Any], Governed] = {}


def governed() -> Mapping[type[Any], Governed]:
    """Every model whose state a machine governs."""
    return MappingProxyType(_governed)


@dataclass(frozen=True)
class StateMachine:
    """A transition table.

    :param name: used in error messages.
    :param states: every state, in reading order; a row begins in the first one unless its maker says otherwise.
    :param table: (state, event) -> next state. A pair that is not in the table is illegal.
    """

    name: str
    states: tuple[str, ...]
    table: Mapping[tuple[str, str], str]

    def __post_init__(self) -> None:
        for (state, event), target in self.table.items():
            for one in (state, target):
                if one not in self.states:
                    raise ValueError(f"{self.name}: {one!r} in ({state!r}, {event!r}) is not a state")

    @property
    def events(self) -> tuple[str, ...]:
        """Every event, in order of first appearance."""
        return tuple(dict.fromkeys(event for _, event in self.table))

    @property
    def terminal(self) -> tuple[str, ...]:
        """States that nothing leaves."""
        left = {state for (state, _), target in self.table.items() if target != state}
        return tuple(state for state in self.states if state not in left)

    def next(self, state: str, event: str) -> str:
        """The state after ``event``; raises `IllegalMove` when the table has no such pair."""
        try:
            return self.table[state, event]
        except KeyError:
            raise IllegalMove(f"{self.name}: {event!r} is not possible in state {state!r}") from None

    def sources(self, event: str) -> tuple[str, ...]:
        """States in which ``event`` is legal (what a compare-and-swap puts in its WHERE)."""
        return tuple(state for state in self.states if (state, event) in self.table)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every (state, event) pair, legal or not: what a test walks through."""
        for state in self.states:
            for event in self.events:
                yield state, event

    def governs(self, field: str = "state") -> Callable[[M], M]:
        """Class decorator: ``field`` of this model changes by this machine only."""

        def bind(model: M) -> M:
            _governed[model] = Governed(self, field)
            return model

        return bind

    def apply(self, rows: QuerySet[Any], event: str, /, **fields: Any) -> int:
        """Compare-and-swap: move those of ``rows`` whose state allows ``event``, writing ``fields`` with the move.

        One UPDATE; rows in any other state stay as they are. Returns how many moved.

        :raises IllegalMove: the table has no such event at all. :raises LookupError: the model is not this machine's.
        """
        from django.db.models import Case, CharField, Value, When

        field = self._field(rows.model)
        moves = {state: self.table[state, event] for state in self.sources(event)}
        if not moves:
            raise IllegalMove(f"{self.name}: there is no event {event!r}")
        targets = sorted(set(moves.values()))
        target: Any = targets[0]
        if len(targets) > 1:
            whens = [When(**{field: state}, then=Value(then)) for state, then in moves.items()]
            target = Case(*whens, output_field=CharField())
        return rows.filter(**{f"{field}__in": list(moves)}).update(**{field: target}, **fields)

    def advance(self, row: Model, event: str, /, **fields: Any) -> None:
        """`apply` for one row that must move; the object in memory gets the new state and ``fields`` too.

        :raises IllegalMove: the state that the row has in the database does not allow it.
        """
        kept = type(row)._default_manager.filter(pk=row.pk)
        field = self._field(type(row))
        if not self.apply(kept, event, **fields):
            state = kept.values_list(field, flat=True).first()
            raise IllegalMove(f"{self.name}: {event!r} is not possible in state {state!r}")
        row.refresh_from_db(fields=[field, *fields])

    def _field(self, model: type[Any]) -> str:
        bound = _governed.get(model._meta.concrete_model)
        if bound is None or bound.machine is not self:
            raise LookupError(f"{model.__name__} is not governed by the {self.name} machine")
        return bound.field
