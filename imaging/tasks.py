"""Background entry points of what DICOMweb offers. Each re-reads its rows, checks their state and may run twice."""

from __future__ import annotations

import uuid

from clinical.models import Order
from imaging.archive import completion, order_matching, quarantine
from imaging.dimse import storage_commitment
from imaging.intake import upload_job, watched_files_job
from imaging.models import Study, Upload
from imaging.priors import fetch
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.jobs import JobContext, job
from oncoflow_site.foundation.models import Job

__all__ = [
    "ask_for_priors",
    "compare_study",
    "complete_study",
    "deface_study",
    "deidentify_study",
    "file_waiting",
    "find_priors",
    "follow_merge",
    "ingest_intake",
    "ingest_upload",
    "match_order_to_study",
    "match_study",
    "measure_study",
    "prepare_study",
    "publish_segmentations",
    "publish_study",
    "pull_prior",
    "purge_discarded",
    "release_order",
    "report_commitment",
]


def study_inputs(study_id: str) -> str:
    """Lock of what a study is prepared from: its images and what they show."""
    return f"study-inputs:{study_id}"


def published_study(study_id: str) -> str:
    """Lock of what viewers are offered of a study."""
    return f"published:{study_id}"


def measurement_of(study_id: str) -> str:
    """Lock of what is measured of a study."""
    return f"measurement:{study_id}"


def patients_lesions(study_id: str) -> str:
    """Lock of the lesions of a study's patient: their identities are given out over all studies."""
    return f"lesions:{Study.objects.values_list('patient_id', flat=True).get(pk=study_id)}"


def preparation_failed(job: Job, *, study_id: str) -> None:
    """See `imaging.volumes.prepare.give_up`."""
    from imaging.volumes import prepare

    prepare.give_up(job, study_id=study_id)


def measurement_failed(job: Job, *, study_id: str) -> None:
    """See `imaging.longitudinal.compare_study.give_up`."""
    from imaging.longitudinal import compare_study

    compare_study.give_up(job, study_id=study_id)


