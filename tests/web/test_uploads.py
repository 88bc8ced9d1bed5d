"""Bringing in images over REST: by parts, resumed, declared; who may; what is hostile; what is left behind."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from audit.models import AuditRow
from clinical.access import assign
from clinical.identity import Identifier, IdentityData
from clinical.models import User
from clinical.services import register_patient
from fhir_api.access.tokens import create_token
from imaging.intake import upload_job
from imaging.models import Instance, Series, Study, Upload, UploadFile, UploadPart
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import reap, run_pending
from oncoflow_site.foundation.models import Job, StoredObject
from tests.factories.dicom_files import as_file, dataset, study_files
from tests.web.uploading import STREAM, Sender, archive, nifti, sha

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the upload's own job runs: what follows from a complete study is tested elsewhere."""
    from imaging.archive import completion

    monkeypatch.setattr(completion, "emit", lambda *a, **k: None)


@pytest.fixture
def technician(db: None) -> User:
    return User.objects.create_user(username="tech", role="technician")


@pytest.fixture
def sender(technician: User, client_of: Callable[[Any], Client]) -> Sender:
    return Sender(client_of(technician))


def left_behind() -> int:
    return StoredObject.objects.filter(kind="upload-part").count() + UploadPart.objects.count()


def test_files_come_by_parts_and_are_filed(sender: Sender, technician: User) -> None:
    files = study_files(slices=2)
    upload = sender.begin()["id"]
    for number, data in enumerate(files):
        sender.send(upload, f"Quastenflosser {number}.dcm", data, sha256=sha(data))
    sender.send(upload, "Thumbs.db", b"not an image")
    state = sender.state(upload)
    assert [one["offset"] == one["size"] for one in state["files"]] == [True] * 9
    assert b"Quastenflosser" not in bytes(UploadFile.objects.first().ciphertext)  # type: ignore[union-attr]
    assert left_behind() > 0
    answer = sender.complete(upload)
    assert (answer.status_code, answer.json()["state"]) == (202, "staged")
    assert run_pending("default") == 1
    state = sender.state(upload)
    assert state["state"] == "done"
    assert state["counts"] == {"stored": 8, "duplicate": 0, "quarantined": 0, "refused": 0, "ignored": 1}
    study = Study.objects.get()
    assert (study.source, study.state, state["studies"], state["studies_of_other_patients"]) == (
        "upload", "complete", [], 1,
    )  # fmt: skip
    assign(technician, study.patient, reason="test", by=None)
    assert sender.state(upload)["studies"] == [str(study.pk)]
    assert left_behind() == 0
    assert bytes(Upload.objects.get().declaration) == b""
    assert {row.event for row in AuditRow.objects.filter(resource=f"upload:{upload}")} == {
        "upload.create", "upload.view", "upload.complete", "upload.file",
    }  # fmt: skip


def test_the_same_again_does_nothing(sender: Sender) -> None:
    for expected in ({"stored": 8, "duplicate": 0}, {"stored": 0, "duplicate": 8}):
        upload = sender.begin()["id"]
        sender.send(upload, "study.zip", archive())
        assert sender.complete(upload).status_code == 202
        assert sender.complete(upload).status_code == 202  # twice
        run_pending("default")
        assert sender.complete(upload).json()["state"] == "done"
        counts = sender.state(upload)["counts"]
        assert {name: counts[name] for name in expected} == expected
    assert Instance.objects.count() == 8
    assert Job.objects.filter(kind="imaging.ingest_upload").count() == 2
    assert not list(Path("/tmp").glob("oncoflow-climbs-*"))


