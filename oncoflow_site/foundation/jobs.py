"""Durable background jobs.

A job is a row first; the queue is only the wake-up. A worker claims the row by compare-and-swap, holds it by a lease
that a heartbeat renews, and may write its result only while its fence still stands. A function registered with `job`
may run twice (a worker can die after its commit and before it is marked done), so it re-reads, looks at the state, and
returns when there is nothing left to do. Pass ``done=True`` to `JobContext.commit` to mark the job done with its
result.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import IntegrityError, close_old_connections, connection, transaction

from oncoflow_site.foundation import failpoints, huey_app, job_locks, leases
from oncoflow_site.foundation import job_kinds as kinds
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import (
    IllegalMove,
    LostLease,
    PermanentError,
    TransientError,
    UserVisibleError,
    error_frames,
    safe_error_text,
)
from oncoflow_site.foundation.job_context import JobContext
from oncoflow_site.foundation.job_kinds import JobKind, job, job_kinds, parameters
from oncoflow_site.foundation.models import JOB_MACHINE, Event, Job, JobState
from oncoflow_site.foundation.request_id import bind_request_id, current_request_id

__all__ = [
    "JobContext",
    "JobKind",
    "backoff",
    "cancel",
    "enqueue",
    "job",
    "job_kinds",
    "on_job_failed",
    "parameters",
    "reap",
    "retry",
    "run_job",
    "run_pending",
]

logger = logging.getLogger(__name__)

AFTER_DEATH = "foundation.after_death"

_failure_hook: Callable[[Job], None] | None = None


def on_job_failed(hook: Callable[[Job], None]) -> None:
    """Set what is called, in the same transaction, when a job ends as failed or dead (`signals` emits the event)."""
    global _failure_hook
    _failure_hook = hook


def enqueue(
    kind: str,
    *,
    subject: str,
    key: str,
    kwargs: Mapping[str, Any],
    priority: int = 0,
    run_after: datetime | None = None,
    event: Event | None = None,
    must_be_registered: bool = True,
) -> Job:
    """Create the job, or return the one that already has ``key``. Call it in the transaction of what it follows from.

    :param subject: e.g. ``"study:<uuid>"``.
    :param key: idempotency key, at most 255 characters, unique for ever: something to be done anew needs a new key.
    :param kwargs: ids only; UUIDs are written as text.
    :param run_after: not before this time.
    :param must_be_registered: False keeps the row of an unknown kind: it fails, visibly, when it runs.
    :raises LookupError: unknown kind. :raises TypeError: arguments do not fit the registered function.
    """
    registered = kinds.lookup(kind) if must_be_registered else kinds.known(kind)
    spec = registered or kinds.unknown(kind)
    clean = {name: str(value) if isinstance(value, uuid.UUID) else value for name, value in kwargs.items()}
    if registered and not spec.required <= clean.keys() <= spec.parameters:
        raise TypeError(f"job {kind!r} takes {sorted(spec.parameters)}, got {sorted(clean)}")
    if len(key) > 255:
        raise ValueError(f"job {kind!r}: idempotency key is longer than 255 characters")
    moment = now()
    due = run_after is None or run_after <= moment
    with transaction.atomic():
        row, created = Job.objects.get_or_create(
            idempotency_key=key,
            defaults={
                "kind": kind,
                "queue": spec.queue,
                "subject": subject,
                "kwargs": clean,
                "lock": spec.lock_of(clean),
                "priority": priority,
                "max_attempts": spec.max_attempts,
                "run_after": run_after or moment,
                "woken_at": moment if due else None,
                "request_id": current_request_id(),
                "event": event,
            },
        )
        if created and due:
            transaction.on_commit(partial(job_locks.wake, row))
    return row


def backoff(attempt: int, *, base_s: float = 2.0, cap_s: float = 900.0) -> timedelta:
    """Time to wait after failed attempt number ``attempt`` (from 1): doubling, capped, the upper half random."""
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 30))
    return timedelta(seconds=ceiling * (0.5 + random.random() / 2))


def _claim(job_id: str | uuid.UUID) -> Job | None:
    row = Job.objects.filter(id=job_id, state=JobState.WAITING, run_after__lte=now()).first()
    if row is None:
        return None
    spec = kinds.known(row.kind)
    token, moment = uuid.uuid4(), now()
    rows = job_locks.runnable(moment).filter(id=row.id, fence=row.fence)
    try:
        with transaction.atomic():
            claimed = JOB_MACHINE.apply(
                rows,
                "claim",
                attempts=row.attempts + 1,
                fence=row.fence + 1,
                lease_token=token,
                lease_until=moment + timedelta(seconds=spec.lease_s if spec else 60.0),
                started_at=moment,
                progress_at=moment,
                finished_at=None,
            )
    except IntegrityError:
        return None  # at this very moment another job took the lock; whoever holds it wakes the next
    # By the token: after a long pause right here the row may be another attempt's already.
    return Job.objects.filter(id=row.id, lease_token=token).first() if claimed else None


def run_job(job_id: str | uuid.UUID) -> bool:
    """Claim the job and run it here and now; False when it was not there to be claimed."""
    row = _claim(job_id)
    if row is None:
        return False
    failpoints.hit("jobs.after_claim")
    with bind_request_id(row.request_id):
        _run_claimed(row)
    return True


def _run_claimed(row: Job) -> None:
    spec = kinds.known(row.kind)
    if spec is None:
        _fail(JobContext(row, kinds.unknown(row.kind)), PermanentError(f"no job is registered as {row.kind!r}"))
        return
    ctx = JobContext(row, spec)
    with leases.held(ctx):
        try:
            result = spec.function(ctx, **row.kwargs)
            failpoints.hit("jobs.before_done")
            if not ctx.finished:
                ctx.finish(result if isinstance(result, (dict, list, str, int, float, bool)) else None)
            failpoints.hit("jobs.after_done")
        except LostLease:
            logger.info("job %s (%s): attempt %d lost its lease", row.id, row.kind, row.attempts)
        except Exception as error:
            text, frames = safe_error_text(error), error_frames(error)
            logger.warning("job %s (%s) attempt %d: %s [%s]", row.id, row.kind, row.attempts, text, frames)
            _fail(ctx, error)


def _fail(ctx: JobContext, error: BaseException) -> None:
    row, text = ctx.job, safe_error_text(error)
    with transaction.atomic():
        if isinstance(error, (PermanentError, UserVisibleError, IllegalMove)):
            if JOB_MACHINE.apply(ctx.held(), "refuse", finished_at=now(), lease_until=None, error=text):
                _end(row.id)
        elif row.attempts >= row.max_attempts:
            if JOB_MACHINE.apply(ctx.held(), "exhaust", finished_at=now(), lease_until=None, error=text):
                _end(row.id)
        else:
            wait = backoff(row.attempts)
            if isinstance(error, TransientError) and error.retry_after is not None:
                wait = max(wait, timedelta(seconds=min(error.retry_after, 86_400.0)))
            JOB_MACHINE.apply(ctx.held(), "postpone", run_after=now() + wait, lease_until=None, error=text)
        job_locks.freed(row.lock)


def _end(job_id: uuid.UUID, *, failure: bool = True) -> None:
    """The job has ended without being done: tell of it, and have its kind say what becomes of its subject.

    In the transaction that ended it. When the kind's handler fails, the job has ended all the same, and another job
    calls the handler again until it goes through.
    """
    row = Job.objects.select_related("event").get(id=job_id)
    if failure and _failure_hook is not None:
        _failure_hook(row)
    spec = kinds.known(row.kind)
    if spec is None or spec.on_dead is None:
        return
    try:
        with transaction.atomic():
            spec.bury(row)
    except Exception as error:
        text, frames = safe_error_text(error), error_frames(error)
        logger.error("job %s (%s): what follows from its end failed: %s [%s]", row.id, row.kind, text, frames)
        key = f"after-death:{row.id}:{row.fence}:{row.state}"
        enqueue(AFTER_DEATH, subject=row.subject, key=key, kwargs={"job_id": row.id})
    failpoints.hit("jobs.in_death")


@job(AFTER_DEATH, max_attempts=20)
def after_death(ctx: JobContext, *, job_id: str) -> None:
    """Before: a job ended for good and its kind's ``on_dead`` failed. After: it went through, unless the job runs again."""
    with ctx.commit(done=True):
        row = Job.objects.get(id=job_id)
        spec = kinds.known(row.kind)
        if row.state in (JobState.FAILED, JobState.DEAD, JobState.CANCELLED) and spec is not None:
            spec.bury(row)


