"""What becomes of a subject when its job ends for good, and what a failure says in the log."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta

import pytest

from oncoflow_site.foundation import jobs
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import PermanentError, TransientError, UserVisibleError, error_frames
from oncoflow_site.foundation.log_format import FramesFormatter
from oncoflow_site.foundation.models import Event, Job, JobState

pytestmark = pytest.mark.django_db


def make(kind: str = "t.prepare", key: str = "k") -> Job:
    return jobs.enqueue(kind, subject="study:1", key=key, kwargs={"study_id": "1"})


def register(buried: list[tuple[str, str]], *errors: Exception, max_attempts: int = 2) -> None:
    """A job that fails with ``errors`` in turn, and leaves in ``buried`` how it ended."""
    left = list(errors)

    def bury(job: Job, *, study_id: str) -> None:
        buried.append((job.state, study_id))
        Event.objects.create(kind="buried", subject=study_id)

    @jobs.job("t.prepare", max_attempts=max_attempts, on_dead=bury)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        if left:
            raise left.pop(0)


@pytest.mark.parametrize("error", [PermanentError("no"), UserVisibleError("Bad.")])
def test_a_refused_job_buries_its_subject_at_once(error: Exception) -> None:
    buried: list[tuple[str, str]] = []
    register(buried, error)
    jobs.run_job(make().id)
    assert buried == [("failed", "1")]


def test_a_job_that_may_run_again_buries_nothing_until_its_attempts_are_used_up() -> None:
    buried: list[tuple[str, str]] = []
    register(buried, TransientError("away"), ValueError("bad"))
    row = make()
    jobs.run_job(row.id)
    assert buried == []
    Job.objects.update(run_after=now())
    jobs.run_job(row.id)
    assert buried == [("dead", "1")]


def test_a_job_whose_workers_were_killed_too_often_buries_its_subject() -> None:
    buried: list[tuple[str, str]] = []
    register(buried)
    row = make()
    Job.objects.filter(id=row.id).update(state="running", attempts=2, lease_until=now() - timedelta(seconds=1))
    jobs.reap()
    assert buried == [("dead", "1")]


def test_a_cancelled_job_buries_its_subject() -> None:
    buried: list[tuple[str, str]] = []
    register(buried)
    assert jobs.cancel(make().id)
    assert buried == [("cancelled", "1")]
    assert not Event.objects.filter(kind="job.failed").exists()


def test_a_handler_that_fails_is_called_again_until_it_goes_through() -> None:
    calls: list[str] = []

    def bury(job: Job, *, study_id: str) -> None:
        Event.objects.create(kind="buried", subject=study_id)
        calls.append(job.state)
        if len(calls) < 3:
            raise ValueError("the study is locked")

    @jobs.job("t.prepare", on_dead=bury)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        raise PermanentError("no")

    row = make()
    jobs.run_job(row.id)
    row.refresh_from_db()
    assert row.state == JobState.FAILED
    assert not Event.objects.filter(kind="buried").exists()
    for _ in range(2):
        Job.objects.filter(kind=jobs.AFTER_DEATH).update(run_after=now())
        jobs.run_pending()
    assert len(calls) == 3
    assert Event.objects.filter(kind="buried").count() == 1
    assert Job.objects.get(kind=jobs.AFTER_DEATH).state == JobState.DONE


def test_a_job_that_a_person_started_again_is_not_buried_by_a_late_handler() -> None:
    calls: list[str] = []

    def bury(job: Job) -> None:
        calls.append(job.state)
        raise ValueError("not now")

    @jobs.job("t.prepare", on_dead=bury)
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        if len(calls) == 0:
            raise PermanentError("no")

    row = make()
    jobs.run_job(row.id)
    assert jobs.retry(row.id)
    Job.objects.update(run_after=now())
    jobs.run_pending()
    assert calls == ["failed"]
    assert set(Job.objects.values_list("state", flat=True)) == {"done"}


def test_a_handler_takes_ids_of_the_job_only() -> None:
    with pytest.raises(TypeError, match="panel_id"):

        @jobs.job("t.prepare", on_dead=lambda job, panel_id: None)
        def prepare(ctx: jobs.JobContext, *, study_id: str) -> None: ...


def test_the_log_of_a_failure_has_its_frames_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    def parse(name: str) -> None:
        try:
            int(name)
        except ValueError as error:
            raise KeyError(name) from error

    @jobs.job("t.prepare")
    def prepare(ctx: jobs.JobContext, *, study_id: str) -> None:
        parse("Doe^Jane")

    with caplog.at_level(logging.WARNING):
        jobs.run_job(make().id)
    text = caplog.text
    assert "KeyError < tests/foundation/test_job_ends.py:" in text
    assert " parse < " in text
    assert " prepare < " in text
    assert "because of ValueError < " in text
    assert "Doe" not in text
    assert "int(name)" not in text


def test_frames_of_an_endless_recursion_are_few() -> None:
    def deeper(level: int) -> int:
        return deeper(level + 1)

    with pytest.raises(RecursionError) as raised:
        deeper(0)
    assert len(error_frames(raised.value)) < 5000


def test_a_library_that_logs_an_exception_writes_no_value_either() -> None:
    from django.conf import settings

    config = settings.LOGGING["formatters"]["line"]
    assert config["()"].endswith("FramesFormatter")
    formatter = FramesFormatter("%(message)s")
    try:
        int("Doe^Jane")
    except ValueError:
        record = logging.getLogger("t").makeRecord("t", 40, __file__, 1, "Server error", (), sys.exc_info())
    text = formatter.format(record)
    assert "ValueError < tests/foundation/test_job_ends.py:" in text
    assert "Doe" not in text
