"""Images kept apart, on their page: who sees which, the look, the release."""

from __future__ import annotations

import pytest
from django.test import Client

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import User
from imaging.archive.store_instance import store_instance
from imaging.deidentification import pixel_inspection
from imaging.deidentification.deidentify_study import deidentify_study
from imaging.models import Instance, InstanceState, Study
from tests.factories.dicom_files import as_file, dataset
from tests.factories.job_contexts import context

pytestmark = pytest.mark.django_db
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Instance:
    """A secondary capture that nothing could read, as where Tesseract is not installed."""
    monkeypatch.setattr(pixel_inspection.burned_in_text, "available", lambda: False)
    store_instance(as_file(dataset(SOPClassUID=SECONDARY_CAPTURE)), source="dicom", peer="SCANNER1")
    study = Study.objects.get()
    deidentify_study(context(study), study)
    return Instance.objects.get(state=InstanceState.QUARANTINED)


def person(client: Client, role: str) -> User:
    user: User = User.objects.create_user(username=role, role=role)
    client.force_login(user)
    return user


def test_a_technician_of_the_care_team_looks_and_releases(client: Client, apart: Instance) -> None:
    technician = person(client, "technician")
    assign(technician, apart.study.patient, reason="scans", by=None)
    page = client.get("/quarantine/")
    assert b"Tesseract is not installed here" in page.content
    assert b"uastenflosser" not in page.content
    assert b"See why, and look at them" in client.get("/").content
    picture = client.get(f"/quarantine/{apart.pk}/0.png")
    assert picture.content.startswith(b"\x89PNG")
    assert picture.headers["Cache-Control"] == "no-store"
    assert client.get(f"/quarantine/{apart.pk}/7.png").status_code == 404
    assert client.get(f"/quarantine/{apart.pk}/release").status_code == 405
    done = client.post(f"/quarantine/{apart.pk}/release", {"reason": "only a scale bar"}, follow=True)
    assert b"Released." in done.content
    apart.refresh_from_db()
    assert apart.state == InstanceState.RECEIVED
    assert {"web.quarantine", "pixels.look", "pixels.release"} <= set(AuditRow.objects.values_list("event", flat=True))


def test_somebody_elses_patient_looks_absent_and_is_recorded(client: Client, apart: Instance) -> None:
    person(client, "radiologist")
    assert b"Nothing is kept apart" in client.get("/quarantine/").content
    assert b"in quarantine" not in client.get("/").content
    assert client.get(f"/quarantine/{apart.pk}/0.png").status_code == 404
    assert client.post(f"/quarantine/{apart.pk}/release", {"reason": "I looked"}).status_code == 404
    assert AuditRow.objects.filter(event="web.quarantine", outcome__gt=0).count() == 2
    apart.refresh_from_db()
    assert apart.state == InstanceState.QUARANTINED


def test_who_may_not_release_does_not_see_the_page(client: Client, apart: Instance) -> None:
    assign(person(client, "doctor"), apart.study.patient, reason="treats", by=None)
    assert client.get("/quarantine/").status_code == 403
    assert client.get(f"/quarantine/{apart.pk}/0.png").status_code == 403


def test_a_release_needs_the_forms_token(apart: Instance) -> None:
    client = Client(enforce_csrf_checks=True)
    assign(person(client, "radiologist"), apart.study.patient, reason="reads", by=None)
    assert client.post(f"/quarantine/{apart.pk}/release", {"reason": "I looked"}).status_code == 403
