"""What happens to a draft: sealed and issued as preliminary, or held for a radiologist, as the gate says."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from audit.services import record
from imaging.models import Measurement, SegmentationKind
from imaging.volumes.load import assessable_of
from inference.models import Band
from oncoflow_site.foundation import failpoints, objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.figures import sentence
from oncoflow_site.foundation.jobs import JobContext
from oncoflow_site.foundation.models import Job
from reports.content.schema import ReportContent, Signature, canonical_json, parse_content, with_status
from reports.events import REPORT_HELD, REPORT_ISSUED
from reports.lifecycle.versions import WORKER, fail_drafting, locked_report
from reports.models import Report, ReportVersion, SignatureKind
from reports.pdf import SignatureText
from reports.pdf.build import UndrawableName, render_version
from reports.signing.certificates import fingerprint
from reports.signing.keyring import open_seal
from reports.signing.pades import SignatureBox, sign_pdf
from reports.states import REPORT_MACHINE, VERSION_MACHINE, VersionStatus

__all__ = ["SEAL_REASON", "ReleaseDecision", "decide_release", "give_up", "release_version"]

SEAL_REASON = "Sealed automatically for origin and integrity. Not read by a radiologist."


@dataclass(frozen=True)
class ReleaseDecision:
    """What to do with a draft. ``reasons`` are sentences without identity, in reading order."""

    band: str
    reasons: tuple[str, ...] = ()


def decide_release(version: ReportVersion) -> ReleaseDecision:
    """The gate's band, made stricter where a person has had, or must have, a hand in it, or where sequences are missing."""
    decision = _by_gate(version)
    reduced = assessable_of(version.measurement.segmentation.volume_set).short if version.measurement else ""
    if not reduced:
        return decision
    reduced = sentence(reduced)
    reasons = decision.reasons if reduced in decision.reasons else (*decision.reasons, reduced)
    return ReleaseDecision(Band.HOLD if decision.band == Band.ISSUE else decision.band, reasons)


def _by_gate(version: ReportVersion) -> ReleaseDecision:
    panel = version.panel_run
    kind = version.measurement.segmentation.kind if version.measurement else ""
    gate = [sentence(one) for one in ((panel.gate.reasons if panel.gate else ()) or panel.reasons)] if panel else []
    if version.report.versions.filter(status__in=(VersionStatus.FINAL, VersionStatus.AMENDED)).exists():
        return ReleaseDecision(
            Band.HOLD, ("A signed version exists, so an amendment needs a radiologist's signature.",)
        )
    if kind in (SegmentationKind.PERSON, SegmentationKind.IMPORT):
        return ReleaseDecision(Band.HOLD, ("The outline was made by a person and awaits a radiologist's signature.",))
    if panel is None or not panel.band:
        return ReleaseDecision(Band.HOLD, ("No panel has concluded on this study.",))
    if panel.band == Band.MANUAL:
        return ReleaseDecision(Band.MANUAL, (*gate, "A person's segmentation is required."))
    if panel.band == Band.HOLD:
        return ReleaseDecision(Band.HOLD, tuple(gate) or ("The panel's gate holds it.",))
    return ReleaseDecision(Band.ISSUE)


@dataclass(frozen=True)
class _Made:
    """A version as it will stand: its content, its printed form, and the fields that the row takes."""

    issue: bool
    content: ReportContent
    pdf: bytes
    fields: Mapping[str, Any]


