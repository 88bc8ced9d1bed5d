"""The tests' own process inside an installation: reads commands as JSON lines, answers each with one JSON line.

It also starts the workers, by fork: they are processes like any other to the kernel, the database and SIGKILL, but do
not take seconds to import Django each time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections, transaction  # noqa: E402

from oncoflow_site.foundation import failpoints, jobs, objects, worker  # noqa: E402
from oncoflow_site.foundation.models import Delivery, Event, Job, StoredObject  # noqa: E402
from tests.durability.effects.models import Effect  # noqa: E402


def produce(lane: str, first: int, last: int) -> None:
    """Enqueue jobs ``<lane><number>``, one transaction each."""
    for number in range(first, last):
        name = f"{lane}{number:03d}"
        with transaction.atomic():
            jobs.enqueue("effects.make", subject=f"lane:{lane}", key=f"make:{name}", kwargs={"name": name})


def enqueue(kind: str, *names: str) -> None:
    """Enqueue one job without arguments, or one for each of ``names``."""
    for name in names:
        jobs.enqueue(kind, subject=f"lane:{name[0]}", key=f"{kind}:{name}", kwargs={"name": name})
    if not names:
        jobs.enqueue(kind, subject="s", key=kind, kwargs={})


def look() -> dict[str, Any]:
    """Count everything."""
    rows = list(Job.objects.values_list("kind", "state"))  # one look: "open" must not be of a later moment
    return {
        "jobs": dict(Counter(f"{kind} {state}" for kind, state in rows)),
        "open": sum(state in ("waiting", "running") for _, state in rows),
        "effects": dict(Counter(f"{e.stage} {e.name}" for e in Effect.objects.all())),
        "made": Event.objects.filter(kind="effects.made").count(),
        "done": Event.objects.filter(kind="delivery.done").count(),
        "deliveries": dict(Counter(Delivery.objects.values_list("state", flat=True))),
        "objects": StoredObject.objects.filter(kind="effect").count(),
        "unreadable": sum(not _readable(stored) for stored in StoredObject.objects.all()),
    }


def _readable(stored: StoredObject) -> bool:
    return len(objects.get(stored)) == stored.size > 0


def prepare() -> None:
    """Tables and keys."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("init_keys", stdout=sys.stderr)


def start(kind: str, failpoint: str, *arguments: Any) -> int:
    """Fork a process that works on a queue (kind ``work``) or produces jobs; returns its id."""
    connections.close_all()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        # The parent's pipes are the parent's: only its log is shared.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        failpoints.arm(failpoint)
        if kind == "work":
            status = worker.serve(*arguments)
        else:
            produce(*arguments)
            status = 0
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """Exit status of ``child``, the negative signal number when one killed it; None when it still runs after that time."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


COMMANDS = {
    "produce": produce,
    "enqueue": enqueue,
    "look": look,
    "prepare": prepare,
    "start": start,
    "wait": wait,
}

if __name__ == "__main__":
    while line := sys.stdin.readline():
        name, arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)  # type: ignore[operator]
