"""Pages and REST: who may see what, and what they show."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
import pytest
from django.test import Client

from audit.models import AuditRow
from clinical.models import Patient, User
from clinical.roles import Role
from imaging.models import DeidentificationReport, FaceRemoval, Series
from reports.models import Report
from tests.factories.report_studies import PASSWORD


def addresses(report: Report) -> dict[str, str]:
    """Every address that shows something of one patient."""
    study = report.study
    segmentation = study.segmentations.get()
    return {
        "patient": f"/patients/{report.patient_id}/",
        "study": f"/studies/{study.pk}/",
        "report": f"/reports/{report.pk}/",
        "rest study": f"/api/studies/{study.pk}/",
        "rest volume": f"/api/studies/{study.pk}/volumes/T1c.nii.gz",
        "rest segmentation": f"/api/studies/{study.pk}/segmentations/{segmentation.pk}.nii.gz",
        "rest slice": f"/api/studies/{study.pk}/slices/axial/12.png",
        "rest pdf": f"/api/reports/{report.pk}/versions/1.pdf",
        "rest content": f"/api/reports/{report.pk}/versions/1.json",
    }


@pytest.mark.parametrize("role", [role for role in Role.values if role != Role.INTEGRATION])
def test_nobody_but_the_care_team_sees_a_patient(
    role: str, drafted: Report, client_of: Callable[[Any], Client], patient: Patient
) -> None:
    stranger = User.objects.create_user(username=f"stranger-{role}", role=role)
    client = client_of(stranger)
    for name, address in addresses(drafted).items():
        before = AuditRow.objects.filter(outcome__gt=0).count()
        assert client.get(address).status_code == 404, name
        assert AuditRow.objects.filter(outcome__gt=0).count() > before, f"the refusal of {name} is not recorded"
    assert client.get("/api/studies/").json() == {"studies": [], "next": None}


def test_a_visitor_is_asked_to_sign_in(drafted: Report, client_of: Callable[[Any], Client]) -> None:
    client = client_of(None)
    for name, address in addresses(drafted).items():
        answer = client.get(address)
        assert answer.status_code in {302, 401, 403}, name
        if answer.status_code == 302:
            assert answer["Location"].startswith("/login/"), name


def test_the_care_team_sees_everything_and_it_is_recorded(
    drafted: Report, client_of: Callable[[Any], Client], radiologist: User
) -> None:
    client = client_of(radiologist)
    for name, address in addresses(drafted).items():
        before = AuditRow.objects.count()
        answer = client.get(address)
        assert answer.status_code == 200, name
        assert answer["Cache-Control"].startswith(("no-store", "private")), name
        assert AuditRow.objects.count() > before, name
    assert "Łukasiewicz" in client.get("/").text


def test_the_segmentation_is_the_stored_one(
    drafted: Report, client_of: Callable[[Any], Client], radiologist: User
) -> None:
    answer = client_of(radiologist).get(addresses(drafted)["rest segmentation"])
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    assert set(np.unique(np.asarray(image.dataobj))) == {0, 1, 2, 3}


def test_signing_on_the_page(drafted: Report, client_of: Callable[[Any], Client], radiologist: User) -> None:
    client = client_of(radiologist)
    page = client.get(f"/reports/{drafted.pk}/").text
    version = page.split('name="version" value="', 1)[1].split('"', 1)[0]
    refused = client.post(f"/reports/{drafted.pk}/sign", {"version": version, "password": "wrong"}, follow=True)
    assert "does not open your signing key" in refused.text
    drafted.refresh_from_db()
    assert drafted.state == "preliminary"
    signed = client.post(f"/reports/{drafted.pk}/sign", {"version": version, "password": PASSWORD}, follow=True)
    assert "signed and on its way" in signed.text
    drafted.refresh_from_db()
    assert drafted.state == "final"
    assert 'name="password"' not in signed.text


@pytest.mark.parametrize("bad", ["nonsense", "00000000-0000-0000-0000-000000000000", ""])
def test_signing_what_does_not_exist(
    bad: str, drafted: Report, client_of: Callable[[Any], Client], radiologist: User
) -> None:
    answer = client_of(radiologist).post(f"/reports/{drafted.pk}/sign", {"version": bad, "password": PASSWORD})
    assert answer.status_code == 404


def test_errors_of_rest_are_problem_details(
    drafted: Report, client_of: Callable[[Any], Client], radiologist: User
) -> None:
    client = client_of(radiologist)
    answer = client.get("/api/studies/?patient=nonsense")
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 400
    study = drafted.study_id
    assert client.get(f"/api/studies/{study}/slices/axial/9999.png").status_code == 404
    assert client.get(f"/api/studies/{study}/slices/sideways/1.png").status_code == 404
    assert client.get(f"/api/studies/{study}/slices/axial/1.png?overlay=x").status_code == 400


def test_only_an_administrator_sees_the_system(client_of: Callable[[Any], Client], db: None) -> None:
    for role in Role.values:
        user = User.objects.create_user(username=f"one-{role}", role=role)
        assert client_of(user).get("/system/").status_code == (200 if role == Role.ADMIN else 403), role


def test_pages_carry_no_script_from_elsewhere(
    drafted: Report, client_of: Callable[[Any], Client], radiologist: User
) -> None:
    answer = client_of(radiologist).get(f"/studies/{drafted.study_id}/")
    assert "script-src 'self'" in answer["Content-Security-Policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_health(client_of: Callable[[Any], Client], db: None) -> None:
    client = client_of(None)
    assert client.get("/health/live").json() == {"status": "ok"}
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"]["ok"] is True


def test_a_study_says_how_it_was_deidentified(
    drafted: Report, client_of: Callable[[Any], Client], radiologist: User
) -> None:
    page = f"/studies/{drafted.study_id}/"
    assert "What was done to which attribute" not in client_of(radiologist).get(page).text
    DeidentificationReport.objects.create(
        study=drafted.study,
        profile="PS3.15 Basic Profile",
        edition="PS3.15 2026d",
        codes=["113100", "113107"],
        instances=2,
        attributes=[["00100010", "PN", "D", 2], ["00080020", "DA", "S", 2]],
        pixels={"pass": 2},
    )
    told = client_of(radiologist).get(page).text
    for words in ("PatientName", "replaced by a dummy", "date shifted", "Modified Dates Option", "the volumes end at"):
        assert words in told, words
    series = Series.objects.create(study=drafted.study, uid_index="7", deidentified_uid="2.25.7", number=7)
    FaceRemoval.objects.create(series=series, removed=False, reason="it has no place in the head")
    assert "not offered to viewers: it has no place in the head" in client_of(radiologist).get(page).text
