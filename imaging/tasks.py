"""Background entry points of the imaging room. Each re-reads its rows, checks their state and may run twice."""

from __future__ import annotations

from clinical.models import Order
from imaging import completion, matching
from imaging.models import Study, Upload
from imaging.tasks_dicomweb import publish_segmentations, publish_study
from imaging.tasks_volumes import measure_and_compare, prepare_study
from imaging.uploads import filing
from oncoflow_site.foundation.jobs import JobContext, job

__all__ = [
    "complete_study",
    "ingest_upload",
    "match_order_to_study",
    "measure_and_compare",
    "prepare_study",
    "publish_segmentations",
    "publish_study",
    "release_order",
]


@job("imaging.complete_study", queue="default")
def complete_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: receiving. After: complete (event study.complete) if quiet; else a later job looks again."""
    with ctx.commit():
        completion.complete_if_quiet(Study.objects.get(pk=study_id))


@job("imaging.match_order_to_study", queue="default")
def match_order_to_study(ctx: JobContext, *, order_id: str) -> None:
    """After: studies of the order's patient that carry its accession number are linked to it."""
    with ctx.commit():
        matching.match_order(Order.objects.get(pk=order_id))


@job("imaging.release_order", queue="default")
def release_order(ctx: JobContext, *, order_id: str) -> None:
    """After: no study is linked to the cancelled order."""
    with ctx.commit():
        matching.release_order(Order.objects.get(pk=order_id))


@job("imaging.ingest_upload", queue="default")
def ingest_upload(ctx: JobContext, *, upload_id: str) -> None:
    """Before: staged. After: done, its images filed and its staged bytes deleted; or failed, with the reason."""
    filing.run(ctx, Upload.objects.select_related("owner").get(pk=upload_id))
