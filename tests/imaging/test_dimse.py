"""The DICOM door on real sockets: pynetdicom, DCMTK and Orthanc as senders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification

from audit.models import AuditRow
from imaging.dimse.scp import StorageScp
from imaging.models import DicomPeer, Instance, InstanceState, Series, Study
from oncoflow_site.foundation import objects
from tests.imaging.dicomfiles import as_file, dataset, study_files

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def port() -> Iterator[int]:
    """A listening SCP that knows one sender."""
    DicomPeer.objects.create(ae_title="SCANNER1")
    scp = StorageScp("ONCOFLOW")
    number = scp.start("127.0.0.1", 0)
    yield number
    scp.stop(1.0)


def associate(port: int, title: str = "SCANNER1", called: str = "ONCOFLOW"):
    ae = AE(ae_title=title)
    ae.add_requested_context(Verification)
    ae.add_requested_context(MRImageStorage)
    ae.acse_timeout = ae.dimse_timeout = 20
    return ae.associate("127.0.0.1", port, ae_title=called)


def send(port: int, files: list[bytes], title: str = "SCANNER1") -> list[int]:
    assoc = associate(port, title)
    assert assoc.is_established
    statuses = [int(assoc.send_c_store(dcmread(BytesIO(one))).Status) for one in files]
    assoc.release()
    return statuses


def test_echo(port):
    assoc = associate(port)
    assert assoc.send_c_echo().Status == 0
    assoc.release()


@pytest.mark.parametrize(("title", "called"), [("STRANGER", "ONCOFLOW"), ("SCANNER1", "SOMEBODY")])
def test_strangers_and_wrong_calls_are_rejected_and_recorded(port, title, called):
    assoc = associate(port, title, called)
    assert assoc.is_rejected
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not AuditRow.objects.filter(event="dicom.refuse").exists():
        time.sleep(0.05)
    assert AuditRow.objects.get(event="dicom.refuse").outcome == 4


def test_an_inactive_peer_and_a_wrong_host_are_strangers(port):
    DicomPeer.objects.create(ae_title="OLD", active=False)
    DicomPeer.objects.create(ae_title="ELSEWHERE", host="192.0.2.7", check_host=True)
    DicomPeer.objects.create(ae_title="HERE", host="127.0.0.1", check_host=True)
    assert associate(port, "OLD").is_rejected
    assert associate(port, "ELSEWHERE").is_rejected
    here = associate(port, "HERE")
    assert here.is_established
    here.release()


def test_two_studies_over_several_associations_at_once(port):
    one, two = study_files(study="1.2.3.1", slices=3), study_files(study="1.2.3.2", slices=3)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda part: send(port, part), [one[:6], one[6:], two[:6], two[6:]]))
    assert {status for part in results for status in part} == {0}
    assert (Study.objects.count(), Series.objects.count(), Instance.objects.count()) == (2, 8, 24)
    assert Study.objects.values("patient").distinct().count() == 1
    # one row a study and association: the cache belongs to the association
    assert 2 <= AuditRow.objects.filter(event="study.receive").count() <= 6
    assert AuditRow.objects.filter(
        event="study.receive", actor_type="peer", actor_id="SCANNER1", source="dicom"
    ).exists()


def test_what_is_stored_is_a_dicom_file_with_the_pixels_as_sent(port):
    sent = dataset()
    assert send(port, [as_file(sent)]) == [0]
    stored = dcmread(BytesIO(objects.get(Instance.objects.get().original)))
    assert stored.PixelData == sent.PixelData
    assert stored.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID


def test_a_bad_data_set_gets_a_status_and_a_reason_and_the_association_goes_on(port):
    bad = dataset(number=1)
    del bad.StudyInstanceUID
    assoc = associate(port)
    bad.file_meta = dcmread(BytesIO(as_file(bad))).file_meta
    answer = assoc.send_c_store(bad)
    assert (answer.Status, answer.ErrorComment) == (0xA900, "StudyInstanceUID is missing")
    assert assoc.send_c_store(dcmread(BytesIO(as_file(dataset(number=2))))).Status == 0
    assoc.release()
    assert Instance.objects.count() == 1


def test_a_full_disk_is_said_in_dicom_and_nothing_is_kept(port, settings):
    settings.ONCOFLOW_MIN_FREE_BYTES = 1 << 60
    assert send(port, [as_file(dataset())]) == [0xA700]
    assert not Instance.objects.exists()


@pytest.mark.peer("dcmtk")
def test_dcmtk_sends(port, tmp_path):
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("DCMTK (storescu) is not installed")
    for number, data in enumerate(study_files(slices=2)):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    command = [program, "-aet", "SCANNER1", "-aec", "ONCOFLOW", "+sd", "127.0.0.1", str(port), str(tmp_path)]
    for _ in range(2):  # the second time everything is a duplicate
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert Instance.objects.count() == 8
    assert not Instance.objects.filter(state=InstanceState.QUARANTINED).exists()
    wrong = subprocess.run([*command[:2], "NOBODY", *command[3:]], capture_output=True, timeout=60, check=False)
    assert wrong.returncode != 0


@pytest.mark.peer("orthanc")
def test_orthanc_forwards_a_study(port, orthanc):
    orthanc.add_modality("oncoflow", "ONCOFLOW", "127.0.0.1", port)
    DicomPeer.objects.create(ae_title=orthanc.ae_title)
    files = study_files(slices=3)
    studies = {orthanc.upload(data)["ParentStudy"] for data in files}
    assert len(studies) == 1
    answer = orthanc.store("oncoflow", studies.pop())
    assert answer["FailedInstancesCount"] == 0
    assert Instance.objects.exclude(state=InstanceState.QUARANTINED).count() == len(files)
    assert Instance.objects.filter(peer=orthanc.ae_title).count() == len(files)


def test_stopping_does_not_wait_for_a_peer_that_keeps_silent():
    DicomPeer.objects.create(ae_title="SCANNER1")
    scp = StorageScp("ONCOFLOW")
    number = scp.start("127.0.0.1", 0)
    silent = socket.create_connection(("127.0.0.1", number))
    idle = associate(number)
    assert idle.is_established
    began = time.monotonic()
    scp.stop(0.5)
    assert time.monotonic() - began < 10
    silent.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", number), timeout=2)
    idle.abort()


LISTENER = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "dicom_listener", "--host", "127.0.0.1", "--port", "0"])
print("torch loaded" if "torch" in sys.modules else "no torch", flush=True)
"""


def test_the_listener_process_ends_cleanly_and_never_loads_torch(tmp_path):
    environment = {**os.environ, "ONCOFLOW_DATA_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("DICOM listener ONCOFLOW on 127.0.0.1:"), line
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert output.splitlines()[-2:] == ["DICOM listener stopped", "no torch"], output
