"""Background entry points of the reports room. Each re-reads its rows, checks their state and may run twice."""

from __future__ import annotations

from oncoflow_site.foundation.jobs import JobContext, job
from oncoflow_site.foundation.models import Job

# What does the work is imported when it is done: most processes know these jobs by name only, and start sooner.

__all__ = ["draft", "redraft_open", "release"]


def report_of(study_id: str) -> str:
    """Lock of the drafts of a study's report: they are made one after another."""
    return f"report-of:{study_id}"


def release_of(report_id: str) -> str:
    """Lock of the releases of a report. A draft need not wait for one: what it overtakes is released no more."""
    return f"release-of:{report_id}"


def drafting_failed(job: Job, *, study_id: str) -> None:
    """See `reports.lifecycle.draft.give_up`."""
    from reports.lifecycle import draft

    draft.give_up(job, study_id=study_id)


def release_failed(job: Job, *, report_id: str) -> None:
    """See `reports.lifecycle.release.give_up`."""
    from reports.lifecycle import release

    release.give_up(job, report_id=report_id)


@job("reports.draft", queue="default", lease_s=120, locks=report_of, on_dead=drafting_failed)
def draft(ctx: JobContext, *, study_id: str, measurement_id: str) -> None:
    """Before: a measurement and its comparison exist. After: a draft version made from them (event report.drafted)."""
    from reports.lifecycle import draft

    draft.draft_measurement(ctx, measurement_id)


@job("reports.release", queue="default", lease_s=120, locks=release_of, on_dead=release_failed)
def release(ctx: JobContext, *, report_id: str, version_id: str) -> None:
    """Before: draft. After: preliminary (event report.issued) or held (event report.held), by the gate."""
    from reports.lifecycle import release

    release.release_version(ctx, version_id)


@job("reports.redraft_open", queue="default", lease_s=120)
def redraft_open(ctx: JobContext, *, document_id: str) -> None:
    """Before: a document has been read. After: the patient's open drafts take it into account."""
    from reports.lifecycle import draft

    draft.redraft_for_document(ctx, document_id)
