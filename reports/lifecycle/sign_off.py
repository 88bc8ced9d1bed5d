"""Sign-off: a radiologist makes a report final with a key that only that person can open."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import transaction

from audit.services import Actor, record, record_refusal
from clinical.roles import can
from clinical.services import advance_order, require_patient
from imaging.longitudinal.acceptance import accept_outline
from inference.models import Band
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove, UserVisibleError
from oncoflow_site.foundation.events import emit
from reports.content.provenance import vouched_impression
from reports.content.schema import Signature, canonical_json, parse_content, with_status
from reports.events import REPORT_ISSUED
from reports.lifecycle.versions import current_version, locked_report, next_number, overtake_open
from reports.models import PersonalKey, Report, ReportVersion, SignatureKind, SigningAttempt
from reports.pdf import SignatureText
from reports.pdf.build import render_version
from reports.signing.certificates import KeyAndCertificate, WrongPassword, fingerprint
from reports.signing.keyring import active_personal_key, unlock
from reports.signing.pades import SignatureBox, sign_pdf
from reports.states import REPORT_MACHINE, VersionStatus

__all__ = ["ATTEMPTS", "SIGN_REASON", "WINDOW", "sign_off", "unsignable"]


SIGN_REASON = "I have reviewed this report and the images it describes."
ATTEMPTS = 5
"""Wrong passwords within `WINDOW` after which a person has to wait."""
WINDOW = timedelta(minutes=15)


_SIGNABLE = (VersionStatus.HELD, VersionStatus.PRELIMINARY)


def sign_off(version: ReportVersion, user: Any, password: str, *, reason: str = SIGN_REASON) -> ReportVersion:
    """Sign ``version`` as ``user``: a new version, final (amended where a final one exists), newly drawn and signed.

    Synchronous, about a second. Call it outside a transaction, from a thread without a running event loop.

    :param version: what the person has read; it must still be the report's current version, held or preliminary.
    :param password: opens the person's signing key; used here and forgotten.
    :raises PermissionDenied: the role does not sign, or the patient is not theirs (recorded before the answer).
    :raises UserVisibleError: wrong password, too many tries, no key, not the current version, signed already, or a person's
        segmentation is required first.
    """
    actor = Actor.user(user)
    report = Report.objects.select_related("patient", "order").get(pk=version.report_id)
    if not can(user, "sign_report"):
        _refused(report, actor, "role")
        raise PermissionDenied("This account's role does not sign reports.")
    require_patient(user, report.patient_id, event="report.sign", action="E", resource=report.subject)
    version = ReportVersion.objects.select_related(
        "content", "panel_run", "measurement__segmentation__volume_set", "measurement__study"
    ).get(pk=version.pk)
    error = unsignable(report, version)
    if error is not None:
        _refused(report, actor, error.code)
        raise error
    row, opened = _unlocked(report, user, password, actor)
    return _signed(report, version, user, row, opened, actor, reason)


def _refused(report: Report, actor: Actor, why: str) -> None:
    record_refusal(
        "report.sign",
        action="E",
        resource=report.subject,
        patient_id=report.patient_id,
        actor=actor,
        detail={"why": why},
    )


def unsignable(report: Report, version: ReportVersion) -> UserVisibleError | None:
    """Why ``version`` cannot be signed by anybody now; None where it can."""
    current = current_version(report)
    if version.status in (VersionStatus.FINAL, VersionStatus.AMENDED):
        return UserVisibleError(
            "This version is signed already.", what_to_do="Nothing is left to do.", code="already-signed"
        )
    if current is None or current.pk != version.pk:
        signed = current is not None and current.status in (VersionStatus.FINAL, VersionStatus.AMENDED)
        return UserVisibleError(
            "Somebody has signed this report already." if signed else "A newer version of this report exists.",
            what_to_do="Open the report again and read its newest version.",
            code="already-signed" if signed else "not-current",
        )
    if version.status not in _SIGNABLE:
        return UserVisibleError(
            "This report is still being prepared.", what_to_do="Try again in a moment.", code="not-ready"
        )
    if report.patient.provisional:
        return UserVisibleError(
            "Nobody has confirmed who this patient is.",
            what_to_do="Confirm the identity on the patient's page, or wait for the hospital's registration.",
            code="identity-not-confirmed",
        )
    if version.band == Band.MANUAL:
        return UserVisibleError(
            "The models' outline of this study cannot be signed: a person's is needed.",
            what_to_do="Outline the tumour yourself first; a new draft follows.",
            code="segmentation-required",
        )
    return None


def _unlocked(report: Report, user: Any, password: str, actor: Actor) -> tuple[PersonalKey, KeyAndCertificate]:
    """The person's key, opened. Each try is written down before it is made, so that parallel tries count as well."""
    row = active_personal_key(user)
    if row is None:
        _refused(report, actor, "no-personal-key")
        raise UserVisibleError(
            "You have no signing key.", what_to_do="Ask an administrator to issue one.", code="no-personal-key"
        )
    with transaction.atomic():
        # The lock on the key's row makes parallel tries queue up, so that none slips past the count.
        PersonalKey.objects.select_for_update().get(pk=row.pk)
        wrong = SigningAttempt.objects.filter(user=user, succeeded=False, attempted_at__gt=now() - WINDOW).count()
        attempt = None if wrong >= ATTEMPTS else SigningAttempt.objects.create(user=user, report=report)
    if attempt is None:
        _refused(report, actor, "too-many-attempts")
        raise UserVisibleError(
            "Too many wrong passwords.",
            what_to_do=f"Wait {int(WINDOW.total_seconds() // 60)} minutes, then try again.",
            code="too-many-attempts",
        )
    try:
        opened = unlock(row, password)
    except WrongPassword:
        _refused(report, actor, "wrong-password")
        raise UserVisibleError(
            "This password does not open your signing key.",
            what_to_do="Type the password of your signing key; it may differ from the one you log in with.",
            code="wrong-password",
        ) from None
    SigningAttempt.objects.filter(pk=attempt.pk).update(succeeded=True)
    return row, opened