def cancel(job_id: str | uuid.UUID) -> bool:
    """Cancel a waiting or running job; a running one notices at its next `progress` or `commit`. False: too late."""
    with transaction.atomic():
        rows = Job.objects.filter(id=job_id)
        if not JOB_MACHINE.apply(rows, "cancel", finished_at=now(), lease_until=None):
            return False
        row = rows.get()
        _end(row.id, failure=False)
        job_locks.freed(row.lock)
    return True


def retry(job_id: str | uuid.UUID) -> bool:
    """Let a failed, dead or cancelled job run again with its attempts counted anew; False when it is none of these."""
    moment = now()
    fresh = {"attempts": 0, "run_after": moment, "woken_at": moment, "finished_at": None, "progress": 0.0}
    with transaction.atomic():
        rows = Job.objects.filter(id=job_id)
        if not JOB_MACHINE.apply(rows, "retry", **fresh):
            return False
        transaction.on_commit(partial(job_locks.wake, rows.get()))
    return True


def reap(queue: str | None = None) -> int:
    """Give back what lost its lease and wake what is due but was never told or whose wake-up was lost.

    Every consumer calls this every few seconds; it is safe to run anywhere, any number of times. What waits for a lock
    is left alone: whoever holds the lock wakes it. Returns how many jobs were given back or woken.
    """
    count = _reap_lost()
    moment = now()
    for name in [queue] if queue else huey_app.QUEUES:
        try:
            # A wake-up that left the queue and claimed nothing was lost with its worker; one still in it may take long.
            patience = timedelta(seconds=5 if huey_app.pending(name) == 0 else 60)
        except Exception as error:
            logger.warning("queue %s cannot be read: %s", name, safe_error_text(error))
            continue
        for row in job_locks.runnable(moment).filter(queue=name).order_by("-priority", "run_after")[:200]:
            if row.woken_at is None or row.woken_at < row.run_after or row.woken_at < moment - patience:
                Job.objects.filter(id=row.id).update(woken_at=moment)
                job_locks.wake(row, again=True)
                count += 1
    return count