def test_a_broken_upload_goes_on_where_it_was(sender: Sender) -> None:
    data = archive()
    upload = sender.begin()["id"]
    place = sender.announce(upload, len(data), filename="a.zip", fingerprint="f1").headers["Location"]
    sender.patch(place, 0, data[:1000])
    # After a reload: the same file is announced again and is the one that is there.
    again = sender.announce(upload, len(data), filename="a.zip", fingerprint="f1")
    assert (again.headers["Location"], again.headers["Upload-Offset"]) == (place, "1000")
    head = sender.client.head(place)
    assert (head.status_code, head.headers["Upload-Offset"], head.headers["Upload-Length"]) == (
        200, "1000", str(len(data)),
    )  # fmt: skip
    assert head.headers["Cache-Control"] == "no-store"
    for wrong in (0, 999, 1001):
        assert sender.patch(place, wrong, b"x").status_code == 409
    assert sender.complete(upload).status_code == 409
    assert sender.patch(place, 1000, data[1000:]).status_code == 204
    assert sender.complete(upload).status_code == 202


def test_creation_with_the_first_bytes(sender: Sender) -> None:
    data = study_files(slices=1)[0]
    upload = sender.begin()["id"]
    answer = sender.announce(upload, len(data), body=data, filename="a.dcm")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, str(len(data)))
    assert "GMT" in answer.headers["Upload-Expires"]
    sender.complete(upload)
    run_pending("default")
    assert sender.state(upload)["counts"]["stored"] == 1


def test_nifti_needs_a_declaration_and_may_get_it_later(sender: Sender, technician: User, tmp_path: Path) -> None:
    patient = register_patient(IdentityData(family="Wels", identifiers=(Identifier("DEMOHOSP", "77"),)), source="web")
    upload = sender.begin()["id"]
    sender.send(upload, "odd.nii.gz", nifti(tmp_path))
    sender.send(upload, "case_t2.nii.gz", nifti(tmp_path, value=2.0))
    sender.complete(upload)
    run_pending("default")
    state = sender.state(upload)
    assert (state["state"], state["code"], len(state["files"])) == ("failed", "undeclared", 2)
    declared = {"patient": str(patient.pk), "date": "2026-03-11", "sequences": {"T1": "odd.nii.gz"}}
    assert sender.complete(upload, **declared).status_code == 422  # not a patient of theirs
    assign(technician, patient, reason="test", by=None)
    assert sender.complete(upload, **declared, spacing_known=False).status_code == 202
    run_pending("default")
    state = sender.state(upload)
    assert (state["state"], state["counts"]["stored"]) == ("done", 2)
    study = Study.objects.get()
    assert (study.patient, study.spacing_known, [str(study.pk)]) == (patient, False, state["studies"])
    assert dict(Series.objects.values_list("sequence", "sequence_confidence")) == {"T1": 1.0, "T2": 0.6}
    assert left_behind() == 0


def test_a_declared_number_stands_above_the_header(sender: Sender) -> None:
    upload = sender.begin(mrn="MRN-99", family="Wels", date="2026-03-11")["id"]
    assert b"MRN-99" not in bytes(Upload.objects.get().declaration)
    sender.send(upload, "a.dcm", as_file(dataset(PatientID="")))
    sender.complete(upload)
    run_pending("default")
    from clinical.services import find_patient

    assert Study.objects.get().patient == find_patient("DEMOHOSP", "MRN-99")


def test_who_may(client_of: Callable[[Any], Client], sender: Sender) -> None:
    upload = sender.begin()["id"]
    place = sender.announce(upload, 10, filename="a").headers["Location"]
    assert Client().post("/api/uploads/").status_code == 401
    clinician = Sender(client_of(User.objects.create_user(username="c", role="clinician")))
    assert clinician.post("/api/uploads/", {}).status_code == 403
    assert AuditRow.objects.filter(event="upload.create", outcome=4).count() == 1
    other = Sender(client_of(User.objects.create_user(username="r", role="radiologist")))
    for answer in (
        other.client.get(f"/api/uploads/{upload}/"),
        other.client.delete(f"/api/uploads/{upload}/"),
        other.complete(upload),
        other.announce(upload, 10),
        other.patch(place, 0, b"x"),
        other.client.head(place),
        other.post("/api/uploads/presign", {"size": 10, "upload": upload}),
        other.client.get(f"/api/uploads/{uuid.uuid4()}/"),
        sender.client.head(f"/api/uploads/{upload}/files/{uuid.uuid4()}"),
    ):
        assert answer.status_code == 404
    mine = other.begin()["id"]
    file = place.rsplit("/", 1)[1]
    assert other.patch(f"/api/uploads/{mine}/files/{file}", 0, b"x").status_code == 404
    assert other.client.get("/api/uploads/").json()[0]["id"] == mine
    job = Job.objects.create(kind="imaging.ingest_upload", subject=f"upload:{upload}", idempotency_key="k")
    assert sender.client.get(f"/api/jobs/{job.pk}").status_code == 200
    assert other.client.get(f"/api/jobs/{job.pk}").status_code == 404


