"""Patients of the simulator: truth, visits, scans and the DICOM that comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from oncoflow_site.demo.simulator.dicomwriter import write_study
from oncoflow_site.demo.simulator.patient import SCENARIOS, AcquiredStudy, SyntheticPatient


@pytest.fixture(scope="module")
def patient() -> SyntheticPatient:
    return SyntheticPatient(4, "two-lesions", spacing=2)


@pytest.fixture(scope="module")
def study(patient: SyntheticPatient) -> AcquiredStudy:
    return patient.acquire(0, sequences=("T1c", "FLAIR"))


def on_series(study: AcquiredStudy, sequence: str) -> np.ndarray:
    """The truth resampled on a series' slices by way of world coordinates."""
    grid = study.series[sequence].grid
    to_truth = np.linalg.inv(study.truth.affine) @ grid.affine
    return ndimage.affine_transform(study.truth.labels, to_truth[:3, :3], to_truth[:3, 3], grid.shape, order=0)


def test_one_of_two_lesions_is_gone_at_the_second_visit(patient: SyntheticPatient) -> None:
    first, second = patient.visit(0), patient.visit(1)
    assert set(first.lesion_volumes_mm3) == {1, 2}
    assert set(second.lesion_volumes_mm3) == {1}
    assert first.lesion_volumes_mm3[2]["TC"] > 500
    assert not (second.lesions == 2).any()


def test_volumes_come_from_voxels_and_voxel_size_and_regions_are_nested(patient: SyntheticPatient) -> None:
    truth = patient.visit(0)
    assert truth.volumes_mm3["WT"] == pytest.approx(8.0 * np.count_nonzero(truth.labels))
    assert truth.volumes_mm3["ET"] == pytest.approx(8.0 * np.count_nonzero(truth.labels == 3))
    assert 0 < truth.volumes_mm3["ET"] <= truth.volumes_mm3["TC"] <= truth.volumes_mm3["WT"]
    assert sum(v["WT"] for v in truth.lesion_volumes_mm3.values()) == pytest.approx(truth.volumes_mm3["WT"])


def test_growth_grows_the_core() -> None:
    patient = SyntheticPatient(2, "progression", spacing=2)
    first, last = (patient.visit(v).volumes_mm3["TC"] for v in (0, 2))
    assert last > 2.0 * first


def test_tumour_free_patient_has_no_tumour() -> None:
    truth = SyntheticPatient(2, "tumour-free", spacing=2).visit(0)
    assert truth.volumes_mm3 == {"ET": 0.0, "TC": 0.0, "WT": 0.0}
    assert truth.lesion_volumes_mm3 == {}


def test_truth_lies_where_the_images_show_it(study: AcquiredStudy) -> None:
    enhancing = study.series["T1c"].pixels[on_series(study, "T1c") == 3]
    core_and_around = ndimage.binary_dilation(on_series(study, "T1c") > 0, iterations=4)
    around = study.series["T1c"].pixels[core_and_around & (on_series(study, "T1c") == 0)]
    assert np.median(enhancing) > 1.2 * np.median(around)
    oedema = study.series["FLAIR"].pixels[on_series(study, "FLAIR") == 2]
    near = ndimage.binary_dilation(on_series(study, "FLAIR") > 0, iterations=3)
    assert np.median(oedema) > 1.15 * np.median(study.series["FLAIR"].pixels[near & (on_series(study, "FLAIR") == 0)])


def test_scans_differ_in_pose_but_stay_twelve_bits(study: AcquiredStudy, patient: SyntheticPatient) -> None:
    assert all(s.pixels.dtype == np.uint16 and s.pixels.max() <= 4095 for s in study.series.values())
    other = patient.acquire(1, sequences=("FLAIR",))
    moved = other.truth.affine @ np.linalg.inv(study.truth.affine)
    assert np.linalg.norm(moved[:3, 3]) > 0.5
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-9)


def test_same_seed_same_scan_whatever_else_is_scanned(study: AcquiredStudy) -> None:
    again = SyntheticPatient(4, "two-lesions", spacing=2).acquire(0, sequences=("FLAIR",))
    assert np.array_equal(again.series["FLAIR"].pixels, study.series["FLAIR"].pixels)
    np.testing.assert_array_equal(again.truth.affine, study.truth.affine)


