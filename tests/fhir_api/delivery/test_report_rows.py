"""Issued versions from the database: into the outbox in order, and readable at the FHIR door."""

from __future__ import annotations

import hashlib
import json
import socket
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData, OrderIdentity
from fhir_api.access.tokens import create_token
from fhir_api.delivery.deliver import never_delivered
from fhir_api.delivery.standing import endpoint_standings
from fhir_api.models import Endpoint
from fhir_api.r4.resources.bundle import report_transaction
from fhir_api.report_out.disclosed_report import disclose_report
from imaging.identifiers import StudyIdentity, seal
from imaging.models import Study
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import local, now
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.jobs import enqueue, run_pending
from oncoflow_site.foundation.models import Delivery, EndpointStatus
from reports.content.schema import canonical_json
from reports.models import Report, ReportVersion
from tests.factories.fhir_client import Fhir
from tests.factories.outgoing_reports import PDF, content

pytestmark = pytest.mark.django_db
UID = "1.2.826.0.1.3680043.8.498.42"


@pytest.fixture
def report() -> Report:
    identity = IdentityData("Beispiel", "Anna", date(1964, 3, 11), "F", (Identifier("DEMOHOSP", "D1"),))
    patient = clinical.register_patient(identity, source="command")
    numbers = OrderIdentity(accession="A1", placer_number="P1", placer_authority="EMR", echo={"OBR-2": "P1^EMR"})
    order = clinical.accept_order(patient, numbers, source="mllp", procedure_code="24587-8", procedure_text="MR Brain")
    study = Study.objects.create(
        patient=patient,
        order=order,
        uid_index="u",
        deidentified_uid="2.25.1",
        ciphertext=seal(patient.key_subject, StudyIdentity(UID, "A1"), context="study"),
        performed_at=datetime(2026, 3, 1, 10, 15, tzinfo=UTC),
    )
    return Report.objects.create(study=study, patient=patient, order=order)


def issue(report: Report, number: int, status: str = "preliminary", *, issued: bool = True) -> ReportVersion:
    body, pdf = canonical_json(content()), PDF + str(number).encode()
    subject = report.patient.key_subject
    return ReportVersion.objects.create(
        report=report,
        number=number,
        status=status,
        draft_key=str(number),
        content=objects.put(body, subject=subject, kind="report"),
        content_sha256=hashlib.sha256(body).hexdigest(),
        pdf=objects.put(pdf, subject=subject, kind="pdf"),
        pdf_sha256=hashlib.sha256(pdf).hexdigest(),
        issued_at=now() if issued else None,
    )


def follow(version: ReportVersion, key: str) -> None:
    kwargs = {"report_id": version.report_id, "version_id": version.id}
    enqueue("fhir_api.deliver_report", subject=version.report.subject, key=key, kwargs=kwargs)
    run_pending("default")


def test_every_endpoint_gets_each_version_once_and_in_order(report):
    Endpoint.objects.create(name="a", transport="fhir", address="http://127.0.0.1:1/fhir")
    Endpoint.objects.create(name="b", transport="mllp", address="127.0.0.1:1")
    Endpoint.objects.create(name="off", transport="mllp", address="127.0.0.1:1", active=False)
    first, second = issue(report, 1), issue(report, 2)
    follow(second, "k2")  # the job of the first version is late
    follow(first, "k1")
    follow(second, "k2-again")
    rows = list(
        Delivery.objects.order_by("endpoint", "sequence").values_list("endpoint", "sequence", "headers__version")
    )
    assert rows == [("a", 1, 1), ("a", 2, 2), ("b", 1, 1), ("b", 2, 2)]
    for row in Delivery.objects.select_related("payload_object"):
        assert row.payload_object is not None
        assert row.payload_object.subject == report.patient.key_subject
        assert row.subject == f"report:{report.id}"
    assert AuditRow.objects.filter(event="report.deliver").count() == 4
    revealed = AuditRow.objects.filter(event="patient.identity", patient=report.patient_id)
    assert {row.detail["purpose"] for row in revealed} == {"delivery"}


def test_a_new_or_restored_endpoint_gets_what_was_issued_before(report, client):
    old = Endpoint.objects.create(name="old", transport="fhir", address="http://127.0.0.1:1/fhir")
    follow(issue(report, 1), "k1")
    new = Endpoint.objects.create(name="new", transport="mllp", address="127.0.0.1:1", active=False)
    second = issue(report, 2)
    follow(second, "k2")
    assert [one.never for one in endpoint_standings()] == [2, 0]
    assert {one.endpoint.name: one.state for one in endpoint_standings()} == {"new": "off", "old": "up"}
    Endpoint.objects.update(active=True)

    def lane(endpoint: Endpoint) -> list[int]:
        rows = Delivery.objects.filter(endpoint=endpoint.name).order_by("sequence")
        return list(rows.values_list("headers__version", flat=True))

    admin = get_user_model().objects.create_user("admin", role="admin")
    client.force_login(admin)
    assert b"Where reports go" in client.get("/system/").content
    tomorrow = (local(now()) + timedelta(days=1)).date().isoformat()
    client.post(f"/system/endpoints/{new.pk}/backfill", {"since": tomorrow})
    client.post(f"/system/endpoints/{new.pk}/backfill", {"since": "soon"})
    client.post(f"/system/endpoints/{new.pk}/backfill", {"delivered_too": "on"})
    run_pending("default")
    assert lane(new) == []
    for _ in range(2):  # the second finds nothing that is missing
        client.post(f"/system/endpoints/{new.pk}/backfill", {})
        run_pending("default")
        assert (lane(new), lane(old)) == ([1, 2], [1, 2])
    assert [one.never for one in endpoint_standings()] == [0, 0]
    call_command("endpoints", "--backfill", "old", "--report", str(report.pk), "--delivered-too", stdout=StringIO())
    run_pending("default")
    assert (lane(new), lane(old)) == ([1, 2], [1, 2, 1, 2])
    rows = AuditRow.objects.filter(event="endpoint.backfill").order_by("pk")
    assert [row.detail["reports"] for row in rows] == [0, 1, 0, 1]


