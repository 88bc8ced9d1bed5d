"""Which waiting jobs may run, given what each of them locks; and the wake-up of whoever is next.

A lock is a name in a column (`Job.lock`), held by the running job that carries it: no row of its own, nothing to clean
up after a worker that died, nothing that waits but a row. A job may be claimed when no job of its lock runs and none of
those that are due was enqueued before it. A job that waits out its backoff holds nobody up; when it is due again it is
the first.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from oncoflow_site.foundation import failpoints, huey_app
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import safe_error_text
from oncoflow_site.foundation.models import Job, JobState

__all__ = ["freed", "runnable", "wake"]

logger = logging.getLogger(__name__)


def runnable(moment: datetime) -> QuerySet[Job]:
    """Waiting jobs that are due at ``moment`` and whose lock, if they have one, is theirs to take."""
    same = Job.objects.filter(lock=OuterRef("lock"))
    held = same.filter(state=JobState.RUNNING)
    earlier = Q(created_at__lt=OuterRef("created_at")) | Q(created_at=OuterRef("created_at"), id__lt=OuterRef("id"))
    ahead = same.filter(earlier, state=JobState.WAITING, run_after__lte=moment)
    due = Job.objects.filter(state=JobState.WAITING, run_after__lte=moment)
    return due.filter(Q(lock="") | (~Exists(held) & ~Exists(ahead)))


def wake(row: Job, *, again: bool = False) -> None:
    """Tell the queue; a broker that is away only costs time, for the reaper tells it again.

    :param again: what wakes it is not what made it due: the reaper, or a lock that was freed.
    """
    try:
        failpoints.hit("jobs.before_wake_again" if again else "jobs.before_wake")
        huey_app.wake(row.queue, str(row.id), row.priority)
    except Exception as error:
        logger.warning("wake-up of job %s not sent: %s", row.id, safe_error_text(error))
        Job.objects.filter(id=row.id, state=JobState.WAITING).update(woken_at=None)


def freed(lock: str) -> None:
    """A job of ``lock`` has stopped running: when that is committed, wake the next of its line."""
    if lock:
        transaction.on_commit(partial(_wake_next, lock))


def _wake_next(lock: str) -> None:
    try:
        row = runnable(now()).filter(lock=lock).order_by("created_at", "id").first()
        if row is not None:
            Job.objects.filter(id=row.id).update(woken_at=now())
            wake(row, again=True)
    except Exception as error:  # what has just ended must not fail for it; the reaper wakes the next one too
        logger.warning("the next job of a lock was not woken: %s", safe_error_text(error))
