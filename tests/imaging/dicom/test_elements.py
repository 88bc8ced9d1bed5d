"""The one walk of elements: what a survey forgives and an index refuses, and the limits that both share."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging.dicom import elements as walker
from imaging.dicom.elements import ElementReader, ElementWriter, MalformedDataSet
from imaging.dicom.file_meta import Implementation, content_start, file_meta, meta_values
from tests.factories.dicom_files import MR_CLASS, as_file, dataset

PATIENT_ID, PIXELS = 0x00100020, 0x7FE00010
EXPLICIT = ElementWriter(implicit=False, little=True)


def survey(data: bytes, **arguments):
    return ElementReader(data, little=True).survey(0, len(data), implicit=False, **arguments)


def index(data: bytes, *, implicit: bool = False):
    return ElementReader(data, little=True).elements(0, len(data), implicit=implicit)


def test_what_occurs_twice_is_surveyed_and_not_indexed():
    data = EXPLICIT.element(PATIENT_ID, "LO", b"AB") * 2
    found, end = survey(data, wanted=frozenset({PATIENT_ID}))
    assert end == len(data)
    assert {data[one.start : one.end] for one in found} == {b"AB"}
    with pytest.raises(MalformedDataSet, match="an element occurs twice"):
        index(data)


@pytest.mark.parametrize("vr", [b"ZZ", b"??"])
def test_an_unknown_value_representation_is_read_by_what_follows(vr):
    data = struct.pack("<HH2sH", 0x0010, 0x0020, vr, 2) + b"AB"
    for found in (survey(data, wanted=frozenset({PATIENT_ID}))[0], index(data)):
        assert [(one.vr, data[one.start : one.end]) for one in found] == [("UN", b"AB")]
    for walk in (survey, index):
        with pytest.raises(MalformedDataSet, match="a value representation that no standard knows"):
            walk(data[:-1])


def test_only_a_survey_looks_into_sequences_of_a_known_length():
    broken = EXPLICIT.element(0x00081140, "SQ", EXPLICIT.item(b"\x08\x00\x50\x11UI\x08\x00cut"))
    assert [one.tag for one in index(broken)] == [0x00081140]
    with pytest.raises(MalformedDataSet, match="cut short"):
        survey(broken)
    reader = ElementReader(broken, little=True)
    with pytest.raises(MalformedDataSet, match="cut short"):
        reader.items(reader.elements(0, len(broken), implicit=False)[0], depth=1)


@pytest.mark.parametrize("walk", [survey, index])
def test_both_walks_end_at_the_same_limits(walk, monkeypatch):
    inner = b""
    for _ in range(walker.MAX_DEPTH + 1):
        inner = EXPLICIT.element(0x00081140, "SQ", EXPLICIT.item(inner) + b"\xfe\xff\xdd\xe0\0\0\0\0", undefined=True)
    with pytest.raises(MalformedDataSet, match="nested too deep"):
        walk(inner)
    monkeypatch.setattr(walker, "MAX_ELEMENTS", 3)
    many = b"".join(EXPLICIT.element(0x00100020 + number, "LO", b"") for number in range(4))
    with pytest.raises(MalformedDataSet, match="too many elements"):
        walk(many)


@pytest.mark.parametrize("implicit", [False, True])
def test_an_index_holds_what_a_parser_finds(implicit):
    one = dataset()
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    one.ReferencedImageSequence = [item, Dataset()]
    data = as_file(one, implicit=implicit)
    reader = ElementReader(data, little=True)
    found = reader.elements(content_start(data), len(data), implicit=implicit)
    parsed = dcmread(BytesIO(data))
    assert [element.tag for element in found] == [int(tag) for tag in sorted(parsed.keys())]
    items = reader.items(next(element for element in found if element.tag == 0x00081140), depth=1)
    assert [[element.tag for element in elements] for elements in items] == [[0x00081155], []]


def test_the_file_meta_information_is_what_a_parser_reads():
    head = file_meta(MR_CLASS, "1.2.3.4", "1.2.840.10008.1.2.1", Implementation("2.25.1", "ODD"))
    data = head + EXPLICIT.element(PATIENT_ID, "LO", b"X")
    parsed = dcmread(BytesIO(data))
    assert content_start(data) == len(head)
    assert parsed.file_meta.MediaStorageSOPClassUID == MR_CLASS
    assert parsed.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert parsed.file_meta.ImplementationClassUID == "2.25.1"
    assert parsed.file_meta.ImplementationVersionName == "ODD"
    assert parsed.PatientID == "X"
    assert {tag: value.rstrip(b"\0") for tag, value in meta_values(data).items()} == {
        0x00020002: MR_CLASS.encode(),
        0x00020003: b"1.2.3.4",
        0x00020010: b"1.2.840.10008.1.2.1",
    }
