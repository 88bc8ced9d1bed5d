"""A PACS that answers without end, with what unpacks, or with addresses to go to: nothing it sends is believed for its size."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import Verification

from imaging.dimse.associations import calling
from imaging.dimse.storage_scp import StorageScp
from imaging.models import DicomPeer
from imaging.priors import pacs_dicomweb
from imaging.priors.pacs import MAX_FOUND, found_series, found_study
from imaging.priors.pacs_dicomweb import WebPacs
from imaging.priors.pacs_dimse import DimsePacs
from oncoflow_site.foundation.errors import TransientError
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.django_db
DEFLATED = "1.2.840.10008.1.2.1.99"


class Answers(BaseHTTPRequestHandler):
    """Answers every request with what the test has put into ``answer``: status, headers, body or a piece sent for ever."""

    answer: tuple[int, dict[str, str], bytes, bool] = (200, {}, b"[]", False)
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, headers, body, endless = self.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
            while endless:
                self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def pacs() -> Iterator[WebPacs]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Answers.asked.clear()
    peer = DicomPeer.objects.create(ae_title="VNA", dicomweb_url=f"http://127.0.0.1:{server.server_port}/dicom-web")
    yield WebPacs(peer)
    server.shutdown()
    server.server_close()


JSON = {"Content-Type": "application/dicom+json"}
PARTS = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


@pytest.mark.parametrize(
    "answer",
    [
        (200, JSON, b"[" + b" " * (1 << 20), True),
        (302, {"Location": "/elsewhere/"}, b"", False),
        (200, {**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b", False),
        (200, JSON, b'{"not": "a list"', False),
    ],
)
def test_a_search_answered_without_end_with_a_redirection_or_packed(pacs, monkeypatch, answer):
    monkeypatch.setattr(Answers, "answer", answer)
    monkeypatch.setattr(pacs_dicomweb, "_MAX_ANSWER", 4 << 20)
    with pytest.raises(TransientError):
        pacs.studies("MRN-4711-X", "DEMOHOSP", "20200101")
    assert len(Answers.asked) == 1


def test_more_studies_than_were_asked_for(pacs, monkeypatch):
    one = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}
    monkeypatch.setattr(Answers, "answer", (200, JSON, json.dumps([one] * (MAX_FOUND + 9)).encode(), False))
    assert len(pacs.studies("MRN-4711-X", "DEMOHOSP", "20200101")) == MAX_FOUND


def test_an_instance_comes_byte_for_byte_and_one_without_end_does_not(pacs, monkeypatch):
    file = as_file(dataset())
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--b--"
    taken: list[bytes] = []
    monkeypatch.setattr(Answers, "answer", (200, PARTS, body, False))
    pacs.fetch("1.2.3", "1.2.3.1", "MRN-4711-X", taken.append)
    assert taken == [file]
    monkeypatch.setattr(pacs_dicomweb, "MAX_BYTES", 4 << 20)
    for kind, begin in ((PARTS, b"--b\r\n\r\n"), ({"Content-Type": "application/dicom"}, b"")):
        monkeypatch.setattr(Answers, "answer", (200, kind, begin + bytes(1 << 20), True))
        with pytest.raises(TransientError):
            pacs.fetch("1.2.3", "1.2.3.1", "MRN-4711-X", taken.append)
    assert len(taken) == 1


@pytest.mark.parametrize("uid", ["../../admin", "1.2.3/../4", "1.2.3\\1.2.4", "1." + "2" * 70, "*", ""])
def test_what_is_no_uid_becomes_no_part_of_an_address(uid):
    answer = Dataset()
    answer.add_new("StudyInstanceUID", "UI", uid)
    answer.add_new("SeriesInstanceUID", "UI", uid)
    assert found_study(answer).uid == ""
    assert found_series(answer).uid == ""


@pytest.fixture
def endless() -> Iterator[DicomPeer]:
    """A Query SCP that never comes to the end of its answers."""
    ended = threading.Event()

    def answers(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        while not ended.is_set():
            one = Dataset()
            one.StudyInstanceUID, one.PatientID = "1.2.3", "MRN-4711-X"
            yield 0xFF00, one

    ae = AE("ENDLESS")
    ae.add_supported_context(Find, [DEFLATED, "1.2.840.10008.1.2"])
    ae.add_supported_context(Verification, [DEFLATED])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answers)])
    assert server is not None
    yield DicomPeer.objects.create(ae_title="ENDLESS", host="127.0.0.1", port=server.server_address[1])
    ended.set()
    server.shutdown()


def test_a_search_over_dimse_ends_where_we_have_enough(endless):
    assert len(DimsePacs(endless).studies("MRN-4711-X", "DEMOHOSP", "20200101")) == MAX_FOUND


def test_deflated_is_neither_proposed_nor_taken(endless):
    """A small answer could unpack without a limit."""
    with pytest.raises(TransientError), calling(endless, [Verification]):
        pass
    for context in StorageScp("ONCOFLOW").ae.supported_contexts:
        assert DEFLATED not in context.transfer_syntax