def test_the_same_visit_on_another_scanner(patient: SyntheticPatient, study: AcquiredStudy) -> None:
    again = patient.acquire(0, sequences=("T1c", "FLAIR"), repeat=1)
    assert np.array_equal(again.truth.labels, study.truth.labels)
    assert again.accession_number != study.accession_number
    assert again.when == study.when
    assert not np.allclose(again.truth.affine, study.truth.affine)
    assert not np.array_equal(again.series["T1c"].pixels, study.series["T1c"].pixels)
    # The truth lies where the second scan shows it too: oedema is brighter than the rest of the head.
    labels = on_series(again, "FLAIR")
    flair = again.series["FLAIR"].pixels
    assert np.median(flair[labels == 2]) > 1.2 * np.median(flair[(labels == 0) & (flair > 200)])
    thick = {
        patient.acquire(0, sequences=("FLAIR",), repeat=n).series["FLAIR"].grid.slice_thickness for n in range(1, 5)
    }
    assert len(thick) > 1
    assert thick <= {2.0, 3.0, 4.0, 5.0}


def test_hard_is_noisier_and_without_skull_is_zero_outside(patient: SyntheticPatient, study: AcquiredStudy) -> None:
    hard = patient.acquire(0, difficulty="hard", sequences=("FLAIR",))
    corner = (slice(0, 20), slice(0, 20))
    assert hard.series["FLAIR"].pixels[corner].mean() > 2.5 * study.series["FLAIR"].pixels[corner].mean()
    stripped = patient.acquire(0, skull=False, sequences=("FLAIR",)).series["FLAIR"].pixels
    assert not stripped[corner].any()
    assert 0.05 < np.mean(stripped > 0) < 0.6


def test_unknown_wishes_are_refused(patient: SyntheticPatient) -> None:
    with pytest.raises(ValueError, match="scenario"):
        SyntheticPatient(1, "no such course")
    with pytest.raises(ValueError, match="Visit 9"):
        patient.visit(9)
    with pytest.raises(ValueError, match="sequences"):
        patient.acquire(0, sequences=("DWI",))
    with pytest.raises(ValueError, match="difficulty"):
        patient.acquire(0, difficulty="odd")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_scenarios_are_complete(name: str) -> None:
    scenario = SCENARIOS[name]
    assert len(scenario.days) == len(scenario.course) >= 2
    assert all(len(row) == len(scenario.lesions) for row in scenario.course)


@pytest.fixture(scope="module")
def written(study: AcquiredStudy, tmp_path_factory: pytest.TempPathFactory) -> list[pydicom.Dataset]:
    paths = write_study(study, tmp_path_factory.mktemp("dicom"))
    assert all(study.patient.family.lower() not in p.name.lower() for p in paths)
    return [pydicom.dcmread(p) for p in paths]


def test_dicom_geometry_is_the_affine(study: AcquiredStudy, written: list[pydicom.Dataset]) -> None:
    for sequence, description in (("FLAIR", "FLAIR"), ("T1c", "post Gd")):
        slices = [d for d in written if description in d.SeriesDescription]
        grid = study.series[sequence].grid
        assert len(slices) == grid.shape[2]
        for k in (0, 7, len(slices) - 1):
            ds = slices[k]
            row, column = np.array(ds.ImageOrientationPatient[:3]), np.array(ds.ImageOrientationPatient[3:])
            c, r = 30, 101
            lps = (
                np.array(ds.ImagePositionPatient, float)
                + c * row * ds.PixelSpacing[1]
                + r * column * ds.PixelSpacing[0]
            )
            ras = (grid.affine @ [c, r, k, 1.0])[:3]
            np.testing.assert_allclose(lps * [-1, -1, 1], ras, atol=1e-3)
            assert ds.pixel_array[r, c] == study.series[sequence].pixels[c, r, k]
            assert float(np.linalg.norm(row)) == pytest.approx(1.0, abs=1e-6)
            assert float(row @ column) == pytest.approx(0.0, abs=1e-6)


def test_dicom_identifiers_and_contrast(study: AcquiredStudy, written: list[pydicom.Dataset]) -> None:
    assert len({d.SOPInstanceUID for d in written}) == len(written)
    assert len({d.StudyInstanceUID for d in written}) == len({d.FrameOfReferenceUID for d in written}) == 1
    assert len({d.SeriesInstanceUID for d in written}) == 2
    for ds in written[:: len(written) // 8]:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            assert ds[keyword].value.is_valid
            assert len(ds[keyword].value) <= 64
        assert ds.PatientID == study.patient.patient_id
        assert ds.AccessionNumber == study.accession_number
        assert ds.TimezoneOffsetFromUTC == "+0000"
        assert ("ContrastBolusAgent" in ds) == ("post Gd" in ds.SeriesDescription)
        assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_dicom_is_the_same_twice(study: AcquiredStudy, tmp_path: Path) -> None:
    flair_only = AcquiredStudy(**{**study.__dict__, "series": {"FLAIR": study.series["FLAIR"]}})
    first, second = write_study(flair_only, tmp_path / "a"), write_study(flair_only, tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
