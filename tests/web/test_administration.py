"""What an operator moves by hand in the administration is done, and on the record."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import AuditRow
from clinical.models import User
from imaging.models import DeidentificationReport
from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.models import Delivery, Job, JobState
from tests.factories.studies import patient, study_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client: Client) -> Client:
    person = User.objects.create_user("ada", role="admin", is_staff=True, is_superuser=True)
    client.force_login(person)
    return client


def rows() -> list[tuple[str, str, int, str]]:
    found = AuditRow.objects.filter(event__startswith="admin.").order_by("id")
    return list(found.values_list("event", "resource", "outcome", "actor_type"))


def test_jobs_are_started_again_and_cancelled_on_the_record(operator: Client) -> None:
    failed, waiting = (
        enqueue("test.nothing", subject="x", key=uuid.uuid4().hex, kwargs={}, must_be_registered=False) for _ in "ab"
    )
    Job.objects.filter(pk=failed.pk).update(state=JobState.FAILED)
    page = reverse("admin:foundation_job_changelist")
    operator.post(page, {"action": "retry", "_selected_action": [str(failed.pk)]})
    operator.post(page, {"action": "cancel", "_selected_action": [str(waiting.pk)]})
    operator.post(page, {"action": "cancel", "_selected_action": [str(waiting.pk)]})
    failed.refresh_from_db()
    waiting.refresh_from_db()
    assert (failed.state, waiting.state) == (JobState.WAITING, JobState.CANCELLED)
    assert rows() == [
        ("admin.retry", f"job:{failed.pk}", 0, "user"),
        ("admin.cancel", f"job:{waiting.pk}", 0, "user"),
        ("admin.cancel", f"job:{waiting.pk}", 4, "user"),
    ]


def test_an_unknown_delivery_leaves_no_row(operator: Client) -> None:
    page = reverse("admin:foundation_delivery_changelist")
    operator.post(page, {"action": "resend", "_selected_action": [str(uuid.uuid4())]})
    assert rows() == []
    assert not Delivery.objects.exists()


def test_officers_read_what_deidentification_did_and_others_do_not(client: Client) -> None:
    study = study_row(patient("MRN-9"))
    report = DeidentificationReport.objects.create(
        study=study,
        profile="PS3.15 Basic Profile",
        edition="PS3.15 2026d",
        codes=["113100"],
        instances=3,
        attributes=[["00100010", "PN", "D", 3]],
        pixels={"pass": 3},
    )
    listed = reverse("admin:imaging_deidentificationreport_changelist")
    one = reverse("admin:imaging_deidentificationreport_change", args=[report.pk])
    faces = reverse("admin:imaging_faceremoval_changelist")
    for role in ("clinician", "technician"):
        client.force_login(User.objects.create_user(role, role=role, is_staff=True))
        assert [client.get(page).status_code for page in (listed, one, faces)] == [403, 403, 403], role
    client.force_login(User.objects.create_user("officer", role="compliance_officer", is_staff=True))
    assert b"PS3.15 2026d" in client.get(listed).content
    page = client.get(one).text
    assert "PatientName" in page
    assert "replaced by a dummy" in page
    assert 'name="_save"' not in page
    assert client.post(one, {"profile": "x"}).status_code == 403
    assert client.get(faces).status_code == 200
    read = AuditRow.objects.filter(event="deidentification.read", outcome=0)
    assert sorted(read.values_list("resource", flat=True)) == sorted(["deidentification"] * 2 + [study.subject])
