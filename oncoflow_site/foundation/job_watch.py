"""Watching what follows from one request until nothing is left to do: for commands that wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread

from django.conf import settings
from django.db.models import Q

from oncoflow_site.foundation import health
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Job, JobState
from oncoflow_site.foundation.process_manager import ProcessManager

__all__ = ["Step", "companions", "watch", "workers_alive"]

# A delivery waits for somebody else's machine; a study's quiet period has nothing to say about files.
_NOT_WAITED_FOR = ("imaging.complete_study",)
_OPEN = (JobState.WAITING, JobState.RUNNING)
# A job never tried that is due later than this is a reminder in case something hangs, and no step to wait for.
_REMINDER = timedelta(seconds=60)


@dataclass(frozen=True)
class Step:
    """One job as a reader sees it. ``seconds`` is None while it is not finished."""

    kind: str
    state: str
    progress: float
    text: str
    error: str
    seconds: float | None


def workers_alive(limit_s: float = 30.0) -> bool:
    """True when a worker of each queue that a study needs gave a sign of life lately."""
    ages = health.workers()
    return all((age := ages.get(queue)) is not None and age < limit_s for queue in ("default", "gpu"))


@contextmanager
def companions() -> Iterator[None]:
    """The processes that jobs need beside a worker (``settings.ONCOFLOW_JOB_COMPANIONS``), while the block runs."""
    wanted = {name: settings.ONCOFLOW_PROCESSES[name] for name in settings.ONCOFLOW_JOB_COMPANIONS}
    manager = ProcessManager(wanted, write=lambda line: None)
    thread = Thread(target=manager.run, name="companions")
    thread.start()
    try:
        yield
    finally:
        manager.stop()
        thread.join()


def watch(
    request_id: str, report: Callable[[Step], None], *, run_here: bool = False, timeout_s: float = 3600.0
) -> list[Step]:
    """Follow the jobs that carry ``request_id`` until none is open; events and jobs inherit it from each other.

    :param report: called with every step that changed.
    :param run_here: run due jobs in this process between looks.
    :returns: every step, in the order they were created. :raises TimeoutError: it takes longer than ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    seen: dict[object, Step] = {}
    while True:
        steps: dict[object, Step] = {}
        for row in _jobs(request_id):
            steps[row.pk] = _step(row)
            if seen.get(row.pk) != steps[row.pk]:
                report(steps[row.pk])
        seen = steps
        if not any(step.state in _OPEN for step in steps.values()):
            return list(steps.values())
        if time.monotonic() > deadline:
            raise TimeoutError
        if not (run_here and run_pending("default", "gpu", limit=1)):
            time.sleep(0.3)


def _jobs(request_id: str) -> list[Job]:
    rows = Job.objects.filter(request_id=request_id).exclude(kind__in=_NOT_WAITED_FOR).exclude(queue="delivery")
    reminders = Q(state=JobState.WAITING, attempts=0, run_after__gt=now() + _REMINDER)
    return list(rows.exclude(reminders).order_by("created_at", "id"))


def _step(row: Job) -> Step:
    seconds = (row.finished_at - row.started_at).total_seconds() if row.finished_at and row.started_at else None
    return Step(row.kind, row.state, row.progress, row.progress_text, row.error, seconds)
