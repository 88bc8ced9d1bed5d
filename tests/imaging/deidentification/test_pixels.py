"""Text in pixels: the table, what Tesseract sees, and the way through quarantine and out of it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from django.core.exceptions import PermissionDenied
from pydicom import dcmread

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import User
from imaging.archive.pixel_release import picture, release
from imaging.archive.store_instance import store_instance
from imaging.deidentification import burned_in_text, pixel_inspection
from imaging.deidentification.deidentify_study import deidentify_study
from imaging.deidentification.pixel_policy import PixelAction, decide, quarantine_reason
from imaging.models import DeidentificationReport, Instance, InstanceState, Study
from imaging.states import StudyState
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError
from tests.factories.deidentification_files import head, written
from tests.factories.dicom_files import MR_CLASS, as_file, dataset
from tests.factories.job_contexts import context

SC = "1.2.840.10008.5.1.4.1.1.7"
DERIVED = ["DERIVED", "SECONDARY", "MPR"]


def instance_with(pixels: np.ndarray, **changes) -> bytes:
    one = dataset(size=pixels.shape[0], **changes)
    one.PixelData = (pixels * 4000).astype(np.uint16).tobytes()
    return as_file(one)


@pytest.mark.parametrize(
    ("sop_class", "image_type", "burned_in", "verdict"),
    [
        (MR_CLASS, ["ORIGINAL", "PRIMARY"], "", PixelAction.PASS),
        (MR_CLASS, ["ORIGINAL", "PRIMARY"], "NO", PixelAction.PASS),
        (MR_CLASS, ["ORIGINAL", "PRIMARY"], "YES", PixelAction.QUARANTINE),
        (MR_CLASS, ["DERIVED", "PRIMARY", "ADC"], "", PixelAction.PASS),
        (MR_CLASS, DERIVED, "", PixelAction.OCR),
        (MR_CLASS, DERIVED, "NO", PixelAction.PASS),
        (MR_CLASS, ["ORIGINAL", "PRIMARY", "SCREEN SAVE"], "NO", PixelAction.OCR),
        (SC, ["DERIVED", "SECONDARY"], "NO", PixelAction.OCR),
        (f"{SC}.4", [], "", PixelAction.OCR),
        ("1.2.840.10008.5.1.4.1.1.66.4", ["DERIVED", "PRIMARY"], "", PixelAction.PASS),
        ("1.2.840.10008.5.1.4.1.1.66.5", [], "", PixelAction.QUARANTINE),
        ("1.2.840.10008.5.1.4.1.1.104.1", [], "", PixelAction.QUARANTINE),
        ("1.2.840.10008.5.1.4.1.1.4.2", [], "", PixelAction.QUARANTINE),
        ("1.2.3.4", [], "", PixelAction.QUARANTINE),
    ],
)
def test_the_table(sop_class, image_type, burned_in, verdict):
    assert decide(sop_class, image_type, burned_in).verdict == verdict
    at_the_door = bool(quarantine_reason(sop_class, image_type, burned_in))
    assert at_the_door == (verdict == PixelAction.QUARANTINE)


@pytest.mark.parametrize(
    "image",
    [
        written("MUELLER HANS"),
        written("12.03.1961", at=(60, 90)),
        written("Quastenflosser", ink=0.0, at=(40, 90)),
        written("ID 4711998", turns=1),
        written("Wachtel Ottokar", turns=2),
        written("DOB 19610423", turns=3, ink=0.75),
    ],
    ids=["name", "date on tissue", "dark on tissue", "quarter turn", "upside down", "three quarters, grey"],
)
def test_text_is_seen(tesseract, image):
    assert burned_in_text.look_for_text(image).why == "text"


def test_a_picture_without_text_is_clean(tesseract):
    assert burned_in_text.look_for_text(head()).clean
    assert burned_in_text.look_for_text(np.zeros((64, 64))).clean


def test_what_takes_too_long_or_is_no_picture_is_not_clean():
    assert burned_in_text.look_for_text(head(), seconds=0.05).why == "time"
    assert burned_in_text.look_for_text(np.full((8, 8), np.nan)).why == "unreadable"


def test_every_frame_is_read_and_equal_frames_once(monkeypatch):
    frames = [np.zeros((4, 4)), np.ones((4, 4)), np.zeros((4, 4)), np.full((4, 4), 2.0)]
    seen = []

    def look_at(frame):
        seen.append(float(frame[0, 0]))
        return burned_in_text.TextInspection(frame[0, 0] < 2, "text")

    monkeypatch.setattr(pixel_inspection, "frames_of", lambda data: iter(frames))
    monkeypatch.setattr(pixel_inspection.burned_in_text, "look_for_text", look_at)
    monkeypatch.setattr(pixel_inspection.burned_in_text, "available", lambda: True)
    assert "text was seen" in pixel_inspection.apart_because(b"", decide(SC, [], ""), lambda: None)
    assert seen == [0.0, 1.0, 2.0]


@pytest.fixture
def radiologist(db) -> User:
    return User.objects.create_user(username="reader", role="radiologist")


def taken(data: bytes) -> tuple[Study, Instance]:
    stored = store_instance(data, source="dicom", peer="X")
    assert (stored.status, stored.quarantined) == (0, False)
    study = Study.objects.get(pk=stored.study_id)
    return study, Instance.objects.get()


@pytest.mark.django_db
def test_a_clean_picture_passes_and_says_that_somebody_looked(tesseract):
    study, instance = taken(instance_with(head(), ImageType=DERIVED))
    assert deidentify_study(context(study), study) == {"deidentified": 1, "quarantined": 0}
    instance.refresh_from_db()
    out = dcmread(BytesIO(objects.get(instance.deidentified)))
    assert out.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in out.DeidentificationMethodCodeSequence]
    report = DeidentificationReport.objects.get()
    assert (report.instances, report.pixels) == (1, {"ocr": 1})
    assert ["00100010", "PN", "D", 1] in report.attributes


@pytest.mark.django_db
def test_a_name_in_the_pixels_is_kept_apart_until_a_person_releases_it(tesseract, radiologist):
    study, instance = taken(instance_with(written("MUELLER HANS"), SOPClassUID=SC, ImageType=["DERIVED", "SECONDARY"]))
    assert deidentify_study(context(study), study) == {"deidentified": 0, "quarantined": 1}
    instance.refresh_from_db()
    assert instance.state == InstanceState.QUARANTINED
    assert "text was seen in its pixels" in instance.reason
    assert "MUELLER" not in instance.reason
    assert DeidentificationReport.objects.get().pixels == {"quarantine": 1}

    with pytest.raises(PermissionDenied):
        release(instance, by=radiologist, reason="I looked")
    assert AuditRow.objects.filter(event="pixels.release", outcome__gt=0).count() == 1
    assign(radiologist, study.patient, reason="reading", by=None)
    assert picture(instance, by=radiologist).startswith(b"\x89PNG")
    with pytest.raises(UserVisibleError):
        release(instance, by=radiologist, reason="  ")
    release(instance, by=radiologist, reason="only a scale bar")
    study.refresh_from_db()
    assert (instance.state, study.state) == (InstanceState.RECEIVED, StudyState.RECEIVING)
    assert deidentify_study(context(study), study) == {"deidentified": 1, "quarantined": 0}
    instance.refresh_from_db()
    assert dcmread(BytesIO(objects.get(instance.deidentified))).BurnedInAnnotation == "NO"
    events = set(AuditRow.objects.values_list("event", flat=True))
    assert {"pixels.look", "pixels.release", "instance.quarantine"} <= events
    assert DeidentificationReport.objects.get().pixels == {"quarantine": 1, "released": 1}


@pytest.mark.django_db
def test_without_tesseract_a_doubtful_picture_stays_apart(monkeypatch):
    monkeypatch.setattr(pixel_inspection.burned_in_text, "available", lambda: False)
    study, instance = taken(instance_with(head(), SOPClassUID=SC))
    deidentify_study(context(study), study)
    instance.refresh_from_db()
    assert instance.state == InstanceState.QUARANTINED
    assert "Tesseract is not installed" in instance.reason


@pytest.mark.django_db
def test_what_no_look_can_clear_is_not_released(radiologist):
    stored = store_instance(as_file(dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")), source="dicom", peer="X")
    instance = Instance.objects.get()
    assign(radiologist, Study.objects.get(pk=stored.study_id).patient, reason="reading", by=None)
    with pytest.raises(UserVisibleError):
        release(instance, by=radiologist, reason="I looked")
    technician = User.objects.create_user(username="clinician", role="clinician")
    with pytest.raises(PermissionDenied):
        release(instance, by=technician, reason="I looked")


@pytest.mark.django_db
def test_the_report_is_read_by_officers_and_by_those_who_may_see_the_patient(client, radiologist):
    study, _ = taken(as_file(dataset()))
    deidentify_study(context(study), study)
    address = f"/api/studies/{study.pk}/deidentification"
    client.force_login(radiologist)
    assert client.get(address).status_code == 404
    client.force_login(User.objects.create_user(username="officer", role="compliance_officer"))
    body = client.get(address).json()
    (report,) = body["reports"]
    assert report["table"] == "PS3.15 2026d"
    rows = {row["keyword"]: row for row in report["attributes"]}
    assert rows["PatientName"]["action"] == "replaced by a dummy"
    assert rows["StudyDate"]["action"] == "date shifted"
    assert b"uastenflosser" not in client.get(address).content
    assert AuditRow.objects.filter(event="deidentification.read", outcome=0).count() == 2
