"""What the function of a job works with: its row, its lease, and commits that only the holder can make."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from oncoflow_site.foundation import failpoints, job_locks
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import LostLease
from oncoflow_site.foundation.job_kinds import JobKind
from oncoflow_site.foundation.models import JOB_MACHINE, Job, JobState

__all__ = ["JobContext"]


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

    def held(self) -> QuerySet[Job]:
        """The row, as long as this attempt holds it; else nothing."""
        return Job.objects.filter(
            id=self.job.id, state=JobState.RUNNING, fence=self.job.fence, lease_token=self.job.lease_token
        )

    def renew(self) -> bool:
        """Renew the lease (the heartbeat calls this); False when it is no longer ours."""
        if not self.held().update(lease_until=now() + timedelta(seconds=self.spec.lease_s)):
            self._lost = True
        return not self._lost

    def expire(self, reason: str) -> None:
        """Let the lease end now, so that the job is taken up again without waiting for it."""
        self.held().update(lease_until=now(), error=reason[:500])

    def hand_back(self) -> bool:
        """Put the job back as if this attempt had not been: the worker stops. False when it is not ours any more."""
        fields = {"attempts": self.job.attempts - 1, "run_after": now(), "lease_until": None, "woken_at": None}
        with transaction.atomic():
            moved = JOB_MACHINE.apply(self.held(), "postpone", **fields)
            job_locks.freed(self.job.lock)
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
        updated = self.held().update(
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
            if not self.held().update(lease_until=now() + timedelta(seconds=self.spec.lease_s), progress_at=now()):
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
        if not JOB_MACHINE.apply(self.held(), "finish", finished_at=now(), lease_until=None, **fields):
            self._lost = True
            self.check()
        job_locks.freed(self.job.lock)

    def finish(self, result: Any = None) -> None:
        """Mark the job done (the runner calls it after the function returned)."""
        with transaction.atomic():
            self._finish(result)
        self.finished = True
