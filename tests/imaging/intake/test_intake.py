"""A watched folder or bucket: what is complete is filed once and goes out of the way; on local files, S3 and Azure."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from imaging.intake import watched_files_job
from imaging.intake.folder_watcher import Watcher
from imaging.intake.s3_notifications import S3Events, created_keys
from imaging.models import Instance, IntakeFile, Series, Study, StudySource
from oncoflow_site.foundation import stores
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Job
from tests.factories.dicom_files import as_file, dataset, study_files
from tests.peers import buckets

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[3]


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Place:
    """A watched store, and somebody who drops files into it."""

    def __init__(self, store: stores.Store) -> None:
        self.store, self.clock = store, Clock()
        self.watcher = Watcher(store, self.clock)

    def drop(self, name: str, data: bytes) -> None:
        self.store.write(name, data)

    def look(self) -> int:
        """Two looks with more than the quiet time between, and the jobs; returns how many files were taken up."""
        found = self.watcher.round()
        self.clock.seconds += 60
        found += self.watcher.round()
        run_pending("default")
        return found

    def names(self) -> list[str]:
        return sorted(one.name for one in self.store.entries())


@pytest.fixture(params=["local", "s3", "azure"])
def place(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    from imaging.archive import completion

    monkeypatch.setattr(completion, "arm", lambda *a, **k: None)  # the quiet period is tested elsewhere
    monkeypatch.setattr(completion, "emit", lambda *a, **k: None)
    buckets.configure(settings, intake=buckets.storage_options(request, request.param, "drop"))
    return Place(stores.store("intake"))


def nifti(tmp_path: Path, value: float) -> bytes:
    path = tmp_path / f"{value}.nii.gz"
    nib.Nifti1Image(np.full((5, 6, 7), value, np.float32), np.eye(4)).to_filename(path)
    return path.read_bytes()


def test_what_lands_is_filed_once_and_goes(place: Place) -> None:
    files = study_files(slices=2)
    for number, data in enumerate(files):
        place.drop(f"scanner 1/Quastenflosser/{number}.dcm", data)
    place.drop("scanner 1/still.dcm.part", files[0])
    place.drop("scanner 1/.hidden", files[0])
    assert place.look() == 8
    assert place.names() == ["scanner 1/.hidden", "scanner 1/still.dcm.part"]
    study = Study.objects.get()
    assert (study.source, study.state, Instance.objects.count()) == (StudySource.WATCHED, "receiving", 8)
    row = IntakeFile.objects.first()
    assert row is not None
    assert row.name.startswith("scanner 1/Quastenflosser/")
    assert b"Quasten" not in bytes(row.ciphertext)
    assert "Quasten" not in str(list(Job.objects.values()))
    assert place.look() == 0
    # The same file under the same name once more: a new version, already known.
    place.drop("scanner 1/Quastenflosser/0.dcm", files[0])
    place.look()  # (S3 calls the same bytes the same version: there it is only cleared away)
    assert Instance.objects.count() == 8
    assert len(place.names()) == 2


def test_what_cannot_be_filed_lies_apart_with_a_reason_that_names_nobody(place: Place, settings: Any) -> None:
    settings.ONCOFLOW_INTAKE_AFTER = "done"
    place.drop("a/Quastenflosser.dcm", as_file(dataset())[:-50])
    place.drop("a/Quastenflosser.zip", b"PK\x03\x04 not a zip")
    place.drop("a/letter.txt", b"no image")
    place.drop("a/good.dcm", study_files(slices=1)[0])
    assert place.look() == 4
    assert place.names() == [
        "done/a/good.dcm",
        *(f"refused/a/{name}" for name in ("Quastenflosser.dcm", "Quastenflosser.dcm.txt")),
        *(f"refused/a/{name}" for name in ("Quastenflosser.zip", "Quastenflosser.zip.txt")),
        *(f"refused/a/{name}" for name in ("letter.txt", "letter.txt.txt")),
    ]
    reasons = [place.store.read(name, 0, 999).decode() for name in place.names() if name.endswith(".txt.txt")]
    assert reasons == ["it holds no image\n"]
    told = " ".join(IntakeFile.objects.values_list("reason", flat=True))
    assert "cut short" in told
    assert "not a readable zip" in told
    assert "Quasten" not in told
    assert place.look() == 0


def test_nifti_waits_for_its_declaration_and_all_its_files(place: Place, tmp_path: Path, settings: Any) -> None:
    place.drop("research/p1/odd.nii.gz", nifti(tmp_path, 1.0))
    assert place.look() == 0
    declaration = {"mrn": "MRN-12", "date": "2026-03-11", "sequences": {"T1": "odd.nii.gz", "FLAIR": "other.nii.gz"}}
    place.drop("research/p1/oncoflow.json", json.dumps(declaration).encode())
    assert place.look() == 0
    place.drop("research/p1/other.nii.gz", nifti(tmp_path, 2.0))
    assert place.look() == 3
    assert place.names() == []
    assert dict(Series.objects.values_list("sequence", "sequence_confidence")) == {"T1": 1.0, "FLAIR": 1.0}
    # A declaration of the folder above that names no files stays for all that come.
    place.drop("research/p2/oncoflow.json", json.dumps({"mrn": "MRN-13", "date": "2026-03-12"}).encode())
    place.drop("research/p2/visit/case_t2.nii.gz", nifti(tmp_path, 3.0))
    assert place.look() == 1
    assert place.names() == ["research/p2/oncoflow.json"]
    assert Study.objects.count() == 2
    # Never declared: after the wait it is refused, with the reason.
    place.drop("research/p3/case_t1.nii.gz", nifti(tmp_path, 4.0))
    assert place.look() == 0
    settings.ONCOFLOW_INTAKE_WAIT_SECONDS = -1
    assert place.look() == 1
    assert "refused/research/p3/case_t1.nii.gz.txt" in place.names()


def test_a_version_that_was_replaced_is_taken_again(place: Place) -> None:
    one, two = study_files(slices=2, sequences=("T1",))
    place.drop("a.dcm", one)
    taken = place.watcher.round()
    place.clock.seconds += 60
    assert taken + place.watcher.round() == 1
    place.drop("a.dcm", two)  # before its job ran
    run_pending("default")
    assert Instance.objects.count() == 0
    assert place.names() == ["a.dcm"]
    assert place.look() == 1
    assert Instance.objects.count() == 1
    assert sorted(IntakeFile.objects.values_list("state", flat=True)) == ["done", "gone"]


def test_what_was_refused_is_looked_at_again_when_it_is_put_back(place: Place, tmp_path: Path, settings: Any) -> None:
    settings.ONCOFLOW_INTAKE_WAIT_SECONDS = -1
    place.drop("p/case_t1.nii.gz", nifti(tmp_path, 1.0))
    assert place.look() == 1
    assert place.names() == ["refused/p/case_t1.nii.gz", "refused/p/case_t1.nii.gz.txt"]
    place.store.move("refused/p/case_t1.nii.gz", "p/case_t1.nii.gz")
    place.drop("p/oncoflow.json", json.dumps({"mrn": "MRN-12", "date": "2026-03-11"}).encode())
    assert place.look() == 1
    assert Study.objects.count() == 1
    # Gone before it was read, and there again with the same bytes: that is not "seen already".
    data = study_files(slices=1)[0]
    place.drop("a.dcm", data)
    place.watcher.round()
    place.clock.seconds += 60
    place.watcher.round()
    place.store.delete("a.dcm")
    run_pending("default")
    place.drop("a.dcm", data)
    assert place.look() == 1
    assert Instance.objects.count() == 1


def test_a_file_that_still_grows_is_left_alone(tmp_path: Path, settings: Any) -> None:
    buckets.configure(settings, intake=buckets.local(tmp_path / "drop"))
    place = Place(stores.store("intake"))
    path = tmp_path / "drop" / "a.dcm"
    path.parent.mkdir()
    for size in (10, 20, 30):
        path.write_bytes(b"x" * size)
        assert place.watcher.round() == 0
        place.clock.seconds += 60
    assert place.watcher.round() == 1
    (tmp_path / "outside.dcm").write_bytes(study_files(slices=1)[0])
    (tmp_path / "drop" / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    os.mkfifo(tmp_path / "drop" / "pipe.dcm")
    assert place.look() == 0


def test_names_that_are_no_text_hold_nothing_up(tmp_path: Path, settings: Any) -> None:
    buckets.configure(settings, intake=buckets.local(tmp_path / "drop"))
    place = Place(stores.store("intake"))
    (tmp_path / "drop").mkdir(exist_ok=True)
    data = study_files(slices=1)
    for number, name in enumerate((b"a\xff.dcm", b"b\nc.dcm", "\u202e\u0301.dcm".encode())):
        with open(os.fsencode(tmp_path / "drop") + b"/" + name, "wb") as file:
            file.write(data[number])
    place.look()
    assert Instance.objects.count() == 3


def test_a_file_that_cannot_be_cleared_away_is_not_filed_twice(tmp_path: Path, settings: Any, monkeypatch: Any) -> None:
    buckets.configure(settings, intake=buckets.local(tmp_path / "drop"))
    place = Place(stores.store("intake"))
    place.drop("a.dcm", study_files(slices=1)[0])

    def denied(*args: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as broken:
        broken.setattr(stores.FolderStore, "delete", denied)
        place.look()
        assert place.look() == 0
        assert place.names() == ["a.dcm"]
    place.look()
    assert place.names() == []
    assert IntakeFile.objects.count() == 1


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"mrn": 5}', b'{"date": "soon"}', b'{"sequences": {"T9": "x"}}', b'{"patient": "x"}',
             b'{"sequences": ["T1"]}', b"[" * 100_000, b"\xff\xfe"]
)  # fmt: skip
def test_declarations_that_are_none(text: bytes) -> None:
    with pytest.raises(UserVisibleError):
        watched_files_job.parse_declaration(text)


def test_events_through_sqs(request: pytest.FixtureRequest, settings: Any, moto_server: str, monkeypatch: Any) -> None:
    import boto3

    from imaging.archive import completion

    monkeypatch.setattr(completion, "arm", lambda *a, **k: None)
    options = buckets.storage_options(request, "s3", "drop")
    buckets.configure(settings, intake=options)
    place = Place(stores.store("intake"))
    bucket = options["OPTIONS"]["bucket_name"]
    sqs = boto3.client("sqs", endpoint_url=moto_server, region_name="us-east-1")
    url = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3 = boto3.client("s3", endpoint_url=moto_server, region_name="us-east-1")
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )
    events = S3Events(url, location="drop", endpoint=moto_server, region="us-east-1")
    place.drop("scanner 1/ö.dcm", study_files(slices=1)[0])
    s3.put_object(Bucket=bucket, Key="elsewhere/b.dcm", Body=b"x")
    sqs.send_message(QueueUrl=url, MessageBody="no JSON at all")
    folders: set[str] = set()
    for _ in range(5):
        found, receipts = events.receive(0)
        folders |= found
        if found:
            place.watcher.round(found)
        events.done(receipts)
    assert folders == {"scanner 1/"}
    run_pending("default")
    assert Instance.objects.count() == 1
    assert place.names() == []
    left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert left["ApproximateNumberOfMessages"] == left["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_messages_of_other_kinds_are_nothing() -> None:
    record = {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "a+b/%C3%B6.dcm"}}}
    assert created_keys(json.dumps({"Records": [record]})) == ["a b/ö.dcm"]
    assert created_keys(json.dumps({"Message": json.dumps({"Records": [record]})})) == ["a b/ö.dcm"]
    gone = record | {"eventName": "ObjectRemoved:Delete"}
    for body in ("", "5", "[]", '{"Event": "s3:TestEvent"}', json.dumps({"Records": [gone, {}]}), '{"Records": 5}'):
        assert created_keys(body) == []


@pytest.mark.slow
def test_killed_again_and_again_each_file_is_filed_once(tmp_path: Path) -> None:
    """kill -9 after the rows are written, in the middle of filing, and before the file is removed."""
    drop, data = tmp_path / "drop", tmp_path / "data"
    drop.mkdir()
    environment = {
        **os.environ,
        "ONCOFLOW_DATA_DIR": str(data),
        "ONCOFLOW_INTAKE_FOLDER": str(drop),
        "ONCOFLOW_INTAKE_STABLE_SECONDS": "0.1",
        "ONCOFLOW_INTAKE_POLL_SECONDS": "0.2",
        "DJANGO_SETTINGS_MODULE": "oncoflow_site.settings",
    }

    def manage(*arguments: str, failpoint: str = "") -> int:
        command = [sys.executable, "manage.py", *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment | {"ONCOFLOW_FAILPOINT": failpoint}, capture_output=True, timeout=240
        )
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr.decode()[-3000:]
        return ended.returncode

    def ask(query: str) -> list[Any]:
        with sqlite3.connect(data / "oncoflow.sqlite3", timeout=30) as database:
            return database.execute(query).fetchall()

    assert manage("init_keys") == 0
    assert manage("migrate", "-v", "0") == 0
    for number, content in enumerate(study_files(slices=3, sequences=("T1", "T2"))):
        (drop / f"{number}.dcm").write_bytes(content)
    for failpoint in ("intake.written_down", "imaging.receive_after_commit:2", "intake.before_removal:2"):
        assert manage("watch_intake", "--until-empty", "--run-here", failpoint=failpoint) == -signal.SIGKILL, failpoint
        ask("UPDATE foundation_job SET lease_until = '2020-01-01 00:00:00' WHERE state = 'running'")
    assert list(drop.iterdir())
    assert manage("watch_intake", "--until-empty", "--run-here") == 0
    assert list(drop.iterdir()) == []
    assert ask("SELECT count(*), count(DISTINCT uid_index) FROM imaging_instance") == [(6, 6)]
    assert ask("SELECT count(*) FROM imaging_instance WHERE state = 'quarantined'") == [(0,)]
    assert ask("SELECT state, count(*) FROM imaging_intakefile GROUP BY state") == [("done", 6)]
    assert ask("SELECT count(*) FROM foundation_job WHERE kind = 'imaging.ingest_intake'") == [(1,)]