def _make(version: ReportVersion, measurement: Measurement, decision: ReleaseDecision, moment: datetime) -> _Made:
    """Draw the version, sealed where it is to be issued.

    :raises UndrawableName: it is to be issued, and a name in it cannot be drawn.
    """
    issue = decision.band == Band.ISSUE
    content = with_status(
        parse_content(objects.get(version.content)),
        status=VERSION_MACHINE.next(version.status, "issue" if issue else "hold"),
        held_reasons=decision.reasons,
        signature=Signature(),
    )
    if not issue:
        rendered = render_version(version.report, content, measurement, actor=WORKER)
        return _Made(issue, content, rendered.pdf, {"band": decision.band})
    seal, row = open_seal()
    content = with_status(
        content, signature=Signature(kind="seal", name=row.common_name, at=moment, reason=SEAL_REASON)
    )
    signature = SignatureText(
        person=False,
        name=row.common_name,
        role="",
        signed_at=moment,
        reason=SEAL_REASON,
        authority=row.authority.common_name,
    )
    rendered = render_version(version.report, content, measurement, actor=WORKER, signature=signature)
    pdf = sign_pdf(
        rendered.pdf,
        seal,
        box=SignatureBox.of(rendered),
        name=row.common_name,
        reason=SEAL_REASON,
        location=str(settings.ONCOFLOW_HOSPITAL_NAME),
    )
    fields = {
        "band": decision.band,
        "signature_kind": SignatureKind.SEAL,
        "signed_at": moment,
        "issued_at": moment,
        "certificate_fingerprint": fingerprint(seal.certificate),
    }
    return _Made(issue, content, pdf, fields)


def release_version(ctx: JobContext, version_id: uuid.UUID | str) -> None:
    """Before: draft. After: preliminary, sealed (event report.issued), or held with an unsigned PDF (event report.held).

    A version that is no draft any more is left alone. Nothing is written until everything is made, then all at once.

    :raises UserVisibleError: the installation has no seal yet; the job can be retried when it has.
    """
    version = ReportVersion.objects.select_related(
        "report__patient",
        "report__order",
        "content",
        "panel_run",
        "measurement__segmentation__volume_set",
        "measurement__study",
    ).get(pk=version_id)
    if version.status != VersionStatus.DRAFT or version.measurement is None:
        return
    report = version.report
    decision = decide_release(version)
    moment = now()
    ctx.progress(0.2, "drawing the report")
    try:
        made = _make(version, version.measurement, decision, moment)
    except UndrawableName as error:
        # A seal over a name that cannot be read would vouch for it: a person has to look first.
        decision = ReleaseDecision(Band.HOLD, (*decision.reasons, sentence(error.message)))
        made = _make(version, version.measurement, decision, moment)
    failpoints.hit("reports.before_release")
    ctx.progress(0.9, "keeping the report")
    subject = version.report.patient.key_subject
    stored = objects.write(
        canonical_json(made.content), subject=subject, kind="report-content", content_type="application/json"
    )
    printed = objects.write(made.pdf, subject=subject, kind="report-pdf", content_type="application/pdf")
    fields = {
        **made.fields,
        "content": stored,
        "content_sha256": stored.sha256,
        "pdf": printed,
        "pdf_sha256": printed.sha256,
    }
    with ctx.commit():
        report = locked_report(report.pk)
        held = ReportVersion.objects.get(pk=version.pk)
        if held.status != VersionStatus.DRAFT:
            return
        objects.keep(stored, printed)
        VERSION_MACHINE.advance(held, "issue" if made.issue else "hold", **fields)
        reason = "\n".join(decision.reasons)
        REPORT_MACHINE.advance(report, "issue" if made.issue else "hold", state_reason=reason, updated_at=moment)
        record(
            "report.issue" if made.issue else "report.hold",
            action="U",
            resource=report.subject,
            patient_id=report.patient_id,
            actor=WORKER,
            source="worker",
            detail={"version": held.number, "band": str(decision.band), "pdf_sha256": held.pdf_sha256},
        )
        emit(
            REPORT_ISSUED if made.issue else REPORT_HELD,
            subject=report.subject,
            report_id=report.pk,
            version_id=held.pk,
        )


def give_up(job: Job, *, report_id: str) -> None:
    """The job that releases it ended for good: the report waits for nothing any more, it has failed."""
    fail_drafting(Report.objects.get(pk=report_id))
