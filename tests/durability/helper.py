"""The tests' own process inside an installation: reads commands as JSON lines, answers each with one JSON line."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402

from oncoflow_site.foundation import jobs, objects  # noqa: E402
from oncoflow_site.foundation.models import Delivery, Event, Job, StoredObject  # noqa: E402
from tests.durability.effects.models import Effect  # noqa: E402


def produce(lane: str, first: int, last: int) -> None:
    """Enqueue jobs ``<lane><number>``, one transaction each."""
    for number in range(first, last):
        name = f"{lane}{number:03d}"
        with transaction.atomic():
            jobs.enqueue("effects.make", subject=f"lane:{lane}", key=f"make:{name}", kwargs={"name": name})


def enqueue(kind: str) -> None:
    """Enqueue one job without arguments."""
    jobs.enqueue(kind, subject="s", key=kind, kwargs={})


def look() -> dict[str, Any]:
    """Count everything."""
    return {
        "jobs": dict(Counter(f"{kind} {state}" for kind, state in Job.objects.values_list("kind", "state"))),
        "open": Job.objects.filter(state__in=["waiting", "running"]).count(),
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


COMMANDS = {"produce": produce, "enqueue": enqueue, "look": look, "prepare": prepare}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        sys.exit()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)  # type: ignore[operator]
