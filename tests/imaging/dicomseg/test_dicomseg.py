"""Our segmentations as DICOM: on the scanner's own planes whatever they are, named and dated as they must be."""

from __future__ import annotations

import logging
import shutil
import subprocess
import warnings
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from django.apps import apps
from pydicom import dcmread

from imaging.deidentification.deidentify_study import shift_days
from imaging.dicomseg import Identity, NotEncodable, encode
from imaging.geometry.sitk import LPS_FROM_RAS
from imaging.identifiers import map_uid
from imaging.models import PublishedInstance, Segmentation, SegmentationKind, Series, Volume
from imaging.segmentation.label_maps import load_labels
from imaging.volumes.load import grid_of
from imaging.volumes.native_space import native_grid
from oncoflow_site.foundation import objects
from tests.factories.dicom_files import as_file
from tests.factories.outlined_studies import COLUMNS, LESIONS, ORIENTATIONS, ROWS, SLICES, outlined, slices
from tests.factories.published_studies import bring
from tests.factories.studies import patient, ready_study, run, segment, tumour

REGIONS = {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}


def overlap(seg: hd.seg.Segmentation, segmentation: Segmentation) -> dict[str, float]:
    """Dice of each region, found voxel by voxel from the positions that the DICOM object itself gives."""
    labels, grid = load_labels(segmentation), grid_of(segmentation.volume_set)
    volume = seg.get_volume(combine_segments=True)
    z, y, x = np.indices(labels.shape)
    world = grid.world(np.stack([x, y, z], axis=-1)) @ LPS_FROM_RAS[:3, :3].T
    back = np.linalg.inv(volume.affine)
    index = np.rint(world @ back[:3, :3].T + back[:3, 3]).astype(int)
    inside = np.all((index >= 0) & (index < volume.array.shape), axis=-1)
    there = np.zeros(labels.shape, dtype=int)
    there[inside] = volume.array[tuple(index[inside].T)]
    found = {}
    for region, members in REGIONS.items():
        one, other = np.isin(there, members), np.isin(labels, members)
        found[region] = 2 * float(np.sum(one & other)) / float(np.sum(one) + np.sum(other))
    return found


@pytest.mark.django_db
@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_the_outline_lies_where_it_was_drawn(orientation: str, tmp_path: Path) -> None:
    study = bring([as_file(one) for one in slices(orientation)])
    segmentation = outlined(study, *LESIONS)
    data = encode(segmentation)
    seg = hd.seg.segread(BytesIO(data))
    assert seg.segmentation_type == hd.seg.SegmentationTypeValues.BINARY
    dice = overlap(seg, segmentation)
    # 2 x 2.5 x 3 mm against 1 mm: a rim of 4 mm cannot be better
    assert dice["WT"] > 0.93, dice
    assert dice["TC"] > 0.88, dice
    assert dice["ET"] > 0.8, dice
    # each frame stands on the plane of the image it names
    own = {map_uid(str(one.SOPInstanceUID)): np.asarray(one.ImagePositionPatient, float) for one in slices(orientation)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, own[source], atol=1e-4)
    assert native_grid(Volume.objects.get()).shape_xyz == (COLUMNS, ROWS, SLICES)


