"""Running jobs in the test's own process."""

from __future__ import annotations

from oncoflow_site.foundation.jobs import run_job
from oncoflow_site.foundation.models import Job, JobState

__all__ = ["run_in_line"]


def run_in_line(job: Job) -> Job:
    """Run ``job`` here and now, before it what its lock has to wait for; the row as it is then."""
    if job.lock:
        ahead = Job.objects.filter(lock=job.lock, state=JobState.WAITING, created_at__lte=job.created_at)
        for row in ahead.exclude(pk=job.pk).order_by("created_at", "id"):
            run_job(row.pk)
    run_job(job.pk)
    job.refresh_from_db()
    return job
