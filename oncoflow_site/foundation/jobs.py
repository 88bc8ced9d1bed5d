"""Durable background jobs.

A job is a row first; the queue is only the wake-up. A worker claims the row by compare-and-swap, holds it by a lease
that a heartbeat renews, and may write its result only while its fence still stands. A function registered with `job`
may run twice (a worker can die after its commit and before it is marked done), so it re-reads, looks at the state, and
returns when there is nothing left to do. Pass ``done=True`` to `JobContext.commit` to mark the job done with its
result.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

from django.db import close_old_connections, connection, transaction

from oncoflow_site.foundation import failpoints, huey_app, leases
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import (
    IllegalMove,
    LostLease,
    PermanentError,
    TransientError,
    UserVisibleError,
    safe_error_text,
)
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

JobFunction = Callable[..., Any]


@dataclass(frozen=True)
class JobKind:
    """A registered kind of job.

    :param lease_s: seconds a claim is good for without a heartbeat.
    :param progress_deadline_s: seconds without `JobContext.progress` after which a running job counts as hung.
    """

    kind: str
    function: JobFunction
    queue: str
    max_attempts: int
    lease_s: float
    progress_deadline_s: float
    parameters: frozenset[str]
    required: frozenset[str]


_kinds: dict[str, JobKind] = {}
_failure_hook: Callable[[Job], None] | None = None


def job(
    kind: str,
    *,
    queue: str = "default",
    max_attempts: int = 5,
    lease_s: float = 60.0,
    progress_deadline_s: float = 600.0,
) -> Callable[[JobFunction], JobFunction]:
    """Register ``def f(ctx: JobContext, *, study_id: str)`` as the work of jobs of ``kind``.

    Arguments after ``ctx`` are keyword-only ids. The function is returned unchanged.
    """
    if queue not in huey_app.QUEUES:
        raise ValueError(f"job {kind!r}: unknown queue {queue!r}")

    def register(function: JobFunction) -> JobFunction:
        known = _kinds.get(kind)
        place = (function.__module__, function.__qualname__)
        if known is not None and (known.function.__module__, known.function.__qualname__) != place:
            raise ValueError(f"job {kind!r} is registered twice")
        arguments = list(inspect.signature(function).parameters.values())[1:]
        if any(one.kind is not inspect.Parameter.KEYWORD_ONLY for one in arguments):
            raise TypeError(f"job {kind!r}: arguments after ctx must be keyword-only")
        _kinds[kind] = JobKind(
            kind=kind,
            function=function,
            queue=queue,
            max_attempts=max_attempts,
            lease_s=lease_s,
            progress_deadline_s=progress_deadline_s,
            parameters=frozenset(one.name for one in arguments),
            required=frozenset(one.name for one in arguments if one.default is inspect.Parameter.empty),
        )
        return function

    return register


def job_kinds() -> Mapping[str, JobKind]:
    """Every registered kind."""
    return MappingProxyType(_kinds)


def parameters(kind: str) -> frozenset[str]:
    """Names of the ids that jobs of ``kind`` take; raises LookupError when nobody registered it."""
    return _lookup(kind).parameters


def _lookup(kind: str) -> JobKind:
    try:
        return _kinds[kind]
    except KeyError:
        raise LookupError(f"no job is registered as {kind!r}") from None


def _unknown(kind: str) -> JobKind:
    return JobKind(kind, lambda ctx: None, "default", 1, 60.0, 600.0, frozenset(), frozenset())


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
    spec = _lookup(kind) if must_be_registered or kind in _kinds else _unknown(kind)
    clean = {name: str(value) if isinstance(value, uuid.UUID) else value for name, value in kwargs.items()}
    if kind in _kinds and not spec.required <= clean.keys() <= spec.parameters:
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
                "priority": priority,
                "max_attempts": spec.max_attempts,
                "run_after": run_after or moment,
                "woken_at": moment if due else None,
                "request_id": current_request_id(),
                "event": event,
            },
        )
        if created and due:
            transaction.on_commit(partial(_wake, row))
    return row


def _wake(row: Job) -> None:
    """Tell the queue; a broker that is away only costs time, for the reaper tells it again."""
    try:
        failpoints.hit("jobs.before_wake")
        huey_app.wake(row.queue, str(row.id), row.priority)
    except Exception as error:
        logger.warning("wake-up of job %s not sent: %s", row.id, safe_error_text(error))
        Job.objects.filter(id=row.id, state=JobState.WAITING).update(woken_at=None)


def backoff(attempt: int, *, base_s: float = 2.0, cap_s: float = 900.0) -> timedelta:
    """Time to wait after failed attempt number ``attempt`` (from 1): doubling, capped, the upper half random."""
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 30))
    return timedelta(seconds=ceiling * (0.5 + random.random() / 2))


class JobContext:
    """What a job function works with.

    :ivar job: the row as it was claimed; ``job.attempts`` counts this attempt.
    """

    def __init__(self, row: Job, spec: JobKind) -> None:
        self.job = row
        self.spec = spec
        self.finished = False
        self._lost = False
        self.touched = time.monotonic()
        self._written = 0.0

    def _mine(self) -> Any:
        return Job.objects.filter(
            id=self.job.id, state=JobState.RUNNING, fence=self.job.fence, lease_token=self.job.lease_token
        )

    def renew(self) -> bool:
        """Renew the lease (the heartbeat calls this); False when it is no longer ours."""
        if not self._mine().update(lease_until=now() + timedelta(seconds=self.spec.lease_s)):
            self._lost = True
        return not self._lost

    def expire(self, reason: str) -> None:
        """Let the lease end now, so that the job is taken up again without waiting for it."""
        self._mine().update(lease_until=now(), error=reason[:500])

    def hand_back(self) -> bool:
        """Put the job back as if this attempt had not been: the worker stops. False when it is not ours any more."""
        fields = {"attempts": self.job.attempts - 1, "run_after": now(), "lease_until": None, "woken_at": None}
        moved = _move(self._mine(), "postpone", JobState.RUNNING, **fields)
        self._lost = True
        return bool(moved)

    def check(self) -> None:
        """Raise `LostLease` when it is already known that another attempt holds the job or that it was cancelled."""
        if self._lost:
            raise LostLease(f"job {self.job.id} is no longer held by this attempt")

    def progress(self, fraction: float, text: str = "") -> None:
        """Show how far the work is (0 to 1) and that it still moves. ``text`` names no patient.

        Written at most every half second. :raises LostLease:
        """
        self.check()
        self.touched = time.monotonic()
        if self.touched - self._written < 0.5 and fraction < 1.0:
            return
        self._written = self.touched
        updated = self._mine().update(
            progress=min(max(float(fraction), 0.0), 1.0), progress_text=text[:200], progress_at=now()
        )
        if not updated:
            self._lost = True
            self.check()

    @contextmanager
    def commit(self, *, done: bool = False, result: Any = None) -> Iterator[None]:
        """A transaction that only the attempt holding the job can commit.

        Its first statement renews the lease under the fence, which also locks the row until the end: nobody can take
        the job over while results are written. With ``done`` the job is finished in the same transaction.

        :raises LostLease: nothing was written.
        """
        with transaction.atomic():
            if not self._mine().update(lease_until=now() + timedelta(seconds=self.spec.lease_s), progress_at=now()):
                self._lost = True
                self.check()
            self.touched = time.monotonic()
            failpoints.hit("jobs.in_commit")
            yield
            if done:
                self._finish(result)
        if done:
            self.finished = True
        failpoints.hit("jobs.after_commit")

    def _finish(self, result: Any) -> None:
        fields: dict[str, Any] = {"progress": 1.0, "error": "", "result": result}
        if not _move(self._mine(), "finish", JobState.RUNNING, finished_at=now(), lease_until=None, **fields):
            self._lost = True
            self.check()

    def finish(self, result: Any = None) -> None:
        """Mark the job done (the runner calls it after the function returned)."""
        with transaction.atomic():
            self._finish(result)
        self.finished = True


def _move(rows: Any, event: str, state: str, **fields: Any) -> int:
    """Compare-and-swap ``rows`` from ``state`` by ``event``; the number of rows moved."""
    return int(rows.filter(state=state).update(state=JOB_MACHINE.next(state, event), **fields))


def _claim(job_id: str | uuid.UUID) -> Job | None:
    row = Job.objects.filter(id=job_id, state=JobState.WAITING, run_after__lte=now()).first()
    if row is None:
        return None
    spec = _kinds.get(row.kind)
    token, moment = uuid.uuid4(), now()
    lease_until = moment + timedelta(seconds=spec.lease_s if spec else 60.0)
    claimed = _move(
        Job.objects.filter(id=row.id, fence=row.fence),
        "claim",
        JobState.WAITING,
        attempts=row.attempts + 1,
        fence=row.fence + 1,
        lease_token=token,
        lease_until=lease_until,
        started_at=moment,
        progress_at=moment,
        finished_at=None,
    )
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
    spec = _kinds.get(row.kind)
    if spec is None:
        _fail(JobContext(row, _unknown(row.kind)), PermanentError(f"no job is registered as {row.kind!r}"))
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
            logger.warning("job %s (%s) attempt %d: %s", row.id, row.kind, row.attempts, safe_error_text(error))
            _fail(ctx, error)


def _fail(ctx: JobContext, error: BaseException) -> None:
    row, text = ctx.job, safe_error_text(error)
    if isinstance(error, (PermanentError, UserVisibleError, IllegalMove)):
        move = "refuse"
    elif row.attempts >= row.max_attempts:
        move = "exhaust"
    else:
        wait = backoff(row.attempts)
        if isinstance(error, TransientError) and error.retry_after is not None:
            wait = max(wait, timedelta(seconds=min(error.retry_after, 86_400.0)))
        _move(ctx._mine(), "postpone", JobState.RUNNING, run_after=now() + wait, lease_until=None, error=text)
        return
    with transaction.atomic():
        if _move(ctx._mine(), move, JobState.RUNNING, finished_at=now(), lease_until=None, error=text):
            _tell_failure(row.id)


def _tell_failure(job_id: uuid.UUID) -> None:
    if _failure_hook is not None:
        _failure_hook(Job.objects.select_related("event").get(id=job_id))


def cancel(job_id: str | uuid.UUID) -> bool:
    """Cancel a waiting or running job; a running one notices at its next `progress` or `commit`. False: too late."""
    for state in JOB_MACHINE.sources("cancel"):
        if _move(Job.objects.filter(id=job_id), "cancel", state, finished_at=now(), lease_until=None):
            return True
    return False


def retry(job_id: str | uuid.UUID) -> bool:
    """Let a failed, dead or cancelled job run again with its attempts counted anew; False when it is none of these."""
    with transaction.atomic():
        for state in JOB_MACHINE.sources("retry"):
            fresh = {"attempts": 0, "run_after": now(), "woken_at": now(), "finished_at": None, "progress": 0.0}
            if _move(Job.objects.filter(id=job_id), "retry", state, **fresh):
                row = Job.objects.get(id=job_id)
                transaction.on_commit(partial(_wake, row))
                return True
    return False


def reap(queue: str | None = None) -> int:
    """Give back what lost its lease and wake what is due but was never told or whose wake-up was lost.

    Every consumer calls this every few seconds; it is safe to run anywhere, any number of times.
    Returns how many jobs were given back or woken.
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
        due = Job.objects.filter(queue=name, state=JobState.WAITING, run_after__lte=moment)
        for row in due.order_by("-priority", "run_after")[:200]:
            if row.woken_at is None or row.woken_at < row.run_after or row.woken_at < moment - patience:
                Job.objects.filter(id=row.id).update(woken_at=moment)
                _wake(row)
                count += 1
    return count


def _reap_lost() -> int:
    count = 0
    for row in Job.objects.filter(state=JobState.RUNNING, lease_until__lt=now())[:200]:
        lost = Job.objects.filter(id=row.id, fence=row.fence, lease_until__lt=now())
        with transaction.atomic():
            text = row.error or "the worker stopped before the job was done"
            if row.attempts >= row.max_attempts:
                if _move(lost, "exhaust", JobState.RUNNING, finished_at=now(), lease_until=None, error=text):
                    _tell_failure(row.id)
                    count += 1
            elif _move(
                lost, "postpone", JobState.RUNNING, run_after=now(), lease_until=None, woken_at=None, error=text
            ):
                count += 1
    return count


def run_pending(*queues: str, limit: int = 1000) -> int:
    """Run due jobs here, in this process, until none is left: for tests, the demo and repair. Returns how many ran."""
    count = 0
    while count < limit:
        due = Job.objects.filter(queue__in=queues or huey_app.QUEUES, state=JobState.WAITING, run_after__lte=now())
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
