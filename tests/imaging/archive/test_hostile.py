"""What a door must survive: files made to take memory or time, or to get past the checks that the ordinary tests make."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tracemalloc
import zipfile

import nibabel as nib
import numpy as np
import pytest

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from imaging.archive.store_instance import StoredInstance, store_instance
from imaging.dicom.file_meta import content_start
from imaging.dicomweb.qido_query import LEVELS, BadQuery, parse_query
from imaging.geometry.grid import GeometryError
from imaging.geometry.nifti import read_nifti
from imaging.intake.byte_sources import MemorySource
from imaging.intake.declaration import Declaration
from imaging.intake.file_contents import contents
from imaging.intake.file_import import ingest
from imaging.models import Instance, InstanceState, Series, Study, StudySource
from oncoflow_site.foundation.errors import UserVisibleError
from tests.factories.dicom_files import as_file, dataset


def peak_mb(act) -> float:
    """Most memory that ``act`` held at once, MB."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def zipped(body: bytes, method: int) -> bytes:
    """An archive of one member that says of ``body`` to be packed by ``method``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("1.dcm", body)
    data = bytearray(out.getvalue())
    entry = data.rfind(b"PK\x01\x02")
    for place in (8, entry + 10):
        struct.pack_into("<H", data, place, method)
    for place in (22, entry + 24):
        struct.pack_into("<I", data, place, 0xFFFFFFF0)
    return bytes(data)


def test_a_zip_of_a_method_that_unpacks_without_limit_is_refused_unopened():
    """zipfile unpacks 4 KiB of bzip2 at once, whatever was asked for: 2 KiB of them are gigabytes."""
    packer = bz2.BZ2Compressor(9)
    bomb = b"".join([*(packer.compress(bytes(1 << 22)) for _ in range(16)), packer.flush()])

    def read() -> None:
        with pytest.raises(UserVisibleError, match="packed in a way"):
            list(contents(MemorySource("study.zip", zipped(bomb, zipfile.ZIP_BZIP2))))

    assert peak_mb(read) < 8


def test_a_member_is_unpacked_no_further_than_its_archive_may():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("1.dcm", "w") as member:
        member.write(bytes(128) + b"DICM")
        for _ in range(6):
            member.write(bytes(16 << 20))

    def read() -> None:
        with pytest.raises(UserVisibleError) as refused:
            list(contents(MemorySource("study.zip", out.getvalue())))
        assert refused.value.code == "zip-bomb"

    assert peak_mb(read) < 160  # 64 MiB and a buffer that grows


@pytest.mark.parametrize("shape", [(1000, 800, 300), (30000, 30000, 30000), (0, 5, 5)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_header_that_lies_takes_no_memory(shape, packed):
    """nibabel makes room for what the header says before it reads."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = header.binaryblock + bytes(104)

    def read() -> None:
        with pytest.raises(GeometryError):
            read_nifti(gzip.compress(data) if packed else data)

    assert peak_mb(read) < 8


def store(data: bytes) -> StoredInstance:
    """Through the door of STOW-RS, where one instance must not disturb the next."""
    return store_instance(data, source=StudySource.STOW, peer="test")


def with_element(data: bytes, tag: int, vr: bytes, value: bytes) -> bytes:
    """The file (explicit VR little endian) with one more element, in its place."""
    place = content_start(data)
    while True:
        group, number, found, length = struct.unpack_from("<HH2sH", data, place)
        if group << 16 | number > tag:
            break
        long = found in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        place += 12 + struct.unpack_from("<I", data, place + 8)[0] if long else 8 + length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    size = struct.pack("<HI", 0, len(value)) if vr in (b"OB", b"SQ") else struct.pack("<H", len(value))
    return data[:place] + head + size + value + data[place:]


@pytest.mark.django_db
@pytest.mark.parametrize("tag", [0x52009229, 0x52009230])
@pytest.mark.parametrize("vr", [b"LO", b"OB"])
def test_a_sequence_of_another_value_representation_is_no_reason_to_fail(tag, vr):
    assert store(with_element(as_file(dataset()), tag, vr, b"abcd")).status == 0
    assert Series.objects.get().sequence == "T1"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "day",
    [{"StudyDate": "00010101", "TimezoneOffsetFromUTC": "+1400"}, {"StudyDate": "99991231", "StudyTime": "235959"}],
)
def test_a_date_that_no_examination_has_is_no_date(day):
    """No time zone can hold it: it was an error of the service and took the instances beside it along."""
    far = {**{f"{name}Date": None for name in ("Series", "Acquisition", "Content")}, **day}
    stored = store(as_file(dataset(**far)))
    assert (stored.status, stored.quarantined, stored.reason) == (0, True, "StudyDate is no date of an examination")


@pytest.mark.django_db
def test_a_fault_of_ours_asks_the_sender_to_try_again_and_says_nothing_of_the_instance(monkeypatch, caplog):
    def stumble(facts):
        raise KeyError("Quastenflosser^Hildegund")

    monkeypatch.setattr("imaging.archive.study_records.acquisition_parameters", stumble)
    stored = store(as_file(dataset()))
    assert (stored.status, stored.reason) == (0xA700, "the service failed (KeyError)")
    assert " stumble < imaging/archive/study_records.py:" in caplog.text
    assert "Quasten" not in caplog.text
    assert not Instance.objects.exists()
    assert "Quasten" not in str(AuditRow.objects.get(event="dicom.refuse").detail)


@pytest.mark.django_db
def test_the_modality_is_a_term_of_the_standard_or_other():
    """Its column is not encrypted."""
    store(as_file(dataset(Modality="QUASTENFLOSSER")))
    assert (Series.objects.get().modality, Study.objects.get().modality) == ("OT", "OT")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("number", "why"), [("4711\\4712", "has several values"), ("4" * 70 + "711", "is longer than it may be")]
)
def test_a_patient_id_that_could_be_cut_to_somebody_elses_is_kept_apart(number, why):
    stored = store(as_file(dataset(PatientID=number)))
    assert (stored.quarantined, stored.reason) == (True, f"PatientID {why}")
    assert clinical.find_patient("DEMOHOSP", "4711") is None


@pytest.mark.django_db
def test_files_that_name_another_known_patient_than_declared_are_kept_apart(tmp_path, settings):
    """A person chose the wrong patient, or the wrong file: either way nobody knows whose it is."""
    authority = settings.ONCOFLOW_ASSIGNING_AUTHORITY
    for number in ("MRN-4711-X", "MRN-12"):
        told = IdentityData(family="Quastenflosser", identifiers=(Identifier(authority, number),))
        clinical.register_patient(told, source="test")
    (tmp_path / "1.dcm").write_bytes(as_file(dataset(PatientID="MRN-4711-X")))
    result = ingest([tmp_path], Declaration(mrn="MRN-12"))
    assert result.counts["quarantined"] == 1
    assert Instance.objects.get().reason == "its header names another patient than was declared"
    (tmp_path / "1.dcm").write_bytes(as_file(dataset(PatientID="SUBJECT-01", study="1.2.3.2")))
    assert ingest([tmp_path], Declaration(mrn="MRN-12")).counts["stored"] == 1
    assert Instance.objects.exclude(state=InstanceState.QUARANTINED).get().study.patient == clinical.find_patient(
        authority, "MRN-12"
    )


@pytest.mark.parametrize("value", ["4711\0", "4711\n", "\x1b"])
def test_a_query_with_control_characters_is_refused_before_the_database_stumbles(value):
    with pytest.raises(BadQuery):
        parse_query([("PatientID", value)], LEVELS["studies"])
