"""Taking in instances: durable, filed, never twice, contradictions kept apart."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from django.conf import settings as django_settings
from pydicom import dcmread
from pydicom.dataset import Dataset

from audit.models import AuditRow
from clinical import services as clinical
from clinical.models import AssigningAuthority, Patient
from imaging.archive import completion
from imaging.archive.filing_header import read_header
from imaging.archive.store_instance import ReceiveCache, store_instance
from imaging.dicom.content_hash import NotComparable, canonical_sha256
from imaging.dicom.elements import MalformedDataSet
from imaging.dicom.preflight import scan
from imaging.identifiers import open_series, open_sop_instance_uid, open_study
from imaging.models import Instance, InstanceState, MrSequence, Series, Study, StudyState
from imaging.states import STUDY_MACHINE
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove
from oncoflow_site.foundation.models import Event, Job, StoredObject
from tests.factories import studies
from tests.factories.dicom_files import as_file, dataset, study_files
from tests.factories.received import take

pytestmark = pytest.mark.django_db


def test_an_instance_is_stored_as_it_came_and_filed():
    data = as_file(dataset(sequence="T1c"))
    stored = take(data)
    assert (stored.status, stored.duplicate, stored.reason) == (0, False, "")
    study = Study.objects.get(pk=stored.study_id)
    series = Series.objects.get(study=study)
    instance = Instance.objects.get(series=series)
    assert objects.get(instance.original) == data
    assert instance.state == InstanceState.RECEIVED
    assert study.performed_at == datetime(2026, 3, 11, 8, 30, tzinfo=UTC)
    assert series.sequence == MrSequence.T1C
    subject = study.patient.key_subject
    identity = open_study(subject, study.ciphertext)
    assert (identity.study_instance_uid, identity.accession) == ("1.2.3.1", "ACC-77001")
    assert open_series(subject, series.ciphertext).series_instance_uid == "1.2.3.1.1"
    assert open_sop_instance_uid(subject, instance.ciphertext) == "1.2.3.1.1.1"
    found = clinical.find_patient(django_settings.ONCOFLOW_ASSIGNING_AUTHORITY, "MRN-4711-X")
    assert found == study.patient
    assert found.provisional


def test_no_row_holds_anything_of_the_patient():
    take(as_file(dataset()))
    for model in (Study, Series, Instance, Patient, AuditRow, Job, Event):
        for row in model.objects.values():
            text = repr({name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()})
            for secret in ("Quastenflosser", "Hildegund", "MRN-4711", "ACC-77001", "1.2.3.1", "Gertrud", "19610423"):
                assert secret not in text, (model.__name__, secret)


def test_the_same_again_does_nothing():
    data = as_file(dataset())
    first, again = take(data), take(data)
    assert again.duplicate
    assert again.study_id == first.study_id
    assert Instance.objects.count() == StoredObject.objects.count() == 1


def test_the_same_uid_with_other_content_is_quarantined_once():
    take(as_file(dataset()))
    other = as_file(dataset(EchoTime=3.1))
    assert take(other).quarantined
    assert take(other).duplicate
    kept = Instance.objects.get(state=InstanceState.QUARANTINED)
    assert kept.conflicts_with is not None
    assert kept.series is None
    assert objects.get(kept.original) == other
    assert Instance.objects.count() == 2


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"StudyInstanceUID": None}, 0xA900),
        ({"SeriesInstanceUID": None}, 0xA900),
        ({"StudyInstanceUID": "1.2.x"}, 0xC000),
        ({"PixelData": None}, 0xA900),
    ],
)
def test_an_incomplete_data_set_is_refused_and_leaves_nothing(changes, status):
    one = dataset()
    data = None
    for keyword, value in changes.items():
        if value is None:
            delattr(one, keyword)
        else:
            data = as_file(one).replace(b"1.2.3.1\0", value.encode().ljust(8, b"\0"))
    stored = take(data or as_file(one))
    assert stored.status == status
    assert stored.reason
    assert not Instance.objects.exists()
    assert not StoredObject.objects.exists()
    assert AuditRow.objects.filter(event="dicom.refuse").count() == 1


@pytest.mark.parametrize("length", [0, 1, 100, 131, 132, 140, 200, 500, -100])
def test_what_is_cut_short_is_refused(length):
    stored = take(as_file(dataset())[:length])
    assert stored.status == 0xC000, hex(stored.status)
    assert not Instance.objects.exists()


def test_garbage_behind_the_prefix_is_refused():
    stored = take(b"\0" * 128 + b"DICM" + bytes(range(256)) * 40)
    assert stored.status == 0xC000
    assert not Instance.objects.exists()


def test_low_disk_space_is_a_status(settings):
    settings.ONCOFLOW_MIN_FREE_BYTES = 1 << 60
    assert take(as_file(dataset())).status == 0xA700
    assert not StoredObject.objects.exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "structured report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "ultrasound"),
        ({"BurnedInAnnotation": "YES"}, "burned"),
    ],
)
def test_what_is_no_image_of_ours_is_quarantined_at_the_door(changes, word):
    stored = take(as_file(dataset(**changes)))
    assert stored.status == 0
    assert stored.quarantined
    assert word in stored.reason
    instance = Instance.objects.get()
    assert instance.state == InstanceState.QUARANTINED
    assert instance.study_id == stored.study_id
    assert not Series.objects.exists()


def test_an_instance_of_another_patient_in_the_study_is_kept_apart():
    take(as_file(dataset(number=1)))
    stored = take(as_file(dataset(number=2, PatientID="MRN-9")))
    assert stored.quarantined
    assert Instance.objects.get(state=InstanceState.QUARANTINED).study is None
    assert Patient.objects.count() == 1


def test_no_patient_id_is_never_guessed():
    stored = take(as_file(dataset(PatientID="")))
    assert stored.quarantined
    assert not Patient.objects.exists()
    assert Instance.objects.get().original.subject == "inbound"


def test_the_issuer_tells_two_patients_with_one_number_apart():
    AssigningAuthority.objects.create(name="OTHERHOSP")
    one = take(as_file(dataset(study="1.2.3.1")))
    two = take(as_file(dataset(study="1.2.3.2", IssuerOfPatientID="OTHERHOSP")))
    assert Study.objects.get(pk=one.study_id).patient != Study.objects.get(pk=two.study_id).patient


def test_a_study_in_order_with_a_cache_makes_one_audit_row():
    cache = ReceiveCache()
    for data in study_files(slices=3):
        assert take(data, cache=cache).status == 0
    assert Instance.objects.count() == 12
    assert {one.sequence for one in Series.objects.all()} == {"T1", "T1c", "T2", "FLAIR"}
    # The test's own transaction never commits, so the cache learns nothing: rows are at most one an instance.
    assert AuditRow.objects.filter(event="study.receive").exists()


def quiet(study: Study) -> None:
    Study.objects.filter(pk=study.pk).update(last_received_at=now() - timedelta(hours=1))


def test_quiet_completes_and_a_late_instance_reopens():
    stored = take(as_file(dataset(number=1)))
    study = Study.objects.get(pk=stored.study_id)
    job = Job.objects.get(kind="imaging.complete_study")
    assert job.run_after > now()
    assert not completion.complete_if_quiet(study)
    assert Job.objects.filter(kind="imaging.complete_study").count() == 2, "it looks again later"
    quiet(study)
    assert completion.complete_if_quiet(Study.objects.get(pk=study.pk))
    assert Study.objects.get(pk=study.pk).state == StudyState.COMPLETE
    assert Event.objects.filter(kind="study.complete").count() == 1
    assert not completion.complete_if_quiet(Study.objects.get(pk=study.pk))

    take(as_file(dataset(number=1)))
    assert Study.objects.get(pk=study.pk).state == StudyState.COMPLETE, "a duplicate changes nothing"
    take(as_file(dataset(number=2)))
    study = Study.objects.get(pk=study.pk)
    assert (study.state, study.generation) == (StudyState.RECEIVING, 2)
    assert Event.objects.filter(kind="study.reopened").count() == 1
    quiet(study)
    assert completion.complete_if_quiet(Study.objects.get(pk=study.pk))
    assert Event.objects.filter(kind="study.complete").count() == 2


def test_a_structured_report_that_comes_late_does_not_reopen():
    stored = take(as_file(dataset(number=1)))
    study = Study.objects.get(pk=stored.study_id)
    completion.complete(study)
    take(as_file(dataset(number=2, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")))
    assert Study.objects.get(pk=study.pk).state == StudyState.COMPLETE


@pytest.mark.parametrize(("state", "event"), list(STUDY_MACHINE.pairs()))
def test_every_pair_of_the_study_machine(state, event):
    stored = take(as_file(dataset()))
    study = Study.objects.get(pk=stored.study_id)
    Study.objects.filter(pk=study.pk).update(state=state)
    if (state, event) in STUDY_MACHINE.table:
        STUDY_MACHINE.advance(study, event)
        assert Study.objects.get(pk=study.pk).state == STUDY_MACHINE.table[state, event]
    else:
        with pytest.raises(IllegalMove):
            STUDY_MACHINE.advance(study, event)
        assert Study.objects.get(pk=study.pk).state == state


def test_one_target_per_event():
    for event in STUDY_MACHINE.events:
        assert len({target for (_, name), target in STUDY_MACHINE.table.items() if name == event}) == 1


def test_a_later_series_brings_the_accession_number():
    study = Study.objects.get(pk=take(as_file(dataset(series="1", AccessionNumber=""))).study_id)
    assert study.accession_index == ""
    take(as_file(dataset(series="2")))
    study.refresh_from_db()
    assert open_study(study.patient.key_subject, study.ciphertext).accession == "ACC-77001"


def test_odd_values_in_the_header_do_no_harm():
    one = dataset()
    one.SeriesNumber = 2**31 - 1
    one.add_new(0x00180081, "LO", "not a number")
    one.PatientName = "A" * 60 + "^" + "B" * 3
    nested = Dataset()
    nested.PatientID = "MRN-4711-X"
    one.RequestAttributesSequence = [nested]
    stored = take(as_file(one))
    assert stored.status == 0
    assert Series.objects.get().sequence in MrSequence.values


def blob(*, implicit: bool = False, front: bytes = b"", back: bytes = b"") -> bytes:
    """A good file with bytes in front of its pixels and behind them."""
    data = as_file(dataset(), implicit=implicit)
    pixels = data.index(b"\xe0\x7f\x10\x00")
    return data[:pixels] + front + data[pixels:] + back


TINY = b"\x08\x00\x55\x00LO\0\0"  # an empty element
OPEN = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # a sequence and its item


@pytest.mark.parametrize(
    "data",
    [
        blob(front=TINY * 2_000_000),
        blob(front=b"\x08\x00\x15\x11SQ\0\0" + (8_000_008).to_bytes(4, "little") + b"\xfe\xff\x00\xe0"
             + (8_000_000).to_bytes(4, "little") + TINY * 1_000_000),
        blob(front=OPEN * 200_000),
        blob(front=OPEN + b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000),
        blob(front=b"\0" * 8_000_000),
        blob(back=TINY * 2_000_000),
    ],
    ids=["many", "many in a sequence", "deep", "many items", "zeros", "many behind"],
)  # fmt: skip
def test_a_small_file_of_very_many_elements_costs_nothing(data):
    began = time.process_time()
    assert take(data).status == 0xC000
    assert time.process_time() - began < 5.0  # a parser would take minutes
    assert not Instance.objects.exists()


def test_a_request_that_names_another_instance_is_refused():
    data = as_file(dataset())
    other = data.replace(b"1.2.3.1.1.1\0", b"1.2.3.1.1.9\0", 1)
    assert take(other).status == 0xA900
    assert store_instance(other, source="ingest", peer="ingest").status == 0


def test_zeros_behind_the_pixels_are_padding():
    assert take(blob(back=b"\0" * 8_000_000)).status == 0


@pytest.mark.parametrize("implicit", [False, True])
def test_the_skeleton_is_walked_right(implicit):
    one = dataset()
    inner = Dataset()
    inner.PatientID = "x"
    inner.is_undefined_length_sequence_item = True
    one.RequestAttributesSequence = [inner, Dataset()]
    one["RequestAttributesSequence"].is_undefined_length = True
    one.ReferencedImageSequence = [Dataset(), inner]
    data = as_file(one, implicit=implicit)
    layout = scan(data, implicit=implicit, little=True)
    assert layout.end == len(data)
    assert layout.pixels is not None
    assert data[layout.pixels : layout.pixels + 4] == b"\xe0\x7f\x10\x00"
    assert layout.pixel_bytes == 512
    for cut in range(layout.pixels + 1, len(data)):
        with pytest.raises(MalformedDataSet):
            scan(data[:cut], implicit=implicit, little=True)


def test_real_files_pass_the_walk(test_data):
    for folder in ("transfer_syntaxes", "enhanced", "failing"):
        for path in sorted((test_data / "dicom" / folder).rglob("*")):
            data = path.read_bytes() if path.is_file() else b""
            if data[128:132] == b"DICM":
                assert read_header(data, from_network=False).study_uid, path.name


def recoded(path, syntax: str | None = None) -> bytes:
    """The slice of the nine, under one UID: what the nine files say differently about themselves is taken away."""
    one = dcmread(path)
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    one.SeriesNumber = 1
    one.StudyDate = one.StudyDate or "20200101"
    one.PatientID = one.PatientID or "MRN-9"
    for keyword in ("DerivationDescription", "DerivationCodeSequence"):
        if keyword in one:
            delattr(one, keyword)
    buffer = BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_one_slice_in_nine_transfer_syntaxes_is_one_instance(test_data):
    files = [recoded(path) for path in sorted((test_data / "dicom" / "transfer_syntaxes").glob("*.dcm"))]
    assert len(files) == 9
    assert len({one.split(b"DICM", 1)[1] for one in files}) == 9
    assert not take(files[0]).duplicate
    for data in files[1:]:
        again = take(data)
        assert (again.status, again.duplicate, again.quarantined) == (0, True, False)
    assert Instance.objects.count() == StoredObject.objects.count() == 1
    changed = dcmread(BytesIO(files[3]))
    changed.decompress(generate_instance_uid=False)
    changed.PixelData = bytes([changed.PixelData[0] ^ 1]) + changed.PixelData[1:]  # one bit of one voxel
    buffer = BytesIO()
    changed.save_as(buffer, enforce_file_format=True)
    assert take(buffer.getvalue()).quarantined


def test_the_canonical_form_sees_values_not_their_encoding():
    one = dataset(PatientComments="a")
    block = one.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "US", [1, 258])
    block.add_new(0x11, "LO", "some text")
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    inner.add_new(0x00290010, "LO", "X")
    block.add_new(0x12, "SQ", [inner])
    one.ReferencedImageSequence = [inner, Dataset()]
    explicit, implicit = as_file(one), as_file(one, implicit=True)
    assert canonical_sha256(explicit) == canonical_sha256(implicit)
    one["ReferencedImageSequence"].is_undefined_length = True
    assert canonical_sha256(as_file(one)) == canonical_sha256(explicit)
    one.PatientComments = "b"
    assert canonical_sha256(as_file(one)) != canonical_sha256(explicit)
    one.PatientComments = "a"
    block[0x11].value = "some texT"
    assert canonical_sha256(as_file(one)) != canonical_sha256(explicit)
    block[0x11].value = "some text"
    inner.ReferencedSOPInstanceUID = "1.2.4"
    assert canonical_sha256(as_file(one)) != canonical_sha256(explicit)


def test_what_cannot_be_decoded_counts_as_other_content():
    first = dataset()
    assert not take(as_file(first)).quarantined
    other = dataset(Rows=30_000, Columns=30_000, NumberOfFrames=100)
    assert take(as_file(other)).quarantined
    with pytest.raises(NotComparable):
        canonical_sha256(as_file(other))


def test_ct_is_stored_and_never_segmented_and_that_is_said():
    ct = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT", "SeriesDescription": "t1 mprage"}
    for number in (1, 2):
        assert not take(as_file(dataset(number=number, **ct))).quarantined
    study = Study.objects.get()
    assert (study.modality, Series.objects.get().modality) == ("CT", "CT")
    completion.complete(study)
    # even where a person said that it shows T1
    Series.objects.update(sequence=MrSequence.T1)
    studies.run_waiting("imaging")
    study.refresh_from_db()
    assert (study.state, study.flag_code) == (StudyState.FLAGGED, "not-mr")
    assert study.flag_message == "This is a CT study; only MR is segmented."
    assert Instance.objects.filter(state=InstanceState.DEIDENTIFIED).count() == 2, "it can be looked at"
    assert not study.volume_sets.exists()


def element(tag: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length) + value


@pytest.mark.parametrize(
    "front",
    [
        element(0x00091010, b"OB", 0xFFFFFFFE),
        element(0x00091010, b"UN", 0x7FFFFFFF),
        element(0x00091010, b"OB", 0xFFFFFFFF, b"x" * 100),
        struct.pack("<HH2sH", 0x0010, 0x0020, b"ZZ", 0xFFFE),
    ],
    ids=["4 GB", "2 GB", "undefined length without items", "a VR that does not exist"],
)
def test_lengths_beyond_the_file_are_refused(front):
    assert take(blob(front=front)).status == 0xC000
    assert not Instance.objects.exists()


def test_a_number_where_a_text_belongs_is_refused():
    data = as_file(dataset())
    tag = data.index(b"\x10\x00\x20\x00LO")
    for vr in (b"US", b"FL", b"AT"):
        assert take(data[: tag + 4] + vr + data[tag + 6 :]).status == 0xA900
    assert not Study.objects.exists()