def _reap_lost() -> int:
    count = 0
    for row in Job.objects.filter(state=JobState.RUNNING, lease_until__lt=now())[:200]:
        lost = Job.objects.filter(id=row.id, fence=row.fence, lease_until__lt=now())
        with transaction.atomic():
            text = row.error or "the worker stopped before the job was done"
            if row.attempts >= row.max_attempts:
                moved = JOB_MACHINE.apply(lost, "exhaust", finished_at=now(), lease_until=None, error=text)
                if moved:
                    _end(row.id)
            else:
                moved = JOB_MACHINE.apply(
                    lost, "postpone", run_after=now(), lease_until=None, woken_at=None, error=text
                )
            job_locks.freed(row.lock)
        count += moved
    return count


def run_pending(*queues: str, limit: int = 1000) -> int:
    """Run due jobs here, in this process, until none is left: for tests, the demo and repair. Returns how many ran."""
    count = 0
    while count < limit:
        due = job_locks.runnable(now()).filter(queue__in=queues or huey_app.QUEUES)
        row = due.order_by("-priority", "created_at", "id").first()
        if row is None:
            break
        count += run_job(row.id)
    return count


def _run_from_queue(job_id: str) -> None:
    close_old_connections()
    try:
        run_job(job_id)
    finally:
        if not connection.in_atomic_block:
            close_old_connections()


huey_app.set_runner(_run_from_queue)