@pytest.mark.django_db
def test_names_codes_and_references() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    segmentation = outlined(
        study, *LESIONS, model={"fusion": "majority", "experts": [{"name": "nnunet", "role": "voter"}]}
    )
    seg = dcmread(BytesIO(encode(segmentation)))
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert seg.StudyInstanceUID == study.deidentified_uid
    assert seg.PatientID == study.patient.pseudonym
    assert seg.FrameOfReferenceUID == map_uid("1.2.3.1.99")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == Series.objects.get().deidentified_uid
    assert seg.PatientIdentityRemoved == "YES"
    assert seg.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [one.SegmentedPropertyTypeCodeSequence[0] for one in seg.SegmentSequence]
    assert [(one.CodingSchemeDesignator, one.CodeValue) for one in codes] == [
        ("SCT", "6574001"),
        ("SCT", "79654002"),
        ("NCIt", "C113842"),
    ]
    for one in seg.SegmentSequence:
        assert one.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert one.AnatomicRegionSequence[0].CodeValue == "12738006"
        assert one.SegmentAlgorithmType == "AUTOMATIC"
        named = one.SegmentationAlgorithmIdentificationSequence[0]
        assert named.AlgorithmName == "OncoFlow panel, majority fusion"
        assert named.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert "nnunet" in str(named.AlgorithmParameters)
        assert one.TrackingUID.startswith("2.25.")
    text = str(seg)
    for planted in ("Quastenflosser", "MRN-4711", "ACC-77001", "19610423", "1.2.3.1.", "Gertrud"):
        assert planted not in text


@pytest.mark.django_db
def test_both_identities_are_one_object() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    segmentation = outlined(study, *LESIONS)
    ours, theirs = (dcmread(BytesIO(encode(segmentation, one))) for one in Identity)
    assert theirs.StudyInstanceUID == "1.2.3.1"
    assert theirs.PatientID == "MRN-4711-X"
    assert theirs.StudyDate == "20260311"
    assert "PatientIdentityRemoved" not in theirs
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID"):
        assert map_uid(theirs[keyword].value) == ours[keyword].value
    assert theirs.PixelData == ours.PixelData
    shift = np.datetime64(f"{ours.ContentDate[:4]}-{ours.ContentDate[4:6]}-{ours.ContentDate[6:]}") - np.datetime64(
        f"{theirs.ContentDate[:4]}-{theirs.ContentDate[4:6]}-{theirs.ContentDate[6:]}"
    )
    assert int(shift.astype(int)) == shift_days(study.patient)
    again = dcmread(BytesIO(encode(segmentation)))
    assert (again.SOPInstanceUID, again.PixelData) == (ours.SOPInstanceUID, ours.PixelData)


@pytest.mark.django_db
def test_a_person_is_named_as_what_they_did() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    first = outlined(study, *LESIONS, model={"fusion": "majority", "experts": []})
    labels = load_labels(first)
    corrected = segment(study, first.volume_set, labels, "person", "rhea", parent=first)
    drawn = segment(study, first.volume_set, labels, "person", "rhea")
    for one, kind in ((corrected, "SEMIAUTOMATIC"), (drawn, "MANUAL")):
        seg = dcmread(BytesIO(encode(one)))
        assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {kind}
        assert "rhea" not in str(seg)


@pytest.mark.django_db
def test_only_what_is_there_becomes_a_segment() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    seg = dcmread(BytesIO(encode(outlined(study, ((0.3, 0.3, 0.3), 0.1, 0.1, 15.0)))))
    assert [(int(one.SegmentNumber), one.SegmentLabel) for one in seg.SegmentSequence] == [
        (1, "Oedema or infiltrated tissue")
    ]
    assert int(seg.NumberOfFrames) < SLICES


@pytest.mark.django_db
def test_what_cannot_be_an_object_says_why() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    with pytest.raises(NotEncodable) as empty:
        encode(outlined(study))
    assert empty.value.code == "empty"
    from_nifti, volume_set = ready_study(patient("MRN-N"), np.ones((52, 80, 70), np.float32))
    with pytest.raises(NotEncodable) as nifti:
        encode(segment(from_nifti, volume_set, np.ones((52, 80, 70), np.uint8)))
    assert nifti.value.code == "no-source"
    run("imaging.publish_segmentations", from_nifti)
    assert not PublishedInstance.objects.filter(study=from_nifti).exists()


