"""STOW-RS: what is stored, what is refused and how that is said; hostile bodies; memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from audit.models import AuditRow
from clinical.models import User
from fhir_api.access.tokens import create_token
from imaging.dicomweb import stow_rs
from imaging.dicomweb.multipart import MultipartError, MultipartWriter, read_parts
from imaging.models import Instance, InstanceState, Study
from tests.factories.dicom_files import as_file, dataset, study_files
from tests.factories.published_studies import account

BOUNDARY = "b0undary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
Send = Callable[..., Any]


def multipart(files: list[bytes], kind: str = "application/dicom") -> bytes:
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + data for data in files) + f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def send(token: str) -> Send:
    """``send(body, path)``: a POST with the token, in process."""

    def post(body: bytes, path: str = "/studies", content_type: str = TYPE, bearer: str = token, **headers: str) -> Any:
        every = {"Authorization": f"Bearer {bearer}"} | headers
        return Client().post(f"/dicomweb{path}", body, content_type=content_type, headers=every)

    return post


def items(answer: Any, tag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.json().get(tag, {}).get("Value", [])
    return found


def items_of(answer: Any) -> tuple[int, int, int]:
    """How many are stored, failed by name, failed without one."""
    body = answer.json()
    return tuple(len(body.get(tag, {"Value": []}).get("Value", [])) for tag in ("00081199", "00081198", "0008119A"))  # type: ignore[return-value]


def test_instances_are_stored_and_named(db: None, send: Send) -> None:
    answer = send(multipart(study_files()))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+json"
    assert items_of(answer) == (16, 0, 0)
    first = items(answer, "00081199")[0]
    assert first["00081155"]["Value"] == ["1.2.3.1.1.1"]
    assert first["00081150"]["Value"] == ["1.2.840.10008.5.1.4.1.1.4"]
    assert Instance.objects.count() == 16
    study = Study.objects.get()
    assert (study.source, study.state) == ("stow", "receiving")
    assert set(Instance.objects.values_list("peer", flat=True)) == {"pacs"}
    assert AuditRow.objects.get(event="dicomweb.store").detail == {"stored": 16, "refused": 0, "quarantined": 0}
    assert AuditRow.objects.filter(event="study.receive", source="dicom").exists()


def test_the_same_again_does_nothing(db: None, send: Send) -> None:
    for _ in range(2):
        assert send(multipart([as_file(dataset())])).status_code == 200
    assert Instance.objects.count() == 1


def test_some_stored_some_not(db: None, send: Send) -> None:
    broken = as_file(dataset(number=2))[:-100]
    answer = send(multipart([as_file(dataset()), broken, b"no DICOM at all"]))
    assert answer.status_code == 202
    assert items_of(answer) == (1, 1, 1)
    failed = items(answer, "00081198")[0]
    assert failed["00081155"]["Value"] == ["1.2.3.1.1.2"]
    assert failed["00081197"]["Value"] == [0xC000]


def test_none_stored(db: None, send: Send) -> None:
    answer = send(multipart([b"nothing", as_file(dataset(PixelData=None))]))
    assert answer.status_code == 409
    assert Instance.objects.count() == 0
    assert [one["00081197"]["Value"] for one in items(answer, "00081198")] == [[0xA900]]


def test_the_study_of_the_address(db: None, send: Send) -> None:
    mine, other = as_file(dataset()), as_file(dataset(study="1.2.3.2"))
    answer = send(multipart([mine, other]), path="/studies/1.2.3.1")
    assert answer.status_code == 202
    assert items(answer, "00081198")[0]["00081197"]["Value"] == [0xA900]
    assert Study.objects.count() == 1
    assert send(multipart([other]), path="/studies/1.2.3.1").status_code == 409


def test_quarantine_is_said(db: None, send: Send) -> None:
    answer = send(multipart([as_file(dataset(BurnedInAnnotation="YES"))]))
    assert answer.status_code == 200
    assert "1 instances are stored in quarantine" in answer.headers["Warning"]
    assert Instance.objects.get().state == InstanceState.QUARANTINED


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/dicom", 415),
        ("multipart/form-data; boundary=x", 415),
        (f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}', 415),
        ('multipart/related; type="application/dicom"', 400),
        (";", 415),
    ],
)
def test_other_bodies(db: None, send: Send, content_type: str, status: int) -> None:
    assert send(multipart([as_file(dataset())]), content_type=content_type).status_code == status
    assert Instance.objects.count() == 0


def test_broken_bodies(db: None, send: Send) -> None:
    whole = multipart([as_file(dataset()), as_file(dataset(number=2))])
    assert send(b"\r\n").status_code == 400
    assert send(multipart([])).status_code == 400
    assert send(b"\0" * 100_000).status_code == 400
    cut = send(whole[:-700])
    assert cut.status_code == 202
    assert items_of(cut) == (1, 0, 0)
    assert "broken" in cut.headers["Warning"]
    assert send(multipart([as_file(dataset())], kind="text/html")).status_code == 409


def test_too_large(db: None, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow_rs, "MAX_BYTES", 2000)
    big, small = as_file(dataset(size=64)), as_file(dataset(number=2, size=8))
    assert len(small) < 2000 < len(big)
    assert send(multipart([big])).status_code == 413
    answer = send(multipart([big, small]))
    assert answer.status_code == 202
    assert items_of(answer) == (1, 0, 1)


def test_no_request_has_parts_without_end(db: None, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow_rs, "MAX_PARTS", 2)
    answer = send(multipart([as_file(dataset(number=number)) for number in range(1, 5)]))
    assert answer.status_code == 202
    assert items_of(answer) == (2, 0, 0)
    assert "more than 2 parts" in answer.headers["Warning"]
    assert Instance.objects.count() == 2


def test_no_room(db: None, send: Send, settings: Any) -> None:
    settings.ONCOFLOW_MIN_FREE_BYTES = 1 << 60
    answer = send(multipart([as_file(dataset())]))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_who_may_store(db: None, send: Send, machine: User) -> None:
    body = multipart([as_file(dataset())])
    assert Client().post("/dicomweb/studies", body, content_type=TYPE).status_code == 401
    for scope, status in (("system/*.rs", 403), ("system/ImagingStudy.rs", 403), ("system/ImagingStudy.c", 200)):
        bearer = create_token(machine, scope, scopes=[scope])[1]
        assert send(body, bearer=bearer).status_code == status, scope
    person = create_token(account("rhea", "radiologist"), "mine", scopes=["user/*.crs"])[1]
    assert send(body, bearer=person).status_code == 403
    assert AuditRow.objects.filter(event="dicomweb.store", outcome=4).count() == 3
    assert send(body, Accept="application/dicom+xml").status_code == 406


class _Slow(io.RawIOBase):
    """A stream that gives a few bytes at a time, and knows how much was asked of it at once."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step, self.place = data, step, 0

    def read(self, size: int = -1) -> bytes:
        piece = self.data[self.place : self.place + min(size, self.step)]
        self.place += len(piece)
        return piece


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 100_000])
def test_parts_are_found_however_the_bytes_arrive(step: int) -> None:
    contents = [b"", b"\r\n", b"\r\n--b0undar", b"-" + BOUNDARY.encode(), b"x" * 300, b"a\r\n\r\nb"]
    body = b"preamble\r\n" + multipart(contents) + b"epilogue"
    found = list(read_parts(_Slow(body, step), BOUNDARY, largest=1000))  # type: ignore[arg-type]
    assert [part.content for part in found] == contents
    assert all(part.headers == {"content-type": "application/dicom"} for part in found)