def test_an_endpoint_for_final_reports_gets_no_preliminary_one(report):
    endpoint = Endpoint.objects.create(
        name="a", transport="mllp", address="127.0.0.1:1", capabilities={"final_only": True, "format": "mdm"}
    )
    follow(issue(report, 1), "k1")
    assert not Delivery.objects.exists()
    assert not never_delivered(endpoint).exists()


def test_the_test_of_an_endpoint_says_what_is_wrong_and_is_recorded(report, client):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        endpoint = Endpoint.objects.create(name="hl7", transport="mllp", address=address)
        EndpointStatus.objects.create(endpoint="hl7", state="stopped", next_probe_at=now() + timedelta(hours=1))
        out = StringIO()
        call_command("endpoints", "--test", "hl7", stdout=out)
        assert "It answers" in out.getvalue()
        assert EndpointStatus.objects.get().next_probe_at <= now(), "what waits is tried at once"
    client.force_login(get_user_model().objects.create_user("admin", role="admin"))
    page = client.post(f"/system/endpoints/{endpoint.pk}/test", follow=True).content.decode()
    assert "hl7: The MLLP peer is not there" in page
    assert list(AuditRow.objects.filter(event="endpoint.test").order_by("pk").values_list("outcome", flat=True)) == [
        0,
        4,
    ]
    client.force_login(get_user_model().objects.create_user("doctor", role="doctor"))
    for verb in ("test", "backfill"):
        assert client.post(f"/system/endpoints/{endpoint.pk}/{verb}").status_code == 403


def test_what_was_not_issued_or_was_altered_does_not_leave(report):
    draft = issue(report, 1, "held", issued=False)
    with pytest.raises(PermanentError):
        disclose_report(draft)
    version = issue(report, 2)
    version.pdf_sha256 = "0" * 64
    with pytest.raises(PermanentError):
        disclose_report(version)


def test_report_is_read_and_searched_with_references_that_resolve(report):
    version = issue(report, 1)
    assert json.loads(report_transaction(version))["type"] == "transaction"
    account = get_user_model().objects.create_user("emr", role="integration")
    fhir = Fhir(create_token(account, "t")[1])
    found: dict[str, Any] = {}
    for kind in ("DiagnosticReport", "Observation", "ImagingStudy", "Provenance", "ServiceRequest"):
        answer = fhir.get(f"{kind}?patient=Patient/{report.patient_id}")
        assert answer.status_code == 200, answer.content
        found[kind] = [one["resource"] for one in answer.json()["entry"]]
        assert "urn:uuid:" not in answer.content.decode()
    (one,) = found["DiagnosticReport"]
    assert one["id"] == str(report.id)
    assert {part["reference"] for part in one["result"]} == {f"Observation/{row['id']}" for row in found["Observation"]}
    for reference in (
        one["subject"]["reference"],
        one["imagingStudy"][0]["reference"],
        f"DiagnosticReport/{report.id}",
    ):
        assert fhir.get(reference).status_code == 200
    form = one["presentedForm"][0]["url"]
    pdf = fhir.get(form.split("/fhir/")[1], Accept="application/pdf")
    assert pdf.content == PDF + b"1"
    assert fhir.get(form.split("/fhir/")[1]).json()["resourceType"] == "Binary"
    assert fhir.get("Observation?_count=3").json()["link"][1]["relation"] == "next"
    assert fhir.get("DiagnosticReport?status=final").json()["total"] == 0
    nobody = get_user_model().objects.create_user("rhea", role="radiologist")
    stranger = Fhir(create_token(nobody, "t")[1])
    assert stranger.get("DiagnosticReport").json()["total"] == 0
    assert stranger.get(f"DiagnosticReport/{report.id}").status_code == 404
    assert stranger.get(form.split("/fhir/")[1]).status_code == 404


@pytest.mark.peer("hapi")
def test_what_is_read_of_a_report_is_valid(report, fhir_validator):
    issue(report, 1)
    account = get_user_model().objects.create_user("emr", role="integration")
    fhir = Fhir(create_token(account, "t")[1])
    for kind in ("DiagnosticReport", "Observation", "ImagingStudy", "Provenance", "ServiceRequest", "Patient"):
        assert fhir_validator.issues(fhir.get(kind).content) == []
