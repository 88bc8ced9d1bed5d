"""Files that are not as PS3.10 has them, at every door: what pydicom and dcmtk read is taken, what is refused says why."""

from __future__ import annotations

import io
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet

from imaging.archive.filing_header import BadInstance, read_header
from imaging.archive.store_instance import store_instance
from imaging.deidentification.engine import deidentify
from imaging.dicom.elements import MalformedDataSet
from imaging.dicom.part10 import looks_like_dicom, well_formed
from imaging.intake.declaration import Declaration
from imaging.intake.file_import import ingest
from imaging.models import Instance, InstanceState, StudySource
from oncoflow_site.foundation import objects
from tests.factories.deidentification_files import PROFILE
from tests.factories.dicom_files import as_file, dataset


def start_of(data: bytes) -> int:
    return 144 + struct.unpack("<I", data[140:144])[0]


def forms(data: bytes) -> dict[str, bytes]:
    """The same data set as files of many makes."""
    start = start_of(data)
    private = b"\x09\x00\x10\x00LO\x04\x00ACME" + b"\x09\x00\x01\x10%s\x04\x00abcd"
    at = data.index(b"\x10\x00\x10\x00PN")
    extended = b"\x09\x00\x10\x00LO\x04\x00ACME" + b"\x09\x00\x01\x10OX\x00\x00\x04\x00\x00\x00abcd"
    return {
        "well formed": data,
        "no preamble": data[132:],
        "prefix without preamble": data[128:],
        "no head at all": data[start:],
        "preamble, prefix and no meta information": data[:132] + data[start:],
        "group length wrong": data[:140] + struct.pack("<I", 7) + data[144:],
        "group length too long": data[:140] + struct.pack("<I", start - 144 + 16) + data[144:],
        "group length beyond the file": data[:140] + struct.pack("<I", 1 << 30) + data[144:],
        "group length missing": data[:132] + data[144:],
        "private element ??": data[:at] + private.replace(b"%s", b"??") + data[at:],
        "private element OX, two bytes of length": data[:at] + private.replace(b"%s", b"OX") + data[at:],
        "private element OX, four bytes of length": data[:at] + extended + data[at:],
    }


NAMES = list(forms(as_file(dataset())))


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_read_and_deidentified(name: str, implicit: bool) -> None:
    if implicit and "private" in name:
        pytest.skip("implicit VR has no value representations")
    data = _implicit_form(name) if implicit else forms(as_file(dataset()))[name]
    header = read_header(data)
    assert header.sop_instance_uid == "1.2.3.1.1.1"
    stored = header.repaired or data
    one = dcmread(BytesIO(stored))  # without force, every element looked at
    assert one.PixelData == dataset().PixelData
    assert len(str(one)) > 500
    assert (header.repaired is None) == (name == "well formed")
    out = dcmread(BytesIO(deidentify(data, PROFILE).data))
    assert np.array_equal(out.pixel_array, dcmread(BytesIO(as_file(dataset()))).pixel_array)
    assert out.PatientName == PROFILE.pseudonym


def _implicit_form(name: str) -> bytes:
    data = as_file(dataset(), implicit=True)
    start = start_of(data)
    return {
        "well formed": data,
        "no preamble": data[132:],
        "prefix without preamble": data[128:],
        "no head at all": data[start:],
        "preamble, prefix and no meta information": data[:132] + data[start:],
        "group length wrong": data[:140] + struct.pack("<I", 7) + data[144:],
        "group length too long": data[:140] + struct.pack("<I", start - 144 + 16) + data[144:],
        "group length beyond the file": data[:140] + struct.pack("<I", 1 << 30) + data[144:],
        "group length missing": data[:132] + data[144:],
    }[name]


def test_an_unknown_value_representation_inside_a_sequence_is_read() -> None:
    data = as_file(dataset())
    at = data.index(b"\x10\x00\x10\x00PN")
    inner = b"\x09\x00\x10\x00LO\x04\x00ACME" + b"\x09\x00\x01\x10??\x04\x00abcd"
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
    sequence = b"\x08\x00\x40\x11SQ\x00\x00" + struct.pack("<I", len(item)) + item
    data = data[:at] + sequence + data[at:]
    header = read_header(data)
    assert header.repaired is not None
    kept = dcmread(BytesIO(header.repaired)).ReferencedImageSequence[0]
    assert kept[0x0009, 0x1001].VR == "UN"
    assert deidentify(data, PROFILE).data


