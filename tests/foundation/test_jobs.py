"""Durable jobs: claiming, leases, fences, retries, hangs."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from oncoflow_site.foundation import events, huey_app, jobs, leases
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import LostLease, PermanentError, TransientError, UserVisibleError
from oncoflow_site.foundation.models import Event, Job, JobState
from oncoflow_site.foundation.request_id import bind_request_id, current_request_id

pytestmark = pytest.mark.django_db


def make(kind: str = "t.one", key: str = "k", **kwargs: Any) -> Job:
    return jobs.enqueue(kind, subject="thing:1", key=key, kwargs=kwargs)


def steal(job_id: Any) -> None:
    """What another worker does to a job whose lease ran out."""
    Job.objects.filter(id=job_id).update(lease_until=now() - timedelta(seconds=1))
    assert jobs.reap() >= 1


def test_a_job_runs_with_its_ids_and_keeps_its_result() -> None:
    seen: list[Any] = []

    @jobs.job("t.one", max_attempts=3)
    def one(ctx: jobs.JobContext, *, study_id: str) -> dict[str, int]:
        seen.append((study_id, current_request_id(), ctx.job.attempts))
        ctx.progress(0.5, "half way")
        return {"made": 3}

    with bind_request_id("request-0001"):
        row = make(study_id="s-1")
    assert row.state == JobState.WAITING
    assert jobs.run_pending() == 1
    row.refresh_from_db()
    assert seen == [("s-1", "request-0001", 1)]
    assert (row.state, row.result, row.progress, row.lease_until) == (JobState.DONE, {"made": 3}, 1.0, None)
    assert jobs.run_job(row.id) is False


def test_enqueue_is_idempotent_and_checks_what_it_is_given() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext, *, study_id: str, note: str = "") -> None: ...

    first, second = make(study_id="a"), make(study_id="b")
    assert first.id == second.id
    assert Job.objects.get().kwargs == {"study_id": "a"}
    with pytest.raises(TypeError):
        make(key="other")
    with pytest.raises(TypeError):
        make(key="other", study_id="a", unknown="x")
    with pytest.raises(LookupError):
        make(kind="t.nobody", key="other")
    assert Job.objects.count() == 1


def test_registering_is_strict() -> None:
    with pytest.raises(ValueError, match="unknown queue"):
        jobs.job("t.x", queue="fast")
    with pytest.raises(TypeError, match="keyword-only"):
        jobs.job("t.x")(lambda ctx, study_id: None)

    @jobs.job("t.x")
    def one(ctx: jobs.JobContext) -> None: ...

    with pytest.raises(ValueError, match="twice"):

        @jobs.job("t.x")
        def two(ctx: jobs.JobContext) -> None: ...


def test_a_rolled_back_transaction_leaves_no_job_and_no_wake_up() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None: ...

    with pytest.raises(RuntimeError), transaction.atomic():
        make()
        raise RuntimeError
    assert not Job.objects.exists()
    assert huey_app.pending("default") == 0


def test_transient_errors_wait_longer_each_time_and_end_dead() -> None:
    @jobs.job("t.one", max_attempts=3)
    def one(ctx: jobs.JobContext) -> None:
        raise TransientError("the peer is away")

    row = make()
    waits = []
    for _ in range(3):
        Job.objects.filter(id=row.id, state=JobState.WAITING).update(run_after=now())
        assert jobs.run_job(row.id)
        row.refresh_from_db()
        waits.append((row.run_after - now()).total_seconds())
    assert 0.5 < waits[0] <= 2 < waits[1] + 0.1
    assert waits[1] <= 4
    assert (row.state, row.attempts, row.error) == (JobState.DEAD, 3, "the peer is away")
    assert Event.objects.get(kind="job.failed").payload == {"job_id": str(row.id)}


def test_retry_after_is_respected() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        raise TransientError("busy", retry_after=120)

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.run_after > now() + timedelta(seconds=100)


@pytest.mark.parametrize("error", [PermanentError("no"), UserVisibleError("Bad.", what_to_do="Do better.")])
def test_errors_that_will_not_pass_fail_at_once(error: Exception) -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        raise error

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.attempts, row.error) == (JobState.FAILED, 1, str(error))
    assert Event.objects.filter(kind="job.failed").count() == 1


def test_a_foreign_error_message_is_not_stored() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        raise ValueError("could not parse 'Doe^Jane'")

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.state == JobState.WAITING
    assert "Doe" not in row.error
    assert row.error.startswith("ValueError at tests.foundation.test_jobs:")


def test_a_job_that_tells_of_failures_does_not_tell_of_its_own() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        raise PermanentError("broken")

    @jobs.job("t.tell")
    def tell(ctx: jobs.JobContext, *, kind: str, subject: str) -> None:
        raise PermanentError("broken too")

    events.follow("job.failed", "t.tell", pass_event=True)
    make()
    assert jobs.run_pending() == 2
    assert Event.objects.filter(kind="job.failed").count() == 1


def test_an_unregistered_kind_fails_visibly() -> None:
    row = jobs.enqueue("t.gone", subject="s", key="k", kwargs={"a": 1}, must_be_registered=False)
    jobs.run_pending()
    row.refresh_from_db()
    assert row.state == JobState.FAILED
    assert "t.gone" in row.error


def test_work_written_after_the_lease_was_lost_is_rolled_back() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        if ctx.job.attempts > 1:
            return
        steal(ctx.job.id)
        with pytest.raises(LostLease), ctx.commit():
            Event.objects.create(kind="never", subject="x")
        with pytest.raises(LostLease):
            ctx.progress(0.9)
        with ctx.commit():
            pytest.fail("unreachable")

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.state == JobState.WAITING
    assert not Event.objects.filter(kind="never").exists()
    assert jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.attempts, row.fence) == (JobState.DONE, 2, 2)


def test_an_old_attempt_cannot_finish_fail_or_renew_the_new_one() -> None:
    contexts: list[jobs.JobContext] = []

    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        contexts.append(ctx)
        if ctx.job.attempts == 1:
            steal(ctx.job.id)
            jobs.run_job(ctx.job.id)  # the other worker
            raise ValueError("the old attempt fails")

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.attempts, row.error) == (JobState.DONE, 2, "")
    assert contexts[0].renew() is False
    with pytest.raises(LostLease):
        contexts[0].finish()


def test_commit_with_done_finishes_in_the_same_transaction() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        with pytest.raises(RuntimeError), ctx.commit(done=True, result="never"):
            raise RuntimeError
        assert Job.objects.get(id=ctx.job.id).state == JobState.RUNNING
        with ctx.commit(done=True, result={"x": 1}):
            Event.objects.create(kind="once", subject="x")

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.result) == (JobState.DONE, {"x": 1})
    assert Event.objects.filter(kind="once").count() == 1


def test_losing_the_lease_too_often_ends_dead() -> None:
    @jobs.job("t.one", max_attempts=2)
    def one(ctx: jobs.JobContext) -> None:
        steal(ctx.job.id)
        ctx.check()
        ctx.progress(0.1)

    row = make()
    jobs.run_job(row.id)
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.state == JobState.DEAD
    assert "worker stopped" in row.error
    assert Event.objects.filter(kind="job.failed").count() == 1


def test_a_live_lease_is_not_reaped_and_a_heartbeat_keeps_it() -> None:
    @jobs.job("t.one", lease_s=30)
    def one(ctx: jobs.JobContext) -> None:
        assert jobs._reap_lost() == 0
        Job.objects.filter(id=ctx.job.id).update(lease_until=now() + timedelta(seconds=1))
        assert ctx.renew()
        assert Job.objects.get(id=ctx.job.id).lease_until > now() + timedelta(seconds=25)

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.state == JobState.DONE


def test_cancel_stops_a_waiting_job_and_tells_a_running_one() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        assert jobs.cancel(ctx.job.id)
        with ctx.commit():
            pytest.fail("unreachable")

    waiting, running = make(key="a"), make(key="b")
    assert jobs.cancel(waiting.id)
    jobs.run_pending()
    for row in (waiting, running):
        row.refresh_from_db()
        assert row.state == JobState.CANCELLED
        assert not jobs.cancel(row.id)
    assert jobs.retry(waiting.id)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 0)
    assert not jobs.retry(waiting.id)


def test_higher_priority_runs_first() -> None:
    order: list[str] = []

    @jobs.job("t.one")
    def one(ctx: jobs.JobContext, *, name: str) -> None:
        order.append(name)

    for name, priority in (("low", 0), ("high", 5), ("middle", 2)):
        jobs.enqueue("t.one", subject="s", key=name, kwargs={"name": name}, priority=priority)
    jobs.run_pending()
    assert order == ["high", "middle", "low"]


def test_not_before_its_time() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None: ...

    row = jobs.enqueue("t.one", subject="s", key="k", kwargs={}, run_after=now() + timedelta(hours=1))
    assert jobs.run_job(row.id) is False
    assert jobs.run_pending() == 0


def test_progress_is_clipped_and_not_written_too_often(django_assert_max_num_queries: Any) -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        with django_assert_max_num_queries(2):
            for step in range(1000):
                ctx.progress(step / 1000, "counting")
            ctx.progress(7.0, "x" * 500)
        row = Job.objects.get(id=ctx.job.id)
        assert (row.progress, len(row.progress_text)) == (1.0, 200)

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.state == JobState.DONE


def test_handing_back_does_not_count_the_attempt() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None:
        if ctx.job.fence == 1:
            assert leases.hand_back_all() == 1
            ctx.progress(0.5)

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.attempts) == (JobState.WAITING, 0)
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.attempts) == (JobState.DONE, 1)


def test_a_hang_is_reported_even_while_the_heartbeat_lives() -> None:
    hung: list[jobs.JobContext] = []

    @jobs.job("t.one", progress_deadline_s=0.05, lease_s=60)
    def one(ctx: jobs.JobContext) -> None:
        renewed: dict[int, float] = {}
        leases.beat(renewed, on_hang=hung.append)
        assert hung == []
        time.sleep(0.1)
        leases.beat(renewed, on_hang=hung.append)
        assert hung == [ctx]
        ctx.expire("no progress before its deadline")
        assert jobs._reap_lost() == 1

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert (row.state, row.error) == (JobState.WAITING, "no progress before its deadline")


def test_waking_follows_commit_and_the_reaper_wakes_what_was_not(
    django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None: ...

    with django_capture_on_commit_callbacks(execute=True):
        row = make()
        assert huey_app.pending("default") == 0
    assert huey_app.pending("default") == 1
    assert jobs.reap("default") == 0
    # The wake-up is lost with the worker that took it.
    huey_app.queue("default").storage.flush_queue()
    assert jobs.reap("default") == 0
    Job.objects.filter(id=row.id).update(woken_at=now() - timedelta(seconds=6), run_after=now() - timedelta(seconds=7))
    assert jobs.reap("default") == 1
    assert huey_app.pending("default") == 1

    def away(*_: Any) -> None:
        raise ConnectionError("broker away")

    monkeypatch.setattr(huey_app, "wake", away)
    with django_capture_on_commit_callbacks(execute=True):
        make(key="other")
    assert Job.objects.get(idempotency_key="other").woken_at is None


@pytest.mark.django_db(transaction=True)
def test_of_many_that_claim_only_one_gets_the_job() -> None:
    lock, ran = threading.Lock(), []

    @jobs.job("t.one")
    def one(ctx: jobs.JobContext, *, number: int) -> None:
        with lock:
            ran.append(number)

    rows = [make(key=str(number), number=number) for number in range(10)]
    barrier, claims = threading.Barrier(6), []

    def claimant() -> None:
        try:
            barrier.wait()
            for row in rows:
                if jobs.run_job(row.id):
                    claims.append(row.id)
        finally:
            connection.close()

    threads = [threading.Thread(target=claimant) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == list(range(10))
    assert len(claims) == 10
    assert set(Job.objects.values_list("state", "attempts")) == {("done", 1)}


@pytest.mark.django_db(transaction=True)
def test_the_same_key_from_many_threads_is_one_job() -> None:
    @jobs.job("t.one")
    def one(ctx: jobs.JobContext) -> None: ...

    barrier, ids = threading.Barrier(6), set()

    def producer() -> None:
        try:
            barrier.wait()
            with transaction.atomic():
                ids.add(make().id)
        finally:
            connection.close()

    threads = [threading.Thread(target=producer) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1
    assert Job.objects.count() == 1