@job("imaging.publish_study", queue="default", lease_s=120, locks=published_study)
def publish_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: de-identified instances. After: those that may be shown are offered through DICOMweb."""
    from imaging.dicomweb import index

    index.publish_study(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.deface_study", queue="default", lease_s=120, locks=published_study)
def deface_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: volumes, or a flag. After: with ONCOFLOW_DEFACE on, copies without faces (event study.defaced), or why not."""
    from imaging.defacing import deface_study

    deface_study.deface_study(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.publish_segmentations", queue="default", lease_s=120, locks=published_study)
def publish_segmentations(ctx: JobContext, *, study_id: str) -> None:
    """Before: a segmentation that counts. After: it is a DICOM object, offered through DICOMweb."""
    from imaging import dicomseg

    dicomseg.publish_segmentations(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.deidentify_study", queue="default", lease_s=120, locks=study_inputs, on_dead=preparation_failed)
def deidentify_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: complete. After: every instance has a copy that names nobody, or is quarantined (event study.deidentified)."""
    from imaging.deidentification import deidentify_study
    from imaging.dicomweb import index

    study = Study.objects.select_related("patient").get(pk=study_id)
    deidentify_study.deidentify_study(ctx, study, offer=index.offered)


@job("imaging.match_study", queue="default")
def match_study(ctx: JobContext, *, study_id: str) -> None:
    """After: the study is linked to the order that asked for it, or unsolicited."""
    with ctx.commit(done=True):
        order_matching.match_study(Study.objects.select_related("patient", "order").get(pk=study_id))
        failpoints.hit("imaging.match_commit")


@job("imaging.prepare_study", queue="default", lease_s=120, locks=study_inputs, on_dead=preparation_failed)
def prepare_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: de-identified. After: ready with volumes (event volumes.ready), or flagged (event study.flagged)."""
    from imaging.volumes import prepare

    prepare.prepare(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job(
    "imaging.measure_study",
    queue="default",
    lease_s=120,
    locks=measurement_of,
    on_dead=measurement_failed,
)
def measure_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: an outline in force. After: its volumes, diameters and midline shift are kept (event study.measured)."""
    from imaging.longitudinal import measure_study

    measure_study.measure_study(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job(
    "imaging.compare_study",
    queue="default",
    lease_s=120,
    locks=patients_lesions,
    on_dead=measurement_failed,
)
def compare_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: measured. After: its lesions followed, compared with every earlier study (event comparison.ready)."""
    from imaging.longitudinal import compare_study

    compare_study.compare_study(ctx, Study.objects.select_related("patient").get(pk=study_id))


@job("imaging.complete_study", queue="default")
def complete_study(ctx: JobContext, *, study_id: str) -> None:
    """Before: receiving. After: complete (event study.complete) if quiet; else a later job looks again."""
    with ctx.commit():
        completion.complete_if_quiet(Study.objects.get(pk=study_id))


@job("imaging.match_order_to_study", queue="default")
def match_order_to_study(ctx: JobContext, *, order_id: str) -> None:
    """After: studies of the order's patient that carry its accession number are linked to it."""
    with ctx.commit():
        order_matching.match_order(Order.objects.get(pk=order_id))


@job("imaging.follow_merge", queue="default")
def follow_merge(ctx: JobContext, *, patient_id: str, prior_id: str) -> None:
    """Before: two records became one, or two again. After: the studies of both are matched to the orders they have now, and are
    compared anew with the earlier studies they have now."""
    with ctx.commit():
        order_matching.follow_merge((patient_id, prior_id))


@job("imaging.file_waiting", queue="default", lease_s=120)
def file_waiting(ctx: JobContext, *, conflict_id: str) -> None:
    """Before: a person has decided whose images are. After: those that waited for it are filed, or stay apart."""
    quarantine.file_waiting(ctx, uuid.UUID(conflict_id))


@job("imaging.release_order", queue="default")
def release_order(ctx: JobContext, *, order_id: str) -> None:
    """After: no study is linked to the cancelled order."""
    with ctx.commit():
        order_matching.release_order(Order.objects.get(pk=order_id))


@job("imaging.ingest_upload", queue="default", on_dead=upload_job.give_up)
def ingest_upload(ctx: JobContext, *, upload_id: str) -> None:
    """Before: staged. After: done, its images filed and its staged bytes deleted; or failed, with the reason."""
    upload_job.run(ctx, Upload.objects.select_related("owner").get(pk=upload_id))


@job("imaging.find_priors", queue="default")
def find_priors(ctx: JobContext, *, order_id: str) -> None:
    """After: each PACS configured for it will be asked for the earlier studies of the order's patient."""
    fetch.find(ctx, order_id)


# What waits for other machines runs beside the deliveries, so that it holds up no preparation.
@job("imaging.ask_for_priors", queue="delivery", max_attempts=8)
def ask_for_priors(ctx: JobContext, *, order_id: str, peer_id: str) -> None:
    """After: the earlier studies that this PACS has and we want are rows, each with its job."""
    fetch.ask(ctx, order_id, peer_id)


@job(
    "imaging.pull_prior",
    queue="delivery",
    max_attempts=8,
    lease_s=120,
    progress_deadline_s=3600,
    on_dead=fetch.give_up_pull,
)
def pull_prior(ctx: JobContext, *, prior_id: str) -> None:
    """After: an earlier study is here, or as much of it as its PACS could send."""
    fetch.pull(ctx, prior_id)


@job("imaging.report_commitment", queue="delivery", max_attempts=20, on_dead=storage_commitment.give_up_report)
def report_commitment(ctx: JobContext, *, request_id: str) -> None:
    """Before: waiting. After: the peer knows which of its instances we keep."""
    storage_commitment.report(ctx, request_id)


@job("imaging.purge_discarded", queue="default")
def purge_discarded(ctx: JobContext, *, instance_id: str) -> None:
    """After: an instance that a person discarded some days ago is deleted."""
    quarantine.purge(ctx, instance_id)


@job("imaging.ingest_intake", queue="default", on_dead=watched_files_job.give_up)
def ingest_intake(ctx: JobContext, *, batch: str) -> None:
    """Before: files of the batch are seen. After: filed and cleared away, or refused with the reason beside them."""
    watched_files_job.run(ctx, batch)
