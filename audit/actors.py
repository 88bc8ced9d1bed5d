"""Who acts at the moment: set once at the door (middleware, listener, worker), read wherever a row is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from audit.models import ActorType

__all__ = ["Actor", "acting_as", "current_actor", "current_source", "from_source"]


@dataclass(frozen=True)
class Actor:
    """An acting person, peer or component.

    :param type: ``user``, ``peer`` or ``system``.
    :param id: user id, peer name as configured, or component name; never a patient's name.
    :param role: role of a person at the time of the act.
    """

    type: str
    id: str
    role: str = ""

    @staticmethod
    def user(user: Any) -> Actor:
        """The person ``user`` (a saved user with a ``role``)."""
        return Actor(ActorType.USER.value, str(user.pk), str(getattr(user, "role", "")))

    @staticmethod
    def peer(name: str) -> Actor:
        """Another system, by its configured name (AE title, HL7 application, token owner)."""
        return Actor(ActorType.PEER.value, name[:150])

    @staticmethod
    def system(name: str) -> Actor:
        """A component of this service, e.g. ``worker`` or a command's name."""
        return Actor(ActorType.SYSTEM.value, name[:150])


_actor: ContextVar[Actor | Callable[[], Actor] | None] = ContextVar("oncoflow_actor", default=None)
_source: ContextVar[str] = ContextVar("oncoflow_audit_source", default="")


def current_actor() -> Actor:
    """The actor set by `acting_as`; the service itself where none is set."""
    actor = _actor.get()
    if actor is None:
        return Actor.system("oncoflow")
    return actor() if callable(actor) else actor


def current_source() -> str:
    """The component set by `from_source` or `acting_as`, or an empty string."""
    return _source.get()


@contextmanager
def acting_as(actor: Actor | Callable[[], Actor], *, source: str = "") -> Iterator[None]:
    """Everything recorded inside is ``actor``'s doing, from ``source`` (web, fhir, mllp, dicom, worker, command).

    A callable is asked each time something is recorded: for a door where the caller is known only later.
    """
    token = _actor.set(actor)
    source_token = _source.set(source or _source.get())
    try:
        yield
    finally:
        _actor.reset(token)
        _source.reset(source_token)


@contextmanager
def from_source(source: str) -> Iterator[None]:
    """Name the component that records inside."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)
