"""What a series shows, from headers as scanners write them; stacks; overrides; the administration pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from django.core.exceptions import PermissionDenied
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from audit.models import AuditRow
from clinical import services as clinical
from clinical.models import User
from imaging.archive.store_instance import store_instance
from imaging.dicom.image_plane import VolumeRefused
from imaging.dicom.image_stack import stack_datasets
from imaging.models import Series, Study
from imaging.recognition.overrides import override_sequence
from imaging.recognition.rules import recognise, recognise_name
from imaging.recognition.select import best_series
from oncoflow_site.foundation.models import Job
from tests.factories.dicom_files import as_file, dataset


def header(**values) -> Dataset:
    one = Dataset()
    one.Modality = "MR"
    one.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return one


GR, SE, IR = "GR", "SE", "IR"
CASES = [
    ("T1", {"ScanningSequence": [GR, IR], "RepetitionTime": 2300, "EchoTime": 2.98, "InversionTime": 900, "FlipAngle": 9}),
    ("T1", {"ScanningSequence": GR, "RepetitionTime": 6.9, "EchoTime": 2.8, "InversionTime": 400, "FlipAngle": 11}),
    ("T1", {"ScanningSequence": GR, "RepetitionTime": 8.1, "EchoTime": 3.7, "FlipAngle": 8, "SeriesDescription": "T1W_3D_TFE"}),
    ("T1", {"ScanningSequence": SE, "RepetitionTime": 550, "EchoTime": 12}),
    ("T1", {"ScanningSequence": [SE, IR], "RepetitionTime": 2200, "EchoTime": 10, "InversionTime": 860}),
    ("T1", {"ScanningSequence": GR, "RepetitionTime": 250, "EchoTime": 2.5, "FlipAngle": 70, "SeriesDescription": "t1_fl2d"}),
    ("unknown", {"ScanningSequence": GR, "RepetitionTime": 8.6, "EchoTime": 4, "FlipAngle": 20}),
    ("T1c", {"ScanningSequence": SE, "RepetitionTime": 550, "EchoTime": 12, "ContrastBolusAgent": "Gadovist"}),
    ("T1c", {"ScanningSequence": SE, "RepetitionTime": 550, "EchoTime": 12, "SeriesDescription": "T1 SE AX +C"}),
    ("T1c", {"ScanningSequence": SE, "RepetitionTime": 550, "EchoTime": 12, "SeriesDescription": "t1_se_tra_KM"}),
    ("T1", {"ScanningSequence": SE, "RepetitionTime": 550, "EchoTime": 12, "ContrastBolusAgent": "NONE"}),
    ("T1", {"ScanningSequence": SE, "RepetitionTime": 550, "EchoTime": 12, "SeriesDescription": "T1 pre contrast"}),
    ("T2", {"ScanningSequence": SE, "RepetitionTime": 5000, "EchoTime": 100}),
    ("T2", {"ScanningSequence": SE, "RepetitionTime": 3200, "EchoTime": 408, "MRAcquisitionType": "3D"}),
    ("T2", {"ScanningSequence": SE, "RepetitionTime": 5000, "EchoTime": 100, "ContrastBolusAgent": "Dotarem"}),
    ("FLAIR", {"ScanningSequence": [SE, IR], "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}),
    ("FLAIR", {"ScanningSequence": [SE, IR], "RepetitionTime": 4800, "EchoTime": 352, "InversionTime": 1650}),
    ("FLAIR", {"ScanningSequence": [SE, IR], "RepetitionTime": 9000, "EchoTime": 120}),
    ("FLAIR", {"ScanningSequence": "RM", "RepetitionTime": 11000, "EchoTime": 125, "InversionTime": 2800}),
    ("other", {"ScanningSequence": "EP", "RepetitionTime": 4000, "EchoTime": 90}),
    ("other", {"ScanningSequence": GR, "RepetitionTime": 28, "EchoTime": 20, "FlipAngle": 15}),
    ("other", {"ScanningSequence": SE, "RepetitionTime": 3000, "EchoTime": 15}),
    ("other", {"ScanningSequence": GR, "RepetitionTime": 7, "EchoTime": 3, "FlipAngle": 20,
               "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    ("other", {"ScanningSequence": SE, "RepetitionTime": 5000, "EchoTime": 90, "ImageType": ["DERIVED", "PRIMARY", "ADC"]}),
    ("other", {"ScanningSequence": SE, "RepetitionTime": 5000, "EchoTime": 90, "DiffusionBValue": 1000.0}),
    ("other", {"Modality": "CT"}),
    ("T2", {"SeriesDescription": "AX T2 FRFSE"}),
    ("FLAIR", {"SeriesDescription": "Ax T2 FLAIR"}),
    ("other", {"SeriesDescription": "AX T2* GRE"}),
    ("unknown", {"SeriesDescription": "Serie 4"}),
    ("unknown", {}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "values"), CASES)
def test_headers(expected, values):
    found = recognise(header(**values))
    assert found.sequence == expected, found.reason
    assert 0 <= found.confidence <= 1
    assert found.reason


def test_a_description_that_contradicts_the_physics_lowers_the_confidence_only():
    physics = {"ScanningSequence": [SE, IR], "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}
    sure = recognise(header(**physics, SeriesDescription="FLAIR"))
    doubtful = recognise(header(**physics, SeriesDescription="T1 mprage"))
    assert sure.sequence == doubtful.sequence == "FLAIR"
    assert doubtful.confidence < sure.confidence
    only_said = recognise(header(SeriesDescription="FLAIR"))
    assert only_said.confidence <= 0.5


@pytest.mark.parametrize("value", ["", "abc", "1e99", "nan", None])
def test_odd_numbers_do_no_harm(value):
    one = header(ScanningSequence=SE)
    if value is not None:
        one.add_new(0x00180080, "LO", value)
        one.add_new(0x00180081, "LO", value)
    assert recognise(one).sequence == "unknown"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-1_t1.nii.gz", "T1"), ("a-t1c.nii", "T1c"), ("x_t1gd.nii.gz", "T1c"), ("T1N.nii.gz", "T1"), ("t2f.nii.gz", "FLAIR"),
        ("x_fla.nii.gz", "FLAIR"), ("x_flair.nii.gz", "FLAIR"), ("t2w.nii.gz", "T2"), ("seg-BraTS23_1.nii.gz", None),
        ("mask.nii", None),
    ],
)  # fmt: skip
def test_file_names(name, expected):
    assert recognise_name(name) == expected


def stacked(**changes) -> list[Dataset]:
    return [dcmread(__import__("io").BytesIO(as_file(dataset(number=number, **changes)))) for number in range(1, 7)]


def test_a_stack_is_sorted_by_place_and_rescaled():
    slices = stacked(RescaleSlope="2", RescaleIntercept="-10")
    stack = stack_datasets(slices[::-1])
    assert stack.array.shape == (6, 16, 16)
    assert stack.array.dtype == np.float32
    assert np.array_equal(stack.array[0], slices[0].pixel_array * 2.0 - 10)
    assert np.allclose(stack.affine_ras @ [0, 0, 0, 1], [8, 8, 2, 1])
    assert np.allclose(np.diag(stack.affine_ras), [-1, -1, 2, 1])


def test_a_slice_that_came_twice_is_used_once_and_said():
    slices = stacked()
    stack = stack_datasets([*slices, slices[2]])
    assert np.array_equal(stack.array, stack_datasets(slices).array)
    assert stack.frames == stack_datasets(slices).frames
    assert any("came twice" in one for one in stack.warnings)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s.pop(3), "missing-slice"),
        (lambda s: setattr(s[3], "ImagePositionPatient", s[2].ImagePositionPatient), "duplicate-slice"),
        (lambda s: setattr(s[3], "ImagePositionPatient", [-8, -8, 8.7]), "uneven-slices"),
        (
            lambda s: [setattr(o, "ImagePositionPatient", [-8, -8 + 0.4 * i, 2.0 * i]) for i, o in enumerate(s)],
            "gantry-tilt",
        ),
        (lambda s: setattr(s[1], "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "mixed-orientation"),
        (lambda s: setattr(s[1], "PixelSpacing", [2, 2]), "mixed-spacing"),
        (lambda s: delattr(s[1], "ImagePositionPatient"), "no-geometry"),
        (lambda s: [setattr(o, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]) for o in s], "no-geometry"),
        (lambda s: setattr(s[0], "PixelData", s[0].PixelData[:50]), "undecodable"),
        (lambda s: setattr(s[0], "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
        (lambda s: s.__delitem__(slice(2, None)), "not-a-volume"),
        (lambda s: s.clear(), "no-images"),
        (lambda s: setattr(s[0], "Rows", 60000) or setattr(s[0], "Columns", 60000), "too-large"),
    ],
)
def test_what_is_no_volume_is_refused_by_name(change, code):
    slices = stacked()
    change(slices)
    with pytest.raises(VolumeRefused) as caught:
        stack_datasets(slices)
    assert caught.value.code == code


def readable(folder: Path) -> list[Dataset]:
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            found.append(dcmread(path))
        except (InvalidDicomError, IsADirectoryError, OSError):
            continue
    return found


@pytest.mark.parametrize(
    ("folder", "codes"),
    [
        ("sliceincrement/001", {"missing-slice", "uneven-slices"}), ("sliceincrement/002", {"missing-slice", "uneven-slices"}),
        ("sliceorientation/001", {"mixed-orientation"}), ("slicecount/001", {"not-a-volume"}),
        ("gantrytilting/001", {"gantry-tilt"}), ("notavolume/001", {"duplicate-slice", "not-a-volume"}),
    ],
)  # fmt: skip
def test_real_series_that_are_no_volumes(test_data, folder, codes):
    with pytest.raises(VolumeRefused) as caught:
        stack_datasets(readable(test_data / "dicom" / "failing" / folder))
    assert caught.value.code in codes


def test_a_real_volume_lies_where_its_header_says(test_data):
    slices = readable(test_data / "dicom" / "deidentified" / "GE_IRSPGR_196_mri_reface")
    stack = stack_datasets(slices)
    assert stack.array.shape == (196, 256, 256)
    for one in (slices[0], slices[100]):
        place = np.append(np.asarray(one.ImagePositionPatient, float) * [-1, -1, 1], 1)
        index = np.linalg.solve(stack.affine_ras, place)
        assert np.allclose(index[:2], 0, atol=1e-2)
        assert np.array_equal(stack.array[round(index[2])], one.pixel_array)
    assert recognise(slices[0]).sequence == "T1"


@pytest.mark.django_db
def test_a_person_overrides_on_the_record():
    stored = store_instance(as_file(dataset(sequence="T2")), source="dicom", peer="X")
    study, series = Study.objects.get(pk=stored.study_id), Series.objects.get()
    assert set(best_series(study)) == {"T2"}
    technician = User.objects.create_user("tina", password=None, role="technician")
    with pytest.raises(PermissionDenied):
        override_sequence(series, "FLAIR", by=technician)
    assert AuditRow.objects.get(event="series.override").outcome == 4
    boss = User.objects.create_user("dora", password=None, role="admin")
    clinical.assign(technician, study.patient, reason="scan", by=boss)
    override_sequence(series, "FLAIR", by=technician)
    assert set(best_series(study)) == {"FLAIR"}
    assert Job.objects.filter(kind="imaging.prepare_study", subject=study.subject).count() == 1
    with pytest.raises(PermissionDenied):
        override_sequence(series, "T1", by=boss)
