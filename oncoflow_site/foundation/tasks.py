"""The foundation's own jobs and events (imported when Django starts, see `apps`)."""

from __future__ import annotations

from typing import Final

from oncoflow_site.foundation import events, jobs, outbox
from oncoflow_site.foundation.models import Job

__all__ = ["JOB_FAILED", "outbox"]

JOB_FAILED: Final = events.declare_event("job.failed", "a job was refused for good or used up its attempts")


def _tell_failure(job: Job) -> None:
    """Emit ``job.failed``, except for a job that itself follows one: a broken notifier must not notify about itself."""
    if job.event is None or job.event.kind != JOB_FAILED:
        events.emit(JOB_FAILED, subject=job.subject, job_id=job.id)


jobs.on_job_failed(_tell_failure)
