"""The DICOM door on real sockets: pynetdicom, DCMTK and Orthanc as senders."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from django.db import connections
from pydicom import dcmread
from pydicom.pixels import get_decoder
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification

from audit.models import AuditRow
from imaging.archive.store_instance import store_instance
from imaging.dicom.transfer_syntaxes import ACCEPTED
from imaging.dimse import transport
from imaging.dimse.associations import calling, server_context
from imaging.dimse.storage_scp import StorageScp
from imaging.dimse.transport import in_flight
from imaging.models import DicomPeer, Instance, InstanceState, Series, Study, StudySource
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import TransientError
from tests.factories.dicom_files import as_file, dataset, study_files

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[3]


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


def test_the_same_instances_through_two_doors_at_once_are_there_once(port):
    files = study_files(slices=2)

    def by_upload() -> set[int]:
        results = {store_instance(one, source=StudySource.UPLOAD, peer="upload").status for one in files}
        connections.close_all()
        return results

    with ThreadPoolExecutor(4) as pool:
        doors = [pool.submit(send, port, files), pool.submit(by_upload), pool.submit(send, port, files)]
        assert {status for door in doors for status in door.result()} == {0}
    assert (Study.objects.count(), Series.objects.count(), Instance.objects.count()) == (1, 4, 8)
    assert not Instance.objects.filter(state=InstanceState.QUARANTINED).exists()


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


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """An authority, and a certificate and key for both ends."""
    folder = tmp_path_factory.mktemp("tls")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.now(UTC) - timedelta(days=1)

    def sign(subject, key, issuer, issuer_key, authority: bool):
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        if not authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    root_key, key = (rsa.generate_private_key(65537, 2048) for _ in "ab")
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(sign(root, root_key, root, root_key, True).public_bytes(pem))
    (folder / "cert.pem").write_bytes(sign(name, key, root, root_key, False).public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def tls_port(certificates, settings) -> Iterator[int]:
    """A listener that speaks TLS and wants a certificate of the same authority."""
    settings.ONCOFLOW_DICOM_TLS_CERTIFICATE = str(certificates / "cert.pem")
    settings.ONCOFLOW_DICOM_TLS_KEY = str(certificates / "key.pem")
    settings.ONCOFLOW_DICOM_TLS_CA = str(certificates / "ca.pem")
    DicomPeer.objects.create(ae_title="SCANNER1")
    scp = StorageScp("ONCOFLOW")
    yield scp.start("127.0.0.1", 0, server_context())
    scp.stop(1.0)


@pytest.mark.peer("dcmtk")
def test_dcmtk_sends_with_tls_and_only_with_a_certificate(tls_port, certificates, tmp_path):
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("DCMTK (storescu) is not installed")
    (tmp_path / "1.dcm").write_bytes(as_file(dataset()))
    silent = socket.create_connection(("127.0.0.1", tls_port))  # who never shakes hands holds up nobody
    base = [program, "-aet", "SCANNER1", "-aec", "ONCOFLOW", "+cf", str(certificates / "ca.pem")]
    target = ["127.0.0.1", str(tls_port), str(tmp_path / "1.dcm")]
    known = ["+tls", str(certificates / "key.pem"), str(certificates / "cert.pem")]
    done = subprocess.run([*base, *known, *target], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert Instance.objects.count() == 1
    for other in (["+tla"], []):
        refused = subprocess.run([*base, *other, *target], capture_output=True, timeout=60, check=False)
        assert refused.returncode != 0
    silent.close()


def test_we_call_with_tls_too(tls_port):
    peer = DicomPeer.objects.create(ae_title="ONCOFLOW", host="127.0.0.1", port=tls_port, tls=True)
    DicomPeer.objects.filter(ae_title="SCANNER1").update(active=False)
    with calling(peer, [Verification]) as assoc:
        assert assoc.send_c_echo().Status == 0
    peer.tls = False
    with pytest.raises(TransientError), calling(peer, [Verification]):
        pass


def test_too_many_associations_and_too_many_bytes_are_refused_for_now(settings):
    settings.ONCOFLOW_DICOM_MAX_ASSOCIATIONS = 4
    DicomPeer.objects.create(ae_title="SCANNER1")
    scp = StorageScp("ONCOFLOW")
    number = scp.start("127.0.0.1", 0)
    try:
        held = [associate(number) for _ in range(4)]
        assert all(one.is_established for one in held)
        third = associate(number)
        assert third.is_rejected
        # rejected transiently, presentation service provider, local limit exceeded (PS3.8 Table 9-21)
        answer = third.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (0x02, 0x03, 0x02)
        held[0].release()
        in_flight.add(settings.ONCOFLOW_DICOM_MAX_BYTES_IN_FLIGHT + 1)
        assert associate(number).is_rejected
        in_flight.add(-settings.ONCOFLOW_DICOM_MAX_BYTES_IN_FLIGHT - 1)
        again = associate(number)
        assert again.is_established
        again.release()
        held[1].release()
    finally:
        scp.stop(1.0)
    assert in_flight.total == 0


def test_a_data_set_that_never_ends_ends_its_association(port, monkeypatch):
    monkeypatch.setattr(transport, "MAX_MESSAGE", 200_000)
    assoc = associate(port)
    large = dcmread(BytesIO(as_file(dataset(size=512))))
    assert "Status" not in assoc.send_c_store(large)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and assoc.is_established:
        time.sleep(0.05)
    assert not assoc.is_established
    assert send(port, [as_file(dataset(number=2))]) == [0], "the others go on"
    assert in_flight.total == 0


def test_every_transfer_syntax_offered_can_be_decoded():
    for uid in ACCEPTED:
        assert not UID(uid).is_encapsulated or get_decoder(uid).is_available, UID(uid).name


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


def test_half_requests_of_one_address_hold_up_nobody_and_end_in_time(settings):
    """A stranger who begins eighty associations and finishes none."""
    settings.ONCOFLOW_DICOM_MAX_ASSOCIATIONS = 4
    DicomPeer.objects.create(ae_title="SCANNER1")
    scp = StorageScp("ONCOFLOW")
    scp.ae.acse_timeout = 3
    port = scp.start("127.0.0.1", 0)
    half = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        for one in half:
            with suppress(OSError):
                one.sendall(b"\x01\x00" + struct.pack(">I", 60000) + bytes(10))
        time.sleep(0.5)
        assert len(scp.ae.active_associations) <= 4
        other = AE(ae_title="SCANNER1")
        other.add_requested_context(Verification)
        assoc = other.associate("127.0.0.1", port, ae_title="ONCOFLOW", bind_address=("127.0.0.3", 0))
        assert assoc.is_established  # another address
        assoc.release()
        deadline = time.monotonic() + 15
        while scp.ae.active_associations and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not scp.ae.active_associations
    finally:
        for one in half:
            one.close()
        scp.stop(1.0)