def test_a_token_needs_the_scope(db: None) -> None:
    robot = User.objects.create_user(username="gateway", role="integration")
    for scopes, status in ((["system/*.rs"], 403), (["system/ImagingStudy.c"], 201)):
        _, token = create_token(robot, f"t{status}", scopes=scopes)
        answer = Client().post("/api/uploads/", {}, "application/json", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status


def test_limits(sender: Sender, settings: Any) -> None:
    upload = sender.begin()["id"]
    settings.ONCOFLOW_UPLOAD_MAX_BYTES = 100
    settings.ONCOFLOW_UPLOAD_QUOTA_BYTES = 150
    settings.ONCOFLOW_UPLOAD_MAX_FILES = 2
    assert sender.announce(upload, 4 << 30).status_code == 413
    assert sender.announce(upload, 0).status_code == 400
    place = sender.announce(upload, 90).headers["Location"]
    assert sender.announce(upload, 90).status_code == 413  # the quota
    assert sender.announce(sender.begin()["id"], 90).status_code == 413  # over all uploads together
    assert sender.announce(upload, 20).status_code == 201
    assert sender.announce(upload, 20).status_code == 413  # the number of files
    assert sender.patch(place, 0, b"x" * 91).status_code == 413
    assert sender.patch(place, 0, b"x" * 80).status_code == 204
    assert sender.patch(place, 80, b"x" * 11).status_code == 413
    assert sender.client.head(place).headers["Upload-Offset"] == "80"
    assert sender.client.delete(place).status_code == 204
    assert sender.announce(upload, 90).status_code == 201
    settings.ONCOFLOW_MIN_FREE_BYTES = 1 << 60
    answer = sender.announce(upload, 5)
    assert (answer.status_code, answer.headers["Content-Type"]) == (507, "application/problem+json")


def test_what_is_no_tus(sender: Sender) -> None:
    upload = sender.begin()["id"]
    place = sender.announce(upload, 10).headers["Location"]
    options = sender.client.options("/api/uploads/")
    assert (options.status_code, options.headers["Tus-Version"]) == (204, "1.0.0")
    assert "creation" in options.headers["Tus-Extension"]
    old = sender.client.patch(place, b"x", STREAM, headers={"Tus-Resumable": "0.2.0", "Upload-Offset": "0"})
    assert (old.status_code, old.headers["Tus-Version"]) == (412, "1.0.0")
    assert sender.client.patch(place, b"x", "text/plain", headers={"Upload-Offset": "0"}).status_code == 415
    for offset in ("", "-1", "1e3", "٣", "9" * 30):
        answer = sender.client.patch(place, b"x", STREAM, headers={"Upload-Offset": offset})
        assert answer.status_code == 400, offset
    bad = sender.client.post(
        f"/api/uploads/{upload}/files/", b"", "application/json",
        headers={"Upload-Length": "5", "Upload-Metadata": "filename !!!"},
    )  # fmt: skip
    assert bad.status_code == 400
    assert sender.announce(upload, 5, sha256="zz").status_code == 400
    for declaration in ({"sequences": {"T9": "a"}}, {"date": "yesterday"}, {"patient": str(uuid.uuid4())},
                        {"patient": str(uuid.uuid4()), "mrn": "1"}):  # fmt: skip
        assert sender.post("/api/uploads/", declaration).status_code in (400, 422), declaration


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(2):
            packed.writestr(f"{number}.dcm", as_file(dataset(number=number + 1)) + b"\0" * (40 << 20))
    return out.getvalue()


def encrypted() -> bytes:
    data = bytearray(archive())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(mark)
        while start >= 0:
            data[start + place] |= 1
            start = data.find(mark, start + 1)
    return bytes(data)


def claims_4_gb() -> bytes:
    """A member whose headers say 4 GiB less one byte, and is small."""
    data = bytearray(archive())
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.find(mark)
        data[start + place : start + place + 4] = b"\xfe\xff\xff\xff"
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("a.zip", bomb, "zip-bomb"),
        ("a.zip", encrypted, "bad-zip"),
        ("a.zip", lambda: archive()[:-300], "bad-zip"),
        ("a.zip", lambda: archive()[:500] + b"\0" * 400 + archive()[900:], "bad-zip"),
        ("a_t1.nii.gz", lambda: b"\x1f\x8b\x08\x00" + b"\0" * 50, "bad-nifti"),
    ],
    ids=["bomb", "encrypted", "cut", "overwritten", "cut gzip"],
)
def test_hostile_files_fail_with_a_sentence(sender: Sender, name: str, make: Callable[[], bytes], code: str) -> None:
    upload = sender.begin(mrn="1", date="2026-01-02")["id"]
    sender.send(upload, f"Quastenflosser {name}", make())
    sender.complete(upload)
    run_pending("default")
    state = sender.state(upload)
    assert (state["state"], state["code"]) == ("failed", code)
    assert "Quastenflosser" in state["notes"][0]
    assert "Quastenflosser" not in str(list(Job.objects.values()))
    assert sender.client.delete(f"/api/uploads/{upload}/").status_code == 204
    assert left_behind() == 0