@pytest.mark.django_db
def test_the_job_stores_it_once_and_the_door_offers_it() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    segmentation = outlined(study, *LESIONS)
    outlined_by_an_expert = Segmentation.objects.create(
        study=study,
        volume_set=segmentation.volume_set,
        kind=SegmentationKind.EXPERT,
        version=2,
        author="nnunet",
        labels=segmentation.labels,
    )
    for _ in range(2):
        job = run("imaging.publish_segmentations", study)
        assert job.state == "done"
    row = PublishedInstance.objects.get(modality="SEG")
    assert (row.segmentation, row.instance) == (segmentation, None)
    assert row.sop_instance_uid == dcmread(BytesIO(objects.get(row.object))).SOPInstanceUID
    assert row.frames == int(dcmread(BytesIO(objects.get(row.object))).NumberOfFrames)
    assert not PublishedInstance.objects.filter(segmentation=outlined_by_an_expert).exists()


@pytest.mark.django_db
def test_an_enhanced_source(test_data: Path) -> None:
    """One multi-frame object: frames go where its frames are, in their order."""
    for path in sorted((test_data / "dicom" / "enhanced").rglob("*")):
        if not path.is_file() or path.stat().st_size > 20 << 20:
            continue
        study = bring([path.read_bytes()])
        try:
            segmentation = outlined(study)
        except Exception:
            continue
        grid = grid_of(segmentation.volume_set)
        drawn = segment(
            study,
            segmentation.volume_set,
            tumour(grid, (tuple(grid.centre()), 9.0, 16.0, 25.0)),  # type: ignore[arg-type]
        )
        dice = overlap(hd.seg.segread(BytesIO(encode(drawn))), drawn)
        assert dice["WT"] > 0.9, dice
        return
    pytest.fail("no enhanced series in the test data is a volume")


@pytest.mark.django_db
@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("identity", list(Identity))
def test_dciodvfy_finds_no_error(identity: Identity, tmp_path: Path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    study = bring([as_file(one) for one in slices("oblique")])
    path = tmp_path / "seg.dcm"
    path.write_bytes(encode(outlined(study, *LESIONS, model={"fusion": "staple", "experts": []}), identity))
    told = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False, timeout=60)
    lines = (told.stdout + told.stderr).splitlines()
    assert lines[-1:] or lines
    assert any("Segmentation" in line for line in lines)
    assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.django_db
def test_nothing_of_the_patient_is_logged(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    """highdicom tells UIDs in its log and names in its warnings; the object for the PACS carries the true ones."""
    study = bring([as_file(one) for one in slices("axial")])
    segmentation = outlined(study, *LESIONS)
    recwarn.clear()
    logger = logging.getLogger("highdicom")
    assert not logger.isEnabledFor(logging.WARNING)
    with warnings.catch_warnings(record=True) as told:
        apps.get_app_config("imaging").ready()  # the filters as a process of ours has them
        encode(segmentation, Identity.ORIGINAL)
    said = caplog.text + "".join(str(one.message) for one in told)
    for planted in ("Quastenflosser", "MRN-4711", "1.2.3.1"):
        assert planted not in said


@pytest.mark.django_db
def test_what_was_not_assessed_has_no_segment_and_a_tumour_without_core_is_no_oedema() -> None:
    study = bring([as_file(one) for one in slices("axial")])
    whole = outlined(study, *LESIONS)
    labels = load_labels(whole)

    def segments(kept: np.ndarray, not_assessed: dict[str, str]) -> dict[str, str]:
        made = segment(study, whole.volume_set, kept, not_assessed=not_assessed)
        found = hd.seg.segread(BytesIO(encode(made)))
        return {one.SegmentLabel: one.SegmentedPropertyTypeCodeSequence[0].CodeValue for one in found.SegmentSequence}

    contrast = segments(np.where(labels == 2, 0, labels).astype(np.uint8), {"WT": "no FLAIR"})
    assert contrast == {"Necrotic and non-enhancing tumour core": "6574001", "Enhancing tumour": "C113842"}
    flair = segments(np.where(labels > 0, 2, 0).astype(np.uint8), {"ET": "no T1c", "TC": "no T1c"})
    assert flair == {"Whole tumour, core not assessed": "108369006"}
