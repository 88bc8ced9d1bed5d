"""Drafts: a new version for each distinct set of facts and documents, never two for the same."""

from __future__ import annotations

import logging
import uuid

from django.conf import settings

from audit.services import record
from clinical.models import ClinicalDocument
from imaging.models import Measurement, Study
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import TransientError
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.jobs import JobContext
from oncoflow_site.foundation.models import Job
from reports.content.gather import gather_facts, panel_for
from reports.content.schema import canonical_json, draft_key, with_status
from reports.events import REPORT_DRAFTED
from reports.lifecycle.assemble import build_content
from reports.lifecycle.versions import OPEN_STATUSES, WORKER, fail_drafting, next_number, overtake_open
from reports.models import Report, ReportVersion
from reports.narrative.extractive import ExtractiveNarrator
from reports.narrative.sentences import Narrator
from reports.narrative.sources import context_documents, gather_sources
from reports.states import REPORT_MACHINE, VersionStatus

__all__ = ["draft_measurement", "give_up", "narrator", "redraft_for_document"]


logger = logging.getLogger(__name__)


def narrator() -> Narrator:
    """The configured narrator. ``ONCOFLOW_NARRATOR`` names it; the extractive one is the default and needs no model."""
    known = {ExtractiveNarrator.name: ExtractiveNarrator}
    return known[str(getattr(settings, "ONCOFLOW_NARRATOR", ExtractiveNarrator.name))]()


def _newest_measurement(measurement: Measurement) -> bool:
    newest = Measurement.objects.filter(study_id=measurement.study_id).order_by("-created_at", "-id").first()
    return newest is not None and newest.pk == measurement.pk


def draft_measurement(ctx: JobContext, measurement_id: uuid.UUID | str, *, only_if_open: bool = False) -> None:
    """Draft the report of the measurement's study anew, if anything has changed since the newest version.

    Before: any state of the report, or none yet. After: a draft version for these facts exists (event report.drafted), or
    nothing was to be done: an earlier study that no order asked for, an older measurement, unchanged facts, or with
    ``only_if_open`` a report without open draft.
    """
    measurement = Measurement.objects.select_related("study__patient", "study__order", "segmentation__volume_set").get(
        pk=measurement_id
    )
    study = measurement.study
    if not study.to_be_reported or not _newest_measurement(measurement):
        return
    report = Report.objects.filter(study=study).first()
    if only_if_open and (report is None or not report.versions.filter(status__in=OPEN_STATUSES).exists()):
        return
    writer = narrator()
    facts = gather_facts(measurement)
    documents = [(str(row.id), row.text_sha256) for row in context_documents(study)]
    key = draft_key(facts, documents, writer.name)
    if report is not None and _unchanged(report, key):
        return
    ctx.progress(0.2, "looking through the patient's documents")
    sources = gather_sources(study)
    ctx.progress(0.7, "writing the summary")
    content = build_content(facts, sources, writer)
    report = Report.objects.filter(study=study).first()
    number = next_number(report) if report is not None else 1
    report_id = report.pk if report is not None else new_id()
    data = canonical_json(with_status(content, report_id=str(report_id), version=number))
    stored = objects.write(data, subject=study.key_subject, kind="report-content", content_type="application/json")
    with ctx.commit():
        Report.objects.get_or_create(
            study=study, defaults={"id": report_id, "patient": study.patient, "order": study.order}
        )
        report = Report.objects.select_for_update().get(study=study)
        if _unchanged(report, key) or not _newest_measurement(measurement):
            return
        if report.pk != report_id or next_number(report) != number:
            raise TransientError("the report got another version while this one was written")
        overtake_open(report)
        previous = report.versions.filter(issued_at__isnull=False).order_by("-number").first()
        objects.keep(stored)
        version = ReportVersion.objects.create(
            report=report,
            number=number,
            draft_key=key,
            content=stored,
            content_sha256=stored.sha256,
            supersedes=previous,
            measurement=measurement,
            panel_run=panel_for(measurement),
        )
        REPORT_MACHINE.advance(report, "draft", state_reason="", order=study.order, updated_at=now())
        record(
            "report.draft",
            action="C",
            resource=report.subject,
            patient_id=report.patient_id,
            actor=WORKER,
            source="worker",
            detail={"version": number, "documents": len(sources)},
        )
        emit(REPORT_DRAFTED, subject=report.subject, report_id=report.pk, version_id=version.pk)


def give_up(job: Job, *, study_id: str) -> None:
    """The job that drafts it ended for good: a report that was being drafted has failed, and one there is to show it."""
    study = Study.objects.select_related("patient", "order").get(pk=study_id)
    if study.to_be_reported:
        report, _ = Report.objects.get_or_create(study=study, defaults={"patient": study.patient, "order": study.order})
        fail_drafting(report)


def _unchanged(report: Report, key: str) -> bool:
    """True when the newest version was made from the very same facts."""
    newest = report.versions.exclude(status=VersionStatus.SUPERSEDED).order_by("-number").first()
    return newest is not None and newest.draft_key == key


def redraft_for_document(ctx: JobContext, document_id: uuid.UUID | str) -> None:
    """Draft anew the patient's reports whose newest version is still open, since a document has been read.

    A report that has been issued is left alone: a new document is no reason to send the EMR another preliminary.
    """
    document = ClinicalDocument.objects.get(pk=document_id)
    waiting = (
        ReportVersion.objects.filter(report__patient_id=document.patient_id, status__in=OPEN_STATUSES)
        .exclude(measurement__isnull=True)
        .order_by("report_id", "number")
    )
    for version in waiting:
        if version.measurement_id is not None:
            draft_measurement(ctx, version.measurement_id, only_if_open=True)