def test_lies_and_nests_disturb_nothing_else(sender: Sender) -> None:
    nested = archive(extra={"inner.zip": archive(study="1.2.3.77"), "/etc/passwd": b"x", "..\\..\\x": b"y"})
    upload = sender.begin()["id"]
    sender.send(upload, "claims.zip", claims_4_gb())
    sender.complete(upload)
    run_pending("default")
    assert sender.state(upload)["state"] in {"done", "failed"}
    upload = sender.begin()["id"]
    sender.send(upload, "nested.zip", nested)
    sender.complete(upload)
    run_pending("default")
    state = sender.state(upload)
    assert state["counts"]["ignored"] == 3
    assert any("an archive inside an archive is not opened" in note for note in state["notes"])
    assert Study.objects.count() == 1
    assert Instance.objects.count() == 8


def test_another_sha256_than_declared(sender: Sender) -> None:
    upload = sender.begin()["id"]
    sender.send(upload, "a.zip", archive(), sha256=sha(b"other"))
    sender.complete(upload)
    run_pending("default")
    assert sender.state(upload)["code"] == "sha256"
    assert not Study.objects.exists()


def test_what_is_completed_takes_nothing_more(sender: Sender) -> None:
    upload = sender.begin()["id"]
    assert sender.complete(upload).status_code == 409  # without a file
    place = sender.send(upload, "a.dcm", study_files(slices=1)[0])
    sender.complete(upload)
    assert sender.patch(place, 0, b"x").status_code == 409
    assert sender.announce(upload, 5).status_code == 409
    assert sender.client.delete(f"/api/uploads/{upload}/").status_code == 409
    assert sender.client.delete(place).status_code == 409


