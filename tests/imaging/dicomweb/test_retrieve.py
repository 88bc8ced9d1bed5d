"""WADO-RS: instances, metadata, bulk data, frames and pictures, in every transfer syntax that comes in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from audit.models import AuditRow
from imaging.dicomweb.dicom_json import read_published
from imaging.dicomweb.frame_decoding import bit_frame, pack_bits
from imaging.models import PublishedInstance, Study
from imaging.rendering.window import apply_window
from oncoflow_site.foundation import objects
from tests.factories.dicom_files import as_file, dataset, study_files
from tests.factories.published_studies import bring

Ask = Callable[..., Any]
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'


def body(answer: Any) -> bytes:
    return b"".join(answer) if answer.streaming else bytes(answer.content)


def parts(answer: Any) -> list[tuple[str, bytes]]:
    """Content type and content of each part."""
    kind = answer.headers["Content-Type"]
    assert kind.startswith("multipart/related; type=")
    boundary = re.search(r"boundary=([^;]+)", kind)[1].encode()  # type: ignore[index]
    first, *found, last = (b"\r\n" + body(answer)).split(b"\r\n--" + boundary)
    assert (first, last) == (b"", b"--\r\n")
    heads = [one.split(b"\r\n\r\n", 1) for one in found]
    return [(re.search(rb"Content-Type: ([^\r]+)", head)[1].decode(), content) for head, content in heads]  # type: ignore[index]


def path_of(row: PublishedInstance) -> str:
    return f"/studies/{row.study.deidentified_uid}/series/{row.series_instance_uid}/instances/{row.sop_instance_uid}"


def stored(row: PublishedInstance) -> Dataset:
    return dcmread(BytesIO(objects.get(row.object)))


@pytest.fixture
def one(study: Study) -> PublishedInstance:
    row = PublishedInstance.objects.order_by("id").first()
    assert row is not None
    return row


def test_instances_of_a_study_series_and_instance(study: Study, one: PublishedInstance, ask: Ask) -> None:
    base = f"/studies/{study.deidentified_uid}"
    for path, count in ((base, 16), (f"{base}/series/{one.series_instance_uid}", 4), (path_of(one), 1)):
        answer = ask(path, accept=DICOM)
        assert answer.status_code == 200
        found = parts(answer)
        assert len(found) == count
        for label, content in found:
            assert label == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
            assert dcmread(BytesIO(content)).PatientID == study.patient.pseudonym
    assert parts(ask(path_of(one)))[0][1] == objects.get(one.object)
    single = ask(path_of(one), accept="application/dicom")
    assert body(single) == objects.get(one.object)
    assert ask(base, accept="application/dicom").status_code == 406
    assert ask(base, accept="image/jpeg").status_code == 406


def test_metadata_is_the_header_and_needs_no_file(
    study: Study, one: PublishedInstance, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stored(one)

    def no_file(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(objects, "iter_chunks", no_file)
    answer = ask(f"/studies/{study.deidentified_uid}/series/{one.series_instance_uid}/metadata")
    assert answer.headers["Content-Type"] == "application/dicom+json"
    found = json.loads(body(answer))
    assert len(found) == 4
    mine = next(item for item in found if item["00080018"]["Value"] == [one.sop_instance_uid])
    assert mine["7FE00010"] == {
        "vr": "OW",
        "BulkDataURI": f"http://testserver/dicomweb{path_of(one)}/bulkdata/7FE00010",
    }
    del mine["7FE00010"], expected.PixelData
    again = Dataset.from_json(mine)
    if "SpecificCharacterSet" in expected:
        expected.SpecificCharacterSet = "ISO_IR 192"
    assert again.to_json_dict() == expected.to_json_dict()
    assert len(again) > 40


def test_bulk_data(one: PublishedInstance, ask: Ask) -> None:
    pixels = stored(one).PixelData
    assert body(ask(f"{path_of(one)}/bulkdata/7FE00010", accept="application/octet-stream")) == pixels
    ((label, content),) = parts(ask(f"{path_of(one)}/bulkdata/7FE00010", accept=OCTETS))
    assert (label, content) == ("application/octet-stream", pixels)
    for wrong in ("00100010", "7FE00011", "xyz", "0008,0018", "00081140/1", "00081140/0/00080018"):
        assert ask(f"{path_of(one)}/bulkdata/{wrong}", accept="*/*").status_code == 404


def test_frames(one: PublishedInstance, ask: Ask) -> None:
    ((label, content),) = parts(ask(f"{path_of(one)}/frames/1", accept=OCTETS))
    assert label == f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    assert content == stored(one).PixelData
    assert body(ask(f"{path_of(one)}/frames/1", accept="application/octet-stream")) == content
    for path, status in (("frames/2", 404), ("frames/0", 404), ("frames/x", 404), ("frames/1,2", 404)):
        assert ask(f"{path_of(one)}/{path}", accept=OCTETS).status_code == status
    assert ask(f"{path_of(one)}/frames/1", accept='multipart/related; type="image/jp2"').status_code == 406


def test_pictures(one: PublishedInstance, ask: Ask) -> None:
    jpeg = ask(f"{path_of(one)}/rendered")
    assert jpeg.headers["Content-Type"] == "image/jpeg"
    assert Image.open(BytesIO(body(jpeg))).size == (16, 16)
    png = Image.open(
        BytesIO(body(ask(f"{path_of(one)}/frames/1/rendered", accept="image/png", window="1000,1,linear")))
    )
    values = stored(one).pixel_array
    assert set(np.unique(np.asarray(png))) <= {0, 255}
    assert np.array_equal(np.asarray(png) > 0, values > 999.5)
    small = Image.open(BytesIO(body(ask(f"{path_of(one)}/rendered", viewport="8,32"))))
    assert small.size == (8, 8)
    part = Image.open(BytesIO(body(ask(f"{path_of(one)}/rendered", viewport="8,8,0,0,4,4", accept="image/png"))))
    assert part.size == (8, 8)
    for path in (path_of(one), path_of(one).rsplit("/instances", 1)[0], path_of(one).split("/series")[0]):
        assert max(Image.open(BytesIO(body(ask(f"{path}/thumbnail")))).size) == 128
    assert ask(f"{path_of(one)}/rendered", accept="image/gif").status_code == 406
    for wrong in (
        {"window": "1"},
        {"window": "1,0,linear"},
        {"window": "nan,5"},
        {"viewport": "99999,1"},
        {"quality": "0"},
    ):
        assert ask(f"{path_of(one)}/rendered", **wrong).status_code == 400, wrong


def test_reading_is_recorded_once_a_minute(study: Study, one: PublishedInstance, ask: Ask) -> None:
    for _ in range(3):
        ask(f"{path_of(one)}/frames/1", accept=OCTETS)
    ask(f"/studies/{study.deidentified_uid}/metadata")
    row = AuditRow.objects.get(event="dicomweb.read", outcome=0)
    assert (row.resource, row.patient) == (study.subject, study.patient_id)


def test_what_is_not_there(study: Study, one: PublishedInstance, ask: Ask) -> None:
    for path in (
        "/studies/1.2.3",
        f"/studies/{study.deidentified_uid}/series/1.2.3",
        f"/studies/{study.deidentified_uid}/series/{one.series_instance_uid}/instances/1.2",
        f"/studies/1.2.3/series/{one.series_instance_uid}/metadata",
    ):
        answer = ask(path, accept="*/*")
        assert answer.status_code == 404, path
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_implicit_little_endian_goes_out_explicit_unless_asked_for(db: None, ask: Ask) -> None:
    bring([as_file(dataset(), implicit=True)])
    row = PublishedInstance.objects.get()
    ((label, content),) = parts(ask(path_of(row), accept=DICOM))
    assert label.endswith(ExplicitVRLittleEndian)
    again = dcmread(BytesIO(content))
    assert again.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(again.pixel_array, stored(row).pixel_array)
    assert again.EchoTime == stored(row).EchoTime
    for wanted in ("*", str(ImplicitVRLittleEndian)):
        ((label, content),) = parts(ask(path_of(row), accept=f"{DICOM}; transfer-syntax={wanted}"))
        assert label.endswith(f"={ImplicitVRLittleEndian}")
        assert content == objects.get(row.object)
    assert ask(path_of(row), accept=f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.90").status_code == 406
    ((_, frame),) = parts(ask(f"{path_of(row)}/frames/1", accept=OCTETS))
    assert frame == stored(row).PixelData


def test_every_transfer_syntax_gives_the_same_pixels(db: None, ask: Ask, test_data: Path) -> None:
    files = sorted(path for path in (test_data / "dicom" / "transfer_syntaxes").rglob("*") if path.is_file())
    seen: dict[str, bytes] = {}
    for number, path in enumerate(files):
        try:
            header = dcmread(path)
        except Exception:
            continue
        if "PixelData" not in header or header.file_meta.TransferSyntaxUID in seen:
            continue
        header.StudyInstanceUID, header.SeriesInstanceUID = f"1.2.9.{number}", f"1.2.9.{number}.1"
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}.1.1"
        out = BytesIO()
        header.save_as(out, enforce_file_format=True)
        bring([out.getvalue()])
        row = PublishedInstance.objects.order_by("-id")[0]
        assert row.transfer_syntax_uid == header.file_meta.TransferSyntaxUID
        ((_, native),) = parts(ask(f"{path_of(row)}/frames/1", accept=OCTETS))
        ((label, as_stored),) = parts(ask(f"{path_of(row)}/frames/1", accept=f"{OCTETS}; transfer-syntax=*"))
        ((_, file),) = parts(ask(path_of(row), accept=DICOM))
        decoded = dcmread(BytesIO(file))
        assert decoded.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert decoded.PixelData[: len(native)] == native
        if header.file_meta.TransferSyntaxUID.is_encapsulated:
            assert not label.startswith("application/octet-stream")
            assert as_stored in objects.get(row.object)
            assert len(as_stored) < len(native)
        assert Image.open(BytesIO(body(ask(f"{path_of(row)}/rendered")))).width == decoded.Columns
        seen[row.transfer_syntax_uid] = native
    assert len(seen) >= 7
    assert len(set(seen.values())) == 1


def test_enhanced_multi_frame(db: None, ask: Ask, test_data: Path) -> None:
    path = next(
        path
        for path in sorted((test_data / "dicom" / "enhanced").rglob("*"))
        if path.is_file()
        and path.stat().st_size < 20 << 20
        and int(dcmread(path, force=True).get("NumberOfFrames") or 1) > 4
    )
    bring([path.read_bytes()])
    row = PublishedInstance.objects.get()
    frames = stored(row).pixel_array
    assert row.frames == len(frames)
    found = parts(ask(f"{path_of(row)}/frames/2,4", accept=OCTETS))
    assert [content for _, content in found] == [frames[1].tobytes(), frames[3].tobytes()]
    assert Image.open(BytesIO(body(ask(f"{path_of(row)}/frames/3/rendered")))).width == frames.shape[2]
    assert len(body(ask(f"{path_of(row)}/metadata"))) > 10_000


def test_native_frames_are_read_without_the_rest_of_the_file(
    db: None, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring([as_file(dataset(size=512))])
    row = PublishedInstance.objects.get()
    expected = stored(row).PixelData

    def whole(*args: Any) -> Any:
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(objects, "get", whole)
    ((_, content),) = parts(ask(f"{path_of(row)}/frames/1", accept=OCTETS))
    assert content == expected


def test_bits_that_do_not_begin_on_an_octet() -> None:
    frames = np.random.default_rng(3).integers(0, 2, (4, 5, 7), dtype=np.uint8)
    packed = pack_bits(frames)
    for index in range(4):
        first, last = index * 35 // 8, ((index + 1) * 35 + 7) // 8
        assert bit_frame(packed[first:last], index, 35) == pack_bits(frames[index])


def test_windows() -> None:
    values = np.array([0, 50, 100, 150, 200], dtype=np.float32)
    assert apply_window(values, 100, 100, "linear-exact").tolist() == [0, 0, 0.5, 1, 1]
    assert apply_window(values, 100.5, 101, "linear").tolist() == [0, 0, 0.5, 1, 1]
    assert apply_window(values, 100, 100, "sigmoid")[2] == 0.5


def test_numbers_that_json_cannot_hold_lose_their_value_only() -> None:
    one = dataset()
    one.add_new(0x00189087, "FD", float("nan"))
    text = read_published(as_file(one)).json
    assert '"00189087":{"vr":"FD"}' in text
    assert "NaN" not in text


def test_two_hundred_instances_need_few_queries(
    db: None, ask: Ask, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    study = bring(study_files(slices=50, sequences=("T1",)))
    with django_assert_max_num_queries(20):
        body(ask(f"/studies/{study.deidentified_uid}/metadata"))
