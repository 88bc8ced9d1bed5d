"""Health: is this process alive, and can the service do its work."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connection
from django.db.models import Max

from oncoflow_site.foundation import huey_app, keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import safe_error_text
from oncoflow_site.foundation.models import WorkerHeartbeat

__all__ = ["SILENT_AFTER", "Check", "live", "ready", "workers"]

SILENT_AFTER = timedelta(seconds=60)
"""A queue whose workers have all been silent for this long has nobody to work on it."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check. ``detail`` is for operators and names no patient."""

    name: str
    ok: bool
    detail: str = ""


def live() -> tuple[Check, ...]:
    """This process answers. Touches nothing outside it, so that a slow database does not get the web server killed."""
    return (Check("process", True),)


def ready(*, need_workers: bool = True) -> tuple[Check, ...]:
    """Database, keyset, object storage, and (``need_workers``) a living worker for each queue."""
    checks = [_try("database", _database), _try("keyset", _keyset), _try("storage", _storage)]
    if need_workers:
        checks += [_try(f"queue {name}", lambda name=name: _worker(name)) for name in huey_app.QUEUES]  # type: ignore[misc]
    return tuple(checks)


def workers() -> dict[str, float | None]:
    """Seconds since the last sign of life of each queue's youngest worker; None when there never was one."""
    moment = now()
    seen = dict(WorkerHeartbeat.objects.values_list("queue").annotate(last=Max("beat_at")))
    return {name: (moment - seen[name]).total_seconds() if name in seen else None for name in huey_app.QUEUES}


def _try(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Exception as error:
        return Check(name, False, safe_error_text(error) if not isinstance(error, _NotReady) else str(error))


class _NotReady(Exception):
    pass


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    return connection.vendor


def _keyset() -> str:
    keys.self_test()
    return "opens"


_STORAGE_GOOD_FOR_S = 15.0
_storage_seen: tuple[float, str] = (float("-inf"), "")


def _storage() -> str:
    """Writes, reads and deletes a probe, at most every quarter of a minute: anybody may ask how we are."""
    global _storage_seen
    storage = storages["objects"]
    if time.monotonic() - _storage_seen[0] < _STORAGE_GOOD_FOR_S:
        return _storage_seen[1]
    name = storage.save(f"health/{uuid.uuid4().hex}", ContentFile(b"probe"))
    try:
        with storage.open(name, "rb") as stream:
            if stream.read() != b"probe":
                raise _NotReady("what was written is not what is read")
    finally:
        storage.delete(name)
    _storage_seen = (time.monotonic(), "writable")
    return _storage_seen[1]


def _worker(name: str) -> str:
    age = workers()[name]
    if age is None or age > SILENT_AFTER.total_seconds():
        raise _NotReady("no worker has given a sign of life" + ("" if age is None else f" for {age:.0f} s"))
    return f"last sign of life {age:.0f} s ago"