def test_what_is_not_completed_in_time_is_gone(sender: Sender) -> None:
    upload = sender.begin()["id"]
    place = sender.send(upload, "a.dcm", study_files(slices=1)[0])
    assert upload_job.expire_due() == 0
    Upload.objects.update(expires_at=now() - timedelta(seconds=1))
    assert sender.patch(place, 0, b"x").status_code == 410
    assert sender.complete(upload).status_code == 410
    assert upload_job.expire_due() == 1
    assert sender.state(upload)["state"] == "expired"
    assert sender.complete(upload).status_code == 410
    assert left_behind() == 0


def test_parts_that_no_row_names_are_swept(sender: Sender) -> None:
    from oncoflow_site.foundation import objects

    upload = sender.begin()["id"]
    sender.send(upload, "a.dcm", study_files(slices=1)[0])
    objects.put(b"lost", subject=f"upload:{upload}", kind="upload-part")
    StoredObject.objects.update(created_at=now() - timedelta(hours=25))
    assert upload_job.expire_due() == 1
    assert sender.complete(upload).status_code == 202


def test_an_attempt_that_was_killed_counts_what_it_stored(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    from imaging.archive import store_instance

    upload = sender.begin()["id"]
    sender.send(upload, "a.zip", archive())
    sender.send(upload, "b.zip", archive())  # the same files twice
    sender.complete(upload)
    original, calls = store_instance.store_instance, []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise ConnectionError("the machine went away")
        return original(*args, **kwargs)

    monkeypatch.setattr("imaging.intake.file_import.store_instance", dies)
    run_pending("default")
    assert Instance.objects.count() == 5
    assert sender.state(upload)["state"] == "ingesting"
    Job.objects.update(run_after=now())
    run_pending("default")
    state = sender.state(upload)
    assert (state["state"], state["counts"]["stored"], state["counts"]["duplicate"]) == ("done", 8, 8)


def test_a_job_that_died_leaves_no_upload_hanging(sender: Sender) -> None:
    upload = sender.begin()["id"]
    sender.send(upload, "a.dcm", study_files(slices=1)[0])
    sender.complete(upload)
    Job.objects.update(state="running", attempts=9, lease_until=now() - timedelta(seconds=1))
    reap()
    assert Job.objects.get(kind="imaging.ingest_upload").state == "dead"
    state = sender.state(upload)
    assert (state["state"], state["code"]) == ("failed", "internal")
    assert sender.complete(upload).status_code == 202
    run_pending("default")
    assert sender.state(upload)["state"] == "done"


def test_every_move_of_the_machine() -> None:
    from imaging.states import UPLOAD_MACHINE
    from oncoflow_site.foundation.errors import IllegalMove

    for state, event in UPLOAD_MACHINE.pairs():
        if (state, event) not in UPLOAD_MACHINE.table:
            with pytest.raises(IllegalMove):
                UPLOAD_MACHINE.next(state, event)
    assert {state for state, _ in UPLOAD_MACHINE.table} == {"received", "staged", "ingesting", "failed"}


def test_the_schema_names_it_all(sender: Sender) -> None:
    schema = sender.client.get("/api/schema/?format=json").json()
    paths = {
        path: sorted(set(one) & {"get", "post", "put", "patch", "delete"}) for path, one in schema["paths"].items()
    }
    assert paths["/api/uploads/"] == ["get", "post"]
    assert paths["/api/uploads/presign"] == ["post"]
    assert paths["/api/uploads/put/{token}"] == ["put"]
    assert paths["/api/uploads/{upload_id}/"] == ["delete", "get"]
    assert paths["/api/uploads/{upload_id}/complete"] == ["post"]
    assert paths["/api/uploads/{upload_id}/files/"] == ["post"]
    assert paths["/api/uploads/{upload_id}/files/{file_id}"] == ["delete", "patch"]
    patch = schema["paths"]["/api/uploads/{upload_id}/files/{file_id}"]["patch"]
    assert list(patch["requestBody"]["content"]) == [STREAM]
    assert {"bearer": []} in patch["security"]
    assert "security" not in schema["paths"]["/api/uploads/put/{token}"]["put"]
