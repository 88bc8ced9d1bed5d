"""Storage commitment on real sockets: pynetdicom and Orthanc ask, a job reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from audit.models import AuditRow
from imaging.archive.store_instance import store_instance
from imaging.dimse import storage_commitment
from imaging.dimse.storage_scp import StorageScp
from imaging.models import CommitmentRequest, CommitmentState, DicomPeer, Instance, InstanceState
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Job, JobState
from tests.factories.dicom_files import MR_CLASS, as_file, dataset

pytestmark = pytest.mark.django_db(transaction=True)
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def port() -> Iterator[int]:
    scp = StorageScp("ONCOFLOW")
    yield scp.start("127.0.0.1", 0)
    scp.stop(1.0)


class Peer:
    """A modality that asks and takes the report."""

    def __init__(self, title: str = "SCANNER1", answer: int = 0x0000) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.answer = answer
        self.came = threading.Event()
        self.ae = AE(ae_title=title)
        self.ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self.server = self.ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        self.port = self.server.socket.getsockname()[1]
        self.row = DicomPeer.objects.create(ae_title=title, host="127.0.0.1", port=self.port)

    def _report(self, event):
        self.reports.append((event.event_type, event.event_information))
        self.came.set()
        return self.answer, None

    def ask(self, port: int, items, *, uid: str = "1.2.3.77", action: int = 1, instance: str | None = None) -> int:
        self.ae.add_requested_context(StorageCommitmentPushModel)
        assoc = self.ae.associate("127.0.0.1", port, ae_title="ONCOFLOW")
        assert assoc.is_established
        information = Dataset()
        information.TransactionUID = uid
        information.ReferencedSOPSequence = [storage_commitment._reference(pair) for pair in items]
        status, _ = assoc.send_n_action(
            information, action, StorageCommitmentPushModel, instance or storage_commitment.PUSH_MODEL_INSTANCE
        )
        assoc.release()
        return int(status.Status)


@pytest.fixture
def peer() -> Iterator[Peer]:
    one = Peer()
    yield one
    one.server.shutdown()


def stored(**changes) -> tuple[str, str]:
    one = dataset(**changes)
    assert store_instance(as_file(one), source="dicom", peer="SCANNER1").status == 0
    return str(one.SOPClassUID), str(one.SOPInstanceUID)


def reasons(information: Dataset) -> dict[str, int]:
    return {
        str(one.ReferencedSOPInstanceUID): int(one.FailureReason) for one in information.get("FailedSOPSequence") or ()
    }


def test_what_is_kept_is_committed_quarantine_too(port, peer):
    items = [stored(number=1), stored(number=2, BurnedInAnnotation="YES")]
    assert Instance.objects.filter(state=InstanceState.QUARANTINED).count() == 1
    assert peer.ask(port, items) == 0
    assert CommitmentRequest.objects.get().state == CommitmentState.WAITING
    assert not peer.reports, "the answer does not wait for the report"
    run_pending("delivery")
    ((kind, information),) = peer.reports
    assert (kind, str(information.TransactionUID)) == (1, "1.2.3.77")
    assert len(information.ReferencedSOPSequence) == 2
    row = CommitmentRequest.objects.get()
    assert (row.state, row.asked, row.failed) == (CommitmentState.REPORTED, 2, 0)
    assert b"1.2.3" not in bytes(row.ciphertext)
    assert AuditRow.objects.filter(event="commitment.report").count() == 1


def test_failures_carry_their_reason(port, peer):
    sop_class, uid = stored(number=1)
    gone = stored(number=2)
    row = Instance.objects.select_related("original").order_by("number").last()
    assert row is not None
    from django.core.files.storage import storages

    storages["objects"].delete(row.original.storage_name)
    assert peer.ask(port, [(sop_class, uid), (MR_CLASS, "1.2.3.404"), gone], uid="1.2.3.78") == 0
    assert peer.ask(port, [(CT_CLASS, uid)], uid="1.2.3.79") == 0
    run_pending("delivery")
    by_transaction = {str(one.TransactionUID): (kind, one) for kind, one in peer.reports}
    assert by_transaction["1.2.3.78"][0] == 2
    assert reasons(by_transaction["1.2.3.78"][1]) == {"1.2.3.404": 0x0112, gone[1]: 0x0110}
    assert reasons(by_transaction["1.2.3.79"][1]) == {uid: 0x0119}


def test_a_peer_that_is_away_is_told_later_and_a_repeated_request_again(port, peer):
    items = [stored(number=1)]
    peer.answer = 0x0110
    assert peer.ask(port, items) == 0
    run_pending("delivery")
    job = Job.objects.get(kind="imaging.report_commitment")
    assert (job.state, CommitmentRequest.objects.get().state) == (JobState.WAITING, CommitmentState.WAITING)
    peer.answer = 0x0000
    Job.objects.filter(pk=job.pk).update(run_after=job.created_at)
    run_pending("delivery")
    assert CommitmentRequest.objects.get().state == CommitmentState.REPORTED
    assert peer.ask(port, items) == 0  # the same transaction
    run_pending("delivery")
    assert len(peer.reports) == 3
    assert CommitmentRequest.objects.get().times == 2


def test_requests_that_cannot_be_taken(port, peer):
    assert peer.ask(port, []) == 0x0120
    assert peer.ask(port, [(MR_CLASS, "1.2.3")], action=2) == 0x0123
    assert peer.ask(port, [(MR_CLASS, "1.2.3")], instance="1.2.3.4") == 0x0112
    DicomPeer.objects.update(port=None)
    assert peer.ask(port, [(MR_CLASS, "1.2.3")]) == 0x0213
    assert not CommitmentRequest.objects.exists()


@pytest.mark.peer("orthanc")
def test_orthanc_asks_and_hears(port, orthanc):
    orthanc.add_modality("oncoflow", "ONCOFLOW", "127.0.0.1", port)
    DicomPeer.objects.create(ae_title=orthanc.ae_title, host="127.0.0.1", port=orthanc.dicom_port)
    kept = stored(number=1)
    body = {"DicomInstances": [list(kept), [MR_CLASS, "1.2.3.404"]]}
    answer = httpx.post(f"{orthanc.url}/modalities/oncoflow/storage-commitment", json=body, timeout=30)
    answer.raise_for_status()
    run_pending("delivery")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = httpx.get(f"{orthanc.url}/storage-commitment/{answer.json()['ID']}", timeout=30).json()
        if found["Status"] != "Pending":
            break
        time.sleep(0.1)
    assert found["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in found["Success"]] == [kept[1]]
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in found["Failures"]] == [("1.2.3.404", 0x0112)]
