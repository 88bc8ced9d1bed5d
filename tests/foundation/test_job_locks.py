"""Locks of jobs: what works on one thing runs one after another, in line, as rows."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from oncoflow_site.foundation import huey_app, jobs
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import PermanentError, TransientError
from oncoflow_site.foundation.models import Job, JobState

pytestmark = pytest.mark.django_db


def study_lock(study_id: str) -> str:
    return f"study:{study_id}"


def make(kind: str, key: str, study: str = "1", **more: Any) -> Job:
    return jobs.enqueue(kind, subject=f"study:{study}", key=key, kwargs={"study_id": study}, **more)


def end(row: Job) -> None:
    """What the reaper does with a job whose worker was killed."""
    Job.objects.filter(id=row.id).update(lease_until=now() - timedelta(seconds=1))
    assert jobs.reap() >= 1


def test_a_locked_job_waits_and_loses_no_attempt() -> None:
    seen: list[str] = []

    @jobs.job("t.prepare", locks=study_lock)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        seen.append(ctx.job.idempotency_key)
        if ctx.job.idempotency_key == "a":
            assert jobs.run_job(second.id) is False
            assert jobs.run_job(third.id) is False
            assert jobs.run_job(elsewhere.id) is True
            second.refresh_from_db()
            assert (second.state, second.attempts, second.fence) == (JobState.WAITING, 0, 0)

    @jobs.job("t.match", locks=study_lock)
    def match(ctx: jobs.JobContext, *, study_id: str) -> None:
        seen.append(ctx.job.idempotency_key)

    first, second, third = make("t.prepare", "a"), make("t.match", "b"), make("t.prepare", "c")
    elsewhere = make("t.prepare", "other", "2")
    assert {first.lock, second.lock, third.lock} == {"study:1"}
    assert jobs.run_job(first.id)
    assert jobs.run_pending() == 2
    assert seen == ["a", "other", "b", "c"]
    assert set(Job.objects.values_list("state", "attempts")) == {("done", 1)}


def test_the_line_is_kept_whoever_is_woken_first_and_whatever_its_priority() -> None:
    seen: list[str] = []

    @jobs.job("t.prepare", locks=study_lock)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        seen.append(ctx.job.idempotency_key)

    rows = [make("t.prepare", key, priority=number) for number, key in enumerate("abc")]
    assert jobs.run_job(rows[2].id) is False
    assert jobs.run_job(rows[1].id) is False
    jobs.run_pending()
    assert seen == ["a", "b", "c"]


def test_a_job_that_waits_out_its_backoff_holds_nobody_up_and_is_first_again() -> None:
    seen: list[str] = []

    @jobs.job("t.prepare", locks=study_lock)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        seen.append(ctx.job.idempotency_key)
        if ctx.job.attempts == 1 and ctx.job.idempotency_key == "a":
            raise TransientError("busy", retry_after=3600)

    first, second, third = (make("t.prepare", key) for key in "abc")
    assert jobs.run_job(first.id)
    assert jobs.run_job(second.id)
    Job.objects.filter(id=first.id).update(run_after=now())
    assert jobs.run_job(third.id) is False
    jobs.run_pending()
    assert seen == ["a", "b", "a", "c"]


def test_a_lost_lease_frees_the_lock_and_the_old_attempt_cannot_write() -> None:
    from oncoflow_site.foundation.errors import LostLease

    @jobs.job("t.prepare", locks=study_lock, max_attempts=1)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        if ctx.job.idempotency_key == "a":
            end(first)
            assert jobs.run_job(second.id) is True
            with pytest.raises(LostLease), ctx.commit():
                pytest.fail("unreachable")

    first, second = make("t.prepare", "a"), make("t.prepare", "b")
    jobs.run_job(first.id)
    assert dict(Job.objects.values_list("idempotency_key", "state")) == {"a": "dead", "b": "done"}


@pytest.mark.parametrize("how", ["done", "refuse", "postpone", "cancel", "hand back", "reap"])
def test_whatever_ends_a_run_wakes_the_next(how: str, django_capture_on_commit_callbacks: Any) -> None:
    @jobs.job("t.prepare", locks=study_lock)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        if how == "refuse":
            raise PermanentError("no")
        if how == "postpone":
            raise TransientError("busy", retry_after=3600)
        if how == "cancel":
            jobs.cancel(ctx.job.id)
            ctx.progress(1.0)
        if how == "hand back":
            ctx.hand_back()
            ctx.check()
        if how == "reap":
            end(ctx.job)
            ctx.progress(1.0)

    first, second = make("t.prepare", "a"), make("t.prepare", "b")
    huey_app.queue("default").storage.flush_queue()
    with django_capture_on_commit_callbacks(execute=True):
        jobs.run_job(first.id)
    woken = Job.objects.get(id=first.id if how in ("hand back", "reap") else second.id)
    assert woken.woken_at is not None
    assert huey_app.pending("default") >= 1


def test_the_reaper_leaves_alone_what_waits_for_a_lock() -> None:
    @jobs.job("t.prepare", locks=study_lock)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        if ctx.job.idempotency_key == "a":
            Job.objects.filter(state=JobState.WAITING).update(woken_at=None)
            assert jobs.reap("default") == 0

    first = make("t.prepare", "a")
    for key in "bcd":
        make("t.prepare", key)
    jobs.run_job(first.id)
    assert jobs.reap("default") == 1  # the first of the line only


def test_a_lock_is_named_from_the_ids_of_the_job() -> None:
    with pytest.raises(TypeError, match="panel_id"):

        @jobs.job("t.prepare", locks=lambda panel_id: panel_id)
        def prepare(ctx: jobs.JobContext, *, study_id: str) -> None: ...

    @jobs.job("t.other", locks=lambda study_id: "")
    def other(ctx: jobs.JobContext, *, study_id: str) -> None: ...

    with pytest.raises(ValueError, match="characters"):
        make("t.other", "a")


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_at_a_time_has_the_lock() -> None:
    """Six threads grab at twelve jobs of two locks; inside one lock no two ever run together, and nothing is left."""
    inside: dict[str, int] = {"1": 0, "2": 0}
    most: dict[str, int] = {"1": 0, "2": 0}
    order: dict[str, list[str]] = {"1": [], "2": []}
    guard = threading.Lock()

    @jobs.job("t.prepare", locks=study_lock)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        with guard:
            inside[study_id] += 1
            most[study_id] = max(most[study_id], inside[study_id])
            order[study_id].append(ctx.job.idempotency_key)
        Job.objects.filter(state=JobState.RUNNING).count()
        with guard:
            inside[study_id] -= 1

    rows = [make("t.prepare", f"{study}{n}", study) for n in range(6) for study in ("1", "2")]
    barrier = threading.Barrier(6)

    def worker() -> None:
        try:
            barrier.wait()
            while Job.objects.filter(state__in=(JobState.WAITING, JobState.RUNNING)).exists():
                for row in rows:
                    jobs.run_job(row.id)
        finally:
            connection.close()

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == {"1": 1, "2": 1}
    assert order == {study: [f"{study}{n}" for n in range(6)] for study in ("1", "2")}
    assert set(Job.objects.values_list("state", "attempts")) == {("done", 1)}
