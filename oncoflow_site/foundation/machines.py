"""State machines as data: a table (state, event) -> state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oncoflow_site.foundation.errors import IllegalMove

__all__ = ["StateMachine"]


@dataclass(frozen=True)
class StateMachine:
    """A transition table.

    :param name: used in error messages.
    :param states: every state, in reading order.
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
