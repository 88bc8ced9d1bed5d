"""Background entry points of preparation and measurement. Each re-reads its rows, checks their state and may run twice."""

from __future__ import annotations

from imaging.models import Study
from oncoflow_site.foundation.jobs import JobContext, job

# What does the work is imported when it is done: most processes know these jobs by name only, and start sooner.

__all__ = ["measure_and_compare", "prepare_study"]


@job("imaging.prepare_study", queue="default", lease_s=120)
def prepare_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: complete. After: ready with volumes (event volumes.ready), or flagged (event study.flagged)."""
    from imaging import prepare

    prepare.prepare(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.measure_and_compare", queue="default", lease_s=120)
def measure_and_compare(ctx: JobContext, *, study_id: str) -> None:
    """Before: a segmentation. After: it is measured and compared with every earlier study (event comparison.ready)."""
    from imaging import compare

    compare.measure_and_compare(ctx, Study.objects.select_related("patient").get(pk=study_id))
