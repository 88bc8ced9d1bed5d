"""Events: facts recorded together with what they tell, and the jobs that follow from them.

A room declares its event kinds and emits them; ``oncoflow_site.workflow`` says what follows. The event row, the change
it tells and the follower jobs commit or vanish together, and each (event, job kind) becomes a job at most once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.conf import settings
from django.db import transaction

from oncoflow_site.foundation import jobs
from oncoflow_site.foundation.models import Event
from oncoflow_site.foundation.request_id import current_request_id

__all__ = [
    "Follower",
    "declare_event",
    "declared_events",
    "emit",
    "events_without_a_line",
    "follow",
    "followers",
    "nothing_follows",
]


@dataclass(frozen=True)
class Follower:
    """One line of the workflow: when ``event_kind`` is emitted, ``job_kind`` is enqueued.

    :param mapping: job keyword -> payload key. Empty: every payload entry that the job's function takes by that name.
    :param pass_event: the job takes the event's ``kind`` and ``subject`` instead of its payload.
    :param priority: of the job; below 0 it waits for the others.
    :param only_with: a setting; while it is off, nothing follows.
    """

    event_kind: str
    job_kind: str
    mapping: Mapping[str, str] = field(default_factory=dict)
    pass_event: bool = False
    priority: int = 0
    only_with: str = ""


_declared: dict[str, str] = {}
_followers: dict[str, list[Follower]] = {}
_nothing: dict[str, str] = {}


def declare_event(kind: str, description: str = "") -> str:
    """Make ``kind`` known and return it, so that it can be kept as a constant. Declaring twice is harmless."""
    if not kind or len(kind) > 100:
        raise ValueError(f"bad event kind {kind!r}")
    _declared[kind] = description or _declared.get(kind, "")
    return kind


def follow(
    event_kind: str,
    job_kind: str,
    arguments: Iterable[str] = (),
    *,
    pass_event: bool = False,
    priority: int = 0,
    only_with: str = "",
    **mapping: str,
) -> None:
    """Say that ``job_kind`` follows ``event_kind``. Saying the same line again replaces it.

    :param arguments: payload keys handed over under their own name.
    :param mapping: job keyword = payload key, where the names differ. Without either, the payload entries that the
        job's
        function takes are handed over by name.
    :param pass_event: hand over the event's ``kind`` and ``subject`` and nothing else.
    :param priority: of the job; below 0 it waits for the others of its queue.
    :param only_with: name of a setting; while it is off, nothing follows.
    """
    lines = _followers.setdefault(event_kind, [])
    lines[:] = [line for line in lines if line.job_kind != job_kind]
    names = {name: name for name in arguments} | mapping
    lines.append(Follower(event_kind, job_kind, MappingProxyType(names), pass_event, priority, only_with))


def nothing_follows(event_kind: str, why: str = "") -> None:
    """Say on purpose that nothing follows ``event_kind``."""
    _nothing[event_kind] = why


def declared_events() -> Mapping[str, str]:
    """Every declared event kind with its description."""
    return MappingProxyType(dict(_declared))


def followers() -> Mapping[str, tuple[Follower, ...]]:
    """The workflow's lines by event kind; a kind that `nothing_follows` named has an empty tuple."""
    lines: dict[str, tuple[Follower, ...]] = dict.fromkeys(_nothing, ())
    lines.update({kind: tuple(one) for kind, one in _followers.items()})
    return MappingProxyType(lines)


def events_without_a_line() -> tuple[str, ...]:
    """Declared kinds about which the workflow says nothing, and kinds it mentions that nobody declared."""
    known = followers()
    return tuple(sorted((_declared.keys() - known.keys()) | (known.keys() - _declared.keys())))


def _plain(kind: str, key: str, value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str) and len(value) <= 200:
        return value
    raise TypeError(f"event {kind}: payload {key!r} must be an id (UUID, short text, int, bool or None)")


def emit(kind: str, /, *, subject: str, **payload: Any) -> Event:
    """Record that something happened, and the jobs that follow from it, in the caller's transaction.

    :param subject: e.g. ``"study:<uuid>"``.
    :param payload: ids only; UUIDs are written as text.
    :raises RuntimeError: outside ``transaction.atomic``: the event could outlive what it tells.
    :raises LookupError: for a kind that nobody declared.
    """
    if kind not in _declared:
        raise LookupError(f"event {kind!r} is not declared")
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError(f"event {kind!r} emitted outside a transaction")
    clean = {key: _plain(kind, key, value) for key, value in payload.items()}
    event = Event.objects.create(
        kind=kind, subject=subject, payload=clean, request_id=current_request_id(), dispatched=True
    )
    for line in _followers.get(kind, ()):
        if line.only_with and not getattr(settings, line.only_with):
            continue
        jobs.enqueue(
            line.job_kind,
            subject=subject,
            key=f"event:{event.id}:{line.job_kind}",
            kwargs=_arguments(line, event),
            event=event,
            must_be_registered=False,
            priority=line.priority,
        )
    return event


def _arguments(line: Follower, event: Event) -> dict[str, Any]:
    if line.pass_event:
        return {"kind": event.kind, "subject": event.subject}
    payload: Mapping[str, Any] = event.payload
    if line.mapping:
        missing = [name for name in line.mapping.values() if name not in payload]
        if missing:
            raise LookupError(f"event {line.event_kind!r} carries no {', '.join(missing)} for {line.job_kind!r}")
        return {name: payload[source] for name, source in line.mapping.items()}
    wanted = jobs.parameters(line.job_kind)
    return {name: value for name, value in payload.items() if name in wanted}