def test_what_the_writer_writes_is_read_again() -> None:
    writer = MultipartWriter()
    body = b"".join([*writer.part("a/b", [b"one", b"two"], location="/x"), *writer.part("a/b", []), writer.end()])
    found = list(read_parts(io.BytesIO(body), writer.boundary, largest=100))
    assert [part.content for part in found] == [b"onetwo", b""]
    assert found[0].headers["content-location"] == "/x"


@pytest.mark.parametrize(
    "body",
    [
        b"--b0undary",
        b"--b0undary\r\n",
        b"--b0undaryx\r\n\r\n--b0undary--",
        b"--b0undary\r\nno colon\r\n\r\nx\r\n--b0undary--",
        b"--b0undary\r\nA: " + b"x" * 20_000 + b"\r\n\r\nx\r\n--b0undary--",
        b"--b0undary\r\nA: b\r\n\r\nnever ends",
    ],
)
def test_bad_framing_is_refused(body: bytes) -> None:
    with pytest.raises(MultipartError):
        list(read_parts(io.BytesIO(body), BOUNDARY, largest=1000))


def test_a_huge_part_is_skipped_without_being_held() -> None:
    import tracemalloc

    class Endless(io.RawIOBase):
        left = 200

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            if self.left == 199:
                return f"--{BOUNDARY}\r\n\r\n".encode()
            return b"\0" * (1 << 20) if self.left > 0 else f"\r\n--{BOUNDARY}--".encode() if self.left == 0 else b""

    tracemalloc.start()
    found = list(read_parts(Endless(), BOUNDARY, largest=4 << 20))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [part.content for part in found] == [None]
    assert peak < 16 << 20
