"""What is found wrong while volumes are made: the study is computed all the same, says it, and is held."""

from __future__ import annotations

import io

import numpy as np
import pytest
from django.db import transaction
from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging.archive.store_instance import store_instance
from imaging.dicom.image_plane import VolumeRefused, is_tiled
from imaging.dicom.image_stack import stack_datasets
from imaging.models import Series, Study, StudyState
from imaging.preprocessing.coregistration import IMPLAUSIBLE_ALIGNMENT, coregister_study
from imaging.recognition.select import ranked_series
from imaging.recognition.study_context import settle_sequences
from imaging.volumes.findings import same_voxels, study_findings, voxels_sha256
from inference.domain_shift.study_checks import study_flags
from oncoflow_site.foundation import objects
from tests.factories import studies
from tests.factories.dicom_files import as_file, dataset
from tests.factories.phantoms import head, rigid

DAY = studies.DAY
GRID = studies.SMALL


def prepared(person, *, seed: int = 0, **fields) -> Study:
    image = studies.brain_like(GRID, seed)
    study = studies.nifti_study(person, {"T1c": (image, GRID), "FLAIR": (image * 2, GRID)}, **fields)
    assert studies.run("imaging.prepare_study", study).state == "done"
    return study


def codes(study: Study) -> set[str]:
    return set(study.findings.filter(cleared_at=None).values_list("code", flat=True))


@pytest.mark.django_db
def test_the_same_voxels_under_another_date_or_another_patient_are_found():
    ida = studies.patient()
    first = prepared(ida)
    assert "same-voxels" not in codes(first)
    again = prepared(ida, performed_at=studies.FIRST + 90 * DAY)
    assert again.state == StudyState.READY
    assert "same-voxels" in codes(again)
    other = prepared(studies.patient("MRN-99"))
    assert "same-voxels" in codes(other)
    volume_set = other.volume_sets.get()
    messages = [one.message for one in volume_set.parameters.findings]
    assert any("another patient" in one for one in messages)
    brain = np.ones((3, 3, 3), dtype=bool)
    flags = study_flags({}, brain, (1, 1, 1), spacing_known=False, parameters=volume_set.parameters)
    assert set(messages) <= set(flags)
    assert "same-voxels" not in codes(prepared(ida, seed=5, performed_at=studies.FIRST + 200 * DAY))


@pytest.mark.django_db
@pytest.mark.parametrize("another", [True, False])
def test_the_next_best_series_is_taken_and_said(another):
    person, image = studies.patient(), studies.brain_like(GRID)
    study = studies.nifti_study(person, {"T1c": (image, GRID), "FLAIR": (image * 2, GRID)})
    if another:
        studies.add_nifti(study, {"T1c": (image * 3, GRID)})
    first = study.series.get(number=1)
    first.nifti = objects.put(b"no image", subject=person.key_subject, kind="nifti")
    first.save(update_fields=["nifti"])
    studies.run("imaging.prepare_study", study)
    study.refresh_from_db()
    assert study.state == StudyState.READY
    volumes = {one.sequence: one.source_series.number for one in study.volume_sets.get().volumes.all()}
    assert volumes == ({"T1c": 3, "FLAIR": 2} if another else {"FLAIR": 2})
    message = study.findings.get(code="unreadable", cleared_at=None).message
    assert ("the next best series was taken" if another else "no other was there") in message


@pytest.mark.django_db
def test_a_date_after_arrival_is_found():
    person = studies.patient()
    study = studies.study_row(person)
    study.performed_at = study.created_at + 2 * DAY
    assert [one.code for one in study_findings(study)] == ["date-in-future"]
    study.performed_at = study.created_at
    assert study_findings(study) == []
    assert same_voxels(study, {"T1c": ""}) == []


def test_voxels_are_compared_in_one_order_whatever_file_they_came_in():
    image = studies.brain_like(GRID)
    flipped = GRID.affine @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = GRID.world(np.array([GRID.shape_xyz[0] - 1, 0, 0]))
    assert voxels_sha256(image, GRID.affine) == voxels_sha256(image[:, :, ::-1], flipped)
    assert voxels_sha256(image, GRID.affine) != voxels_sha256(image + 1, GRID.affine)
    assert voxels_sha256(np.ones_like(image), GRID.affine) == ""


@pytest.mark.django_db
def test_series_are_ranked_and_a_study_asks_what_only_a_person_can_say():
    for number in (1, 2, 3):
        for series, values in (("1", {"SeriesDescription": "t1 a"}), ("2", {"SeriesDescription": "t1 b"})):
            store_instance(as_file(dataset(series=series, number=number, **values)), source="dicom", peer="X")
        store_instance(as_file(dataset(series="3", number=number, sequence="T2")), source="dicom", peer="X")
    study = Study.objects.get()
    with transaction.atomic():
        (asked,) = settle_sequences(study)
    assert asked.numbers == (1, 2)
    assert {one.sequence_confidence for one in Series.objects.filter(sequence="T1")} == {0.5}
    assert [one.number for one in ranked_series(study)["T1"]] == [1, 2]


@pytest.mark.django_db
def test_the_name_of_the_examination_is_settled_when_the_study_is_whole():
    described = (("1", "T1", "ax t1"), ("2", "T1c", "ax t1 +c"), ("3", "T2", "ax t2"), ("4", "FLAIR", "ax flair"))
    for series, name, text in described:
        one = dataset(series=series, sequence=name, SeriesDescription=text, ProtocolName="BRAIN TUMOR W PERFUSION")
        store_instance(as_file(one), source="dicom", peer="X")
    with transaction.atomic():
        assert settle_sequences(Study.objects.get()) == []
    assert list(Series.objects.order_by("number").values_list("sequence", flat=True)) == ["T1", "T1c", "T2", "FLAIR"]


@pytest.mark.parametrize(("turned", "doubted"), [(2.0, False), (11.0, True)])
def test_a_series_that_had_to_be_turned_far_is_doubted(turned, doubted):
    images, _, grid = head(3.0)
    other, _, its_grid = head(3.0, rigid((0, 0, turned), (2, 1, 0)))
    given = {"T1": (images["T1"], grid.affine), "FLAIR": (other["FLAIR"], its_grid.affine)}
    done = coregister_study(given, threads=1)
    assert any(one.startswith(IMPLAUSIBLE_ALIGNMENT) for one in done.parameters.warnings) is doubted


def tiled() -> Dataset:
    one = dcmread(io.BytesIO(as_file(dataset(ImagePositionPatient=None, ImageOrientationPatient=None))))
    block = one.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", "25")
    return one


def test_tiles_in_one_frame_are_called_so():
    assert is_tiled(tiled())
    with pytest.raises(VolumeRefused) as caught:
        stack_datasets([tiled()])
    assert caught.value.code == "mosaic"
    enhanced = dataset(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], NumberOfFrames=30)
    assert not is_tiled(enhanced)  # frames with places of their own, made of a mosaic
