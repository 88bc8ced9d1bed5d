"""The workflow names every event there is, and only jobs that exist."""

from __future__ import annotations

from oncoflow_site.foundation import jobs
from oncoflow_site.foundation.events import events_without_a_line, followers


def test_every_event_has_its_line() -> None:
    assert events_without_a_line() == ()


def test_every_follower_is_a_job() -> None:
    known = jobs.job_kinds()
    assert {line.job_kind for lines in followers().values() for line in lines} <= set(known)
