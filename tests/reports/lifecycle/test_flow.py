"""Draft, release by the gate, redraft, sign-off: on real storage, keys, PDFs and signatures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, transaction

from audit.models import AuditRow
from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models import Patient, User
from clinical.services import (
    accept_order,
    add_document,
    assign,
    confirm_identity,
    merge_patients,
    patient_at,
    register_patient,
)
from imaging.identifiers import accession_index
from imaging.longitudinal.history import history_entry
from imaging.models import Comparison, Study, StudyPurpose
from inference.models import PanelRun
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import IllegalMove, UserVisibleError
from oncoflow_site.foundation.models import Event, StoredObject
from reports.lifecycle.sign_off import sign_off
from reports.lifecycle.versions import current_version, issued_version
from reports.models import Report, ReportVersion, SigningAttempt
from reports.narrative.sources import context_documents
from reports.services import load_content, load_pdf, why_not_sign
from reports.signing.keyring import trust_pem
from reports.signing.verify import verify
from tests.factories.report_content import ONCOLOGY_NOTE
from tests.factories.report_studies import PASSWORD
from tests.factories.reports import draft, release, run, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def issued(make_study, make_measurement, signing) -> ReportVersion:
    return release(draft(make_measurement(make_study())))


def test_issue_band_seals_and_issues_as_preliminary(issued: ReportVersion) -> None:
    report = Report.objects.get(pk=issued.report_id)
    assert (issued.number, issued.status, issued.signature_kind, report.state) == (
        1,
        "preliminary",
        "seal",
        "preliminary",
    )
    assert issued_version(report) == current_version(report) == issued
    result = verify(load_pdf(issued), trust_pem())
    assert result.valid, result.problems
    assert result.signer_unit == "Organisation seal"
    assert result.certificate_fingerprint == issued.certificate_fingerprint
    text = text_of(load_pdf(issued))
    assert "PRELIMINARY – NOT SIGNED BY A RADIOLOGIST" in text
    assert "DEMONSTRATION" in text
    assert "ŁUKASIEWICZ" in text.upper()
    assert "Not read by a radiologist" in text
    assert Event.objects.filter(kind="report.issued").count() == 1


def test_content_names_no_patient(issued: ReportVersion) -> None:
    content = load_content(issued)
    text = str(content)
    assert "ukasiewicz" not in text.lower()
    assert "R0000" not in text
    assert content.report_id == str(issued.report_id)
    assert (content.version, content.status, content.signature.kind) == (1, "preliminary", "seal")


@pytest.mark.parametrize(
    ("band", "kind", "reason"),
    [
        ("hold", "consensus", "Agreement 0.93"),
        ("manual", "consensus", "A person's segmentation is required."),
        (None, "consensus", "No panel"),
        ("issue", "person", "made by a person"),
    ],
)
def test_other_bands_hold(make_study, make_measurement, signing, band, kind, reason) -> None:
    version = release(draft(make_measurement(make_study(), band=band, kind=kind)))
    assert (version.status, version.signature_kind, version.issued_at) == ("held", "none", None)
    assert reason in version.report.state_reason
    assert reason in " ".join(load_content(version).held_reasons)
    assert "HELD FOR REVIEW" in text_of(load_pdf(version))
    assert not verify(load_pdf(version), trust_pem()).valid
    assert Event.objects.filter(kind="report.held").count() == 1
    assert not Event.objects.filter(kind="report.issued").exists()


def test_reasons_are_kept_whole(make_study, make_measurement, signing) -> None:
    """Neither cut in mid-word nor torn at semicolons, however many there are."""
    long = f"the images are unlike the training's; most unusual: {', '.join(f'T1c with T2 in place {n}' for n in range(20))}"
    measurement = make_measurement(make_study(), band="hold")
    panel = PanelRun.objects.get()
    panel.gate = panel.gate.model_copy(update={"reasons": (long, "Agreement is 0.95, lowest in ET.")})
    panel.save()
    version = release(draft(measurement))
    expected = [long[0].upper() + long[1:] + ".", "Agreement is 0.95, lowest in ET."]
    assert list(load_content(version).held_reasons) == expected
    assert version.report.state_reason.splitlines() == expected
    printed = " ".join(text_of(load_pdf(version)).split())
    assert "in place 19. " in printed


def test_everything_can_run_twice(make_study, make_measurement, signing) -> None:
    measurement = make_measurement(make_study())
    version = draft(measurement)
    assert draft(measurement) == version
    release(version)
    before = (load_pdf(version), StoredObject.objects.count(), Event.objects.count())
    release(version)
    draft(measurement)
    assert (load_pdf(version), StoredObject.objects.count(), Event.objects.count()) == before
    assert ReportVersion.objects.count() == 1


def test_release_without_seal_fails_with_a_sentence_and_can_be_retried(make_study, make_measurement) -> None:
    version = draft(make_measurement(make_study()))
    job = run("reports.release", report_id=version.report_id, version_id=version.id)
    assert job.state == "failed"
    assert "init_signing" in job.error
    version.refresh_from_db()
    assert (version.status, version.pdf) == ("draft", None)


def test_new_measurement_makes_a_new_preliminary_and_leaves_the_old_one(make_study, make_measurement, signing) -> None:
    study = make_study()
    first_measurement = make_measurement(study)
    first = release(draft(first_measurement))
    kept = load_pdf(first)
    second = release(draft(make_measurement(study)))
    assert (second.number, second.status, second.supersedes) == (2, "preliminary", first)
    first.refresh_from_db()
    assert first.status == "preliminary"
    assert load_pdf(first) == kept
    draft(first_measurement)  # a late job about the older measurement
    assert ReportVersion.objects.count() == 2


def test_comparison_made_anew_makes_a_new_draft(make_study, make_measurement, signing) -> None:
    older = make_measurement(make_study(datetime(2026, 5, 12, tzinfo=UTC), order=None))
    measurement = make_measurement(make_study())
    release(draft(measurement))
    comparison = Comparison.objects.get(measurement=measurement)
    comparison.prior_study, comparison.prior_measurement = older.study, older
    dates = (older.study, older), (measurement.study, measurement)
    comparison.result = comparison.result.model_copy(
        update={"interval_days": 94, "history": tuple(history_entry(*date) for date in dates)}
    )
    comparison.save()
    version = draft(measurement)
    assert version.number == 2
    history = load_content(version).history
    assert [entry.study_id for entry in history] == [str(older.study_id), str(measurement.study_id)]


def test_draft_overtaken_before_release_is_not_issued(make_study, make_measurement, signing) -> None:
    study = make_study()
    first = draft(make_measurement(study))
    second = draft(make_measurement(study))
    first.refresh_from_db()
    assert (first.status, second.number) == ("superseded", 2)
    release(first)
    assert (first.status, first.pdf) == ("superseded", None)
    assert release(second).status == "preliminary"


# --- sign-off


def test_nothing_is_signed_as_final_for_a_patient_whom_nobody_has_confirmed(
    issued: ReportVersion, radiologist: User
) -> None:
    Patient.objects.update(provisional=True)
    with pytest.raises(UserVisibleError) as caught:
        sign_off(issued, radiologist, PASSWORD)
    assert caught.value.code == "identity-not-confirmed"
    assert not ReportVersion.objects.filter(status__in=("final", "amended")).exists()
    confirm_identity(issued.report.patient, by=radiologist)
    assert sign_off(issued, radiologist, PASSWORD).status == "final"


def test_a_signed_report_stays_as_it_was_signed_and_says_under_whom(issued: ReportVersion, radiologist: User) -> None:
    signed = sign_off(issued, radiologist, PASSWORD)
    pdf, prior = objects.get(signed.pdf), issued.report.patient
    number = (Identifier("DEMOHOSP", "SURVIVOR"),)
    survivor = register_patient(IdentityData("Łukasiewicz", "Zoë", identifiers=number), source="command")
    merge_patients(survivor, prior, by=None, reason="A40", source="mllp")
    report = Report.objects.get()
    assert report.patient == survivor
    again = report.versions.get(pk=signed.pk)
    assert objects.get(again.pdf) == pdf
    assert patient_at(report, signed.signed_at) == prior
    assert report.order.patient == report.study.patient == survivor


def test_sign_off_makes_a_new_final_version(issued: ReportVersion, radiologist: User) -> None:
    kept = load_pdf(issued)
    assert why_not_sign(radiologist, issued) == ""
    signed = sign_off(issued, radiologist, PASSWORD)
    report = Report.objects.get(pk=issued.report_id)
    assert (signed.number, signed.status, signed.signer, report.state) == (2, "final", radiologist, "final")
    assert signed.supersedes == issued
    result = verify(load_pdf(signed), trust_pem())
    assert result.valid, result.problems
    assert (result.signer, result.signer_unit) == ("Rahel Sommer", "Radiology")
    text = text_of(load_pdf(signed))
    assert "FINAL – signed by Rahel Sommer" in text
    assert "PRELIMINARY" not in text
    assert "version 2" in text
    issued.refresh_from_db()
    assert (issued.status, load_pdf(issued)) == ("preliminary", kept)
    assert load_content(signed).signature.name == "Rahel Sommer"
    assert Event.objects.filter(kind="report.issued").count() == 2
    report.order.refresh_from_db()
    assert report.order.status == "completed"
    row = AuditRow.objects.get(event="report.sign")
    assert (row.outcome, row.actor_id) == (0, str(radiologist.pk))


def test_held_report_is_signed_too(make_study, make_measurement, radiologist: User) -> None:
    held = release(draft(make_measurement(make_study(), band="hold")))
    signed = sign_off(held, radiologist, PASSWORD)
    held.refresh_from_db()
    assert (signed.status, held.status) == ("final", "superseded")
    assert load_content(signed).held_reasons == ()


def test_manual_band_cannot_be_signed_until_a_person_has_outlined(
    make_study, make_measurement, radiologist: User
) -> None:
    study = make_study()
    manual = release(draft(make_measurement(study, band="manual")))
    with pytest.raises(UserVisibleError) as refused:
        sign_off(manual, radiologist, PASSWORD)
    assert refused.value.code == "segmentation-required"
    held = release(draft(make_measurement(study, kind="person")))
    assert sign_off(held, radiologist, PASSWORD).status == "final"


def test_wrong_password_is_refused_recorded_and_limited(issued: ReportVersion, radiologist: User) -> None:
    for _ in range(5):
        with pytest.raises(UserVisibleError) as refused:
            sign_off(issued, radiologist, "wrong password")
        assert refused.value.code == "wrong-password"
    with pytest.raises(UserVisibleError) as refused:
        sign_off(issued, radiologist, PASSWORD)
    assert refused.value.code == "too-many-attempts"
    assert AuditRow.objects.filter(event="report.sign", outcome=4).count() == 6
    assert ReportVersion.objects.count() == 1
    SigningAttempt.objects.update(attempted_at=datetime.now(UTC) - timedelta(minutes=16))
    assert sign_off(issued, radiologist, PASSWORD).status == "final"


def test_who_may_not_sign(issued: ReportVersion, radiologist: User, patient) -> None:
    clinician = User.objects.create_user(username="clin", role="clinician")
    assign(clinician, patient, reason="test", by=None)
    stranger = User.objects.create_user(username="rad-stranger", role="radiologist")
    for user in (clinician, stranger):
        with pytest.raises(PermissionDenied):
            sign_off(issued, user, PASSWORD)
    keyless = User.objects.create_user(username="rad-keyless", role="radiologist")
    assign(keyless, patient, reason="test", by=None)
    with pytest.raises(UserVisibleError) as refused:
        sign_off(issued, keyless, PASSWORD)
    assert refused.value.code == "no-personal-key"
    assert why_not_sign(clinician, issued)
    assert why_not_sign(keyless, issued)
    assert AuditRow.objects.filter(event="report.sign", outcome=4).count() == 3


def test_signing_twice_is_refused(issued: ReportVersion, radiologist: User) -> None:
    signed = sign_off(issued, radiologist, PASSWORD)
    for version in (issued, signed):
        with pytest.raises(UserVisibleError) as refused:
            sign_off(version, radiologist, PASSWORD)
        assert refused.value.code == "already-signed"
    assert ReportVersion.objects.count() == 2


def test_change_after_final_is_held_then_amended(make_study, make_measurement, radiologist: User) -> None:
    study = make_study()
    final = sign_off(release(draft(make_measurement(study))), radiologist, PASSWORD)
    held = release(draft(make_measurement(study)))
    report = Report.objects.get(study=study)
    assert (held.status, report.state) == ("held", "held")
    assert issued_version(report) == final
    amended = sign_off(held, radiologist, PASSWORD)
    report.refresh_from_db()
    assert (amended.number, amended.status, report.state) == (4, "amended", "amended")
    text = text_of(load_pdf(amended))
    assert "AMENDED – signed by Rahel Sommer" in text
    assert "replaces version 2" in text


def test_issued_versions_cannot_change(issued: ReportVersion) -> None:
    issued.pdf_sha256 = "0" * 64
    with pytest.raises(IllegalMove):
        issued.save()
    with pytest.raises(IllegalMove):
        issued.delete()
    with pytest.raises(DatabaseError, match="cannot change"), transaction.atomic():
        ReportVersion.objects.filter(pk=issued.pk).update(content_sha256="0" * 64)
    with pytest.raises(DatabaseError, match="cannot change"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE reports_reportversion SET status = 'final'")


# --- documents


WRITTEN = datetime(2026, 8, 2, tzinfo=UTC)


def read(patient, text: str, source_id: str = "doc-1", authored_on: datetime | None = WRITTEN, **more: Any):
    document = add_document(
        patient,
        content=text.encode("utf-8"),
        content_type="text/plain; charset=utf-8",
        type_code="11488-4",
        type_text="Oncology note",
        authored_on=authored_on,
        source_id=source_id,
        **more,
    )
    job = run("clinical.read_document", document_id=document.id)
    assert job.state == "done", job.error
    document.refresh_from_db()
    return document


def test_context_is_cited_byte_for_byte(make_study, make_measurement, patient, signing) -> None:
    from clinical.services import read_text

    document = read(patient, ONCOLOGY_NOTE)
    content = load_content(release(draft(make_measurement(make_study()))))
    context = [item for item in content.narrative if item.kind == "context"]
    assert len(context) >= 4
    stored = read_text(document)
    for item in content.narrative:
        assert item.citations
        for citation in item.citations:
            if citation.kind == "document":
                assert citation.document_id == str(document.id)
                assert stored[citation.start : citation.end] == citation.text.encode("utf-8")
                assert citation.text in item.text
                assert citation.text_sha256 == document.text_sha256
    assert any("60 Gy" in item.text for item in context)


def test_a_document_from_after_the_study_is_no_context_of_it(make_study, make_measurement, patient, signing) -> None:
    """It is neither quoted nor a reason for a new version; an undated one stays, and is called undated."""
    study = make_study()
    for days, words in ((-20, "before"), (2, "inside the window"), (4, "after it")):
        text = f"Brain tumour board, written {words}: glioblastoma, dexamethasone 4 mg twice daily."
        read(patient, text, words, authored_on=study.performed_at + timedelta(days=days))
    read(
        patient, "Undated summary of the glioblastoma: temozolomide was started in spring.", "undated", authored_on=None
    )
    content = load_content(release(draft(make_measurement(study))))
    said = " ".join(one.text for one in content.narrative)
    assert "written before" in said
    assert "inside the window" in said
    assert "after it" not in said
    assert "An undated" in said
    assert len(context_documents(study)) == 3


def test_document_redrafts_what_is_open_only(make_study, make_measurement, patient, signing) -> None:
    held = release(draft(make_measurement(make_study(), band="hold")))
    document = read(patient, ONCOLOGY_NOTE)
    assert run("reports.redraft_open", document_id=document.id).state == "done"
    newest = release(current_version(held.report))
    held.refresh_from_db()
    assert (held.status, newest.number, newest.status) == ("superseded", 2, "held")
    assert any(item.kind == "context" for item in load_content(newest).narrative)
    assert run("reports.redraft_open", document_id=document.id).state == "done"
    assert ReportVersion.objects.count() == 2


def test_document_leaves_an_issued_report_alone(issued: ReportVersion, patient) -> None:
    document = read(patient, ONCOLOGY_NOTE)
    assert run("reports.redraft_open", document_id=document.id).state == "done"
    assert ReportVersion.objects.count() == 1


def test_pseudonymous_report(make_study, make_measurement, patient, signing, settings) -> None:
    settings.ONCOFLOW_PSEUDONYMOUS_REPORTS = True
    version = release(draft(make_measurement(make_study())))
    text = text_of(load_pdf(version))
    assert patient.pseudonym in text
    assert "ukasiewicz" not in text.lower()
    assert "ACC" not in text
    assert not AuditRow.objects.filter(event="patient.identity").exists()


def test_a_prior_is_not_reported_until_an_order_asks_for_it(make_study, make_measurement, order, signing) -> None:
    measurement = make_measurement(make_study())
    study = measurement.study
    Study.objects.filter(pk=study.pk).update(purpose=StudyPurpose.PRIOR, order=None)
    job = run("reports.draft", study_id=study.pk, measurement_id=measurement.id)
    assert job.state == "done", job.error
    assert not Report.objects.exists()
    assert not Event.objects.filter(kind="report.drafted").exists()
    Study.objects.filter(pk=study.pk).update(order=order)
    assert release(draft(measurement)).status == "preliminary"


def test_linking_a_prior_to_its_order_has_it_reported(make_study, make_measurement, order, signing) -> None:
    measurement = make_measurement(make_study())
    study = measurement.study
    Study.objects.filter(pk=study.pk).update(
        purpose=StudyPurpose.PRIOR, order=None, unsolicited=True, accession_index=accession_index("ACC-LATE")
    )
    late = accept_order(
        study.patient,
        OrderIdentity(accession="ACC-LATE", placer_number="P-LATE", placer_authority="EMR"),
        source="mllp",
    )
    assert run("imaging.match_order_to_study", order_id=late.pk).state == "done"
    told = Event.objects.get(kind="comparison.ready", subject=f"study:{study.pk}")
    assert told.payload["measurement_id"] == str(measurement.pk)