def test_a_leading_zero_in_a_uid_is_taken() -> None:
    one = dataset()
    one.SOPInstanceUID = "1.2.03.0004.1"
    assert read_header(as_file(one)).sop_instance_uid == "1.2.03.0004.1"
    for wrong in ("1..2", "1.2.x", ".1", "abc"):
        one.SOPInstanceUID = wrong
        with pytest.raises(BadInstance, match="SOPInstanceUID"):
            read_header(as_file(one))


def test_compressed_pixels_without_a_transfer_syntax_are_refused_by_that() -> None:
    parsed = dcmread(BytesIO(as_file(dataset())))
    parsed.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)
    buffer = BytesIO()
    parsed.save_as(buffer)
    data = buffer.getvalue()
    with pytest.raises(MalformedDataSet, match="compressed"):
        well_formed(data[start_of(data) :])
    assert well_formed(data[132:])[132:] != data  # with it, read


@pytest.mark.parametrize(
    "content", [b"", b"hello world " * 40, b"PK\x03\x04" + b"\0" * 200, b"\x1f\x8b" + b"\x08\x00" * 99, b"\0" * 300]
)
def test_what_is_no_dicom_is_not_taken_for_it(content: bytes) -> None:
    assert not looks_like_dicom(content[:132])
    with pytest.raises(MalformedDataSet):
        well_formed(content)


@pytest.mark.django_db
def test_every_form_comes_in_by_files_zips_and_the_web(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    made = []
    for number, name in enumerate(NAMES, start=1):
        made.append(forms(as_file(dataset(number=number)))[name])
    half = len(made) // 2
    for index, data in enumerate(made[:half]):
        (folder / f"IM{index}").write_bytes(data)
    with zipfile.ZipFile(folder / "rest.zip", "w") as archive:
        for index, data in enumerate(made[half:]):
            archive.writestr(f"IM{index}", data)
    result = ingest([folder], Declaration())
    assert result.counts["stored"] == len(made), result.notes
    for instance in Instance.objects.select_related("original"):
        dcmread(BytesIO(objects.get(instance.original)))
    for data in made:
        assert store_instance(data, source=StudySource.STOW, peer="test").duplicate


@pytest.mark.django_db
def test_a_dicomdir_is_called_one_and_every_file_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "medium"
    files = FileSet()
    files.add(dcmread(BytesIO(as_file(dataset(StudyID="1")))))
    files.write(folder)
    (folder / "README.TXT").write_text("read me")
    result = ingest([folder], Declaration())
    assert (result.counts["stored"], result.counts["ignored"], result.counts["refused"]) == (1, 2, 0)
    assert sorted(note.split(":", 1)[0] for note in result.notes) == [
        "DICOMDIR was not used",
        "README.TXT was not used",
    ]
    assert any("DICOMDIR, the directory" in note for note in result.notes)
    stored = store_instance((folder / "DICOMDIR").read_bytes(), source=StudySource.STOW, peer="test")
    assert "DICOMDIR" in stored.reason
    assert stored.status


@pytest.mark.django_db
@pytest.mark.parametrize(("value", "why"), [("31.12.2025", "StudyDate is no date"), ("", "no study date")])
def test_an_unreadable_date_is_called_that(value: str, why: str) -> None:
    one = dataset(SeriesDate=None, AcquisitionDate=None)
    data = as_file(one)
    at = data.index(b"\x08\x00\x20\x00DA")
    stored = value.encode() + b" " * (len(value) % 2)
    data = data[: at + 6] + struct.pack("<H", len(stored)) + stored + data[at + 16 :]
    result = store_instance(data, source=StudySource.STOW, peer="test")
    assert result.quarantined
    assert why in result.reason
    assert "2025" not in result.reason
    assert Instance.objects.get().state == InstanceState.QUARANTINED


def test_a_date_with_dashes_is_a_date() -> None:
    data = as_file(dataset(SeriesDate=None, AcquisitionDate=None))
    at = data.index(b"\x08\x00\x20\x00DA")
    data = data[: at + 6] + struct.pack("<H", 10) + b"2026-03-11" + data[at + 16 :]
    moment = read_header(data).performed_at
    assert moment is not None
    assert moment.date().isoformat() == "2026-03-11"


def test_bytes_of_a_stream_are_not_changed_where_they_are_well_formed() -> None:
    data = as_file(dataset())
    assert well_formed(data) is data
    assert read_header(io.BytesIO(data).getvalue()).repaired is None