def _signed(
    report: Report,
    version: ReportVersion,
    user: Any,
    row: PersonalKey,
    opened: KeyAndCertificate,
    actor: Actor,
    reason: str,
) -> ReportVersion:
    moment, named = now(), report.patient_id
    earlier = (
        report.versions.filter(status__in=(VersionStatus.FINAL, VersionStatus.AMENDED)).order_by("-number").first()
    )
    status = VersionStatus.AMENDED if earlier is not None else VersionStatus.FINAL
    number = next_number(report)
    base = parse_content(objects.get(version.content))
    content = with_status(
        base.model_copy(update={"impression": vouched_impression(base)}),
        status=status.value,
        version=number,
        held_reasons=(),
        signature=Signature(
            kind="person",
            user_id=str(user.pk),
            name=row.common_name,
            role=user.get_role_display(),
            at=moment,
            reason=reason,
        ),
    )
    if version.measurement is None:
        raise UserVisibleError(
            "This version has no measurement.", what_to_do="Draft the report anew.", code="not-ready"
        )
    rendered = render_version(
        report,
        content,
        version.measurement,
        actor=actor,
        signature=SignatureText(
            person=True,
            name=row.common_name,
            role=user.get_role_display(),
            signed_at=moment,
            reason=reason,
            authority=row.authority.common_name,
        ),
        replaces=earlier.number if earlier is not None else None,
    )
    pdf = sign_pdf(
        rendered.pdf,
        opened,
        box=SignatureBox.of(rendered),
        name=row.common_name,
        reason=reason,
        location=str(settings.ONCOFLOW_HOSPITAL_NAME),
    )
    subject = report.patient.key_subject
    stored = objects.write(
        canonical_json(content), subject=subject, kind="report-content", content_type="application/json"
    )
    printed = objects.write(pdf, subject=subject, kind="report-pdf", content_type="application/pdf")
    with transaction.atomic():
        report = locked_report(report.pk)
        # Whoever came first has the lock; for everybody else the version is no longer current, or has another number.
        error = unsignable(report, version)
        if error is not None:
            raise error
        if next_number(report) != number or report.patient_id != named:
            raise UserVisibleError(
                "This report changed while you were signing.", what_to_do="Read it again and sign.", code="not-current"
            )
        objects.keep(stored, printed)
        overtake_open(report)
        signed = ReportVersion.objects.create(
            report=report,
            number=number,
            status=status,
            draft_key=version.draft_key,
            content=stored,
            content_sha256=stored.sha256,
            pdf=printed,
            pdf_sha256=printed.sha256,
            signature_kind=SignatureKind.PERSON,
            signer=user,
            signed_at=moment,
            issued_at=moment,
            certificate_fingerprint=fingerprint(opened.certificate),
            supersedes=version,
            band=version.band,
            measurement=version.measurement,
            panel_run=version.panel_run,
        )
        REPORT_MACHINE.advance(report, "amend" if earlier is not None else "sign", state_reason="", updated_at=moment)
        record(
            "report.sign",
            action="E",
            resource=report.subject,
            patient_id=report.patient_id,
            actor=actor,
            detail={"version": number, "status": status.value, "pdf_sha256": signed.pdf_sha256},
        )
        accept_outline(version.measurement.segmentation, by=user.get_username())
        _complete_order(report, actor)
        emit(REPORT_ISSUED, subject=report.subject, report_id=report.pk, version_id=signed.pk)
    return signed


def _complete_order(report: Report, actor: Actor) -> None:
    """A signed report fulfils its order; one that was cancelled meanwhile stays cancelled."""
    if report.order is None:
        return
    try:
        advance_order(report.order, "complete", actor=actor)
    except IllegalMove:
        pass
