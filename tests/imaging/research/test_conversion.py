"""DICOM to NIfTI against dcm2niix: voxel values and affine, on real series and on every way a patient may lie."""

from __future__ import annotations

import gzip
import json
import subprocess
from io import StringIO
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pytest
from django.core.management import CommandError, call_command
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation

from imaging.dicom.image_plane import pixels_of
from imaging.geometry.grid import to_ras
from imaging.geometry.nifti import read_nifti
from imaging.research.dicom_to_nifti import convert_folder
from tests.factories.dicom_files import as_file, dataset

MOSAIC, SAME = "mosaic", "same"
# Every series folder of the test data and what becomes of it; docs/imaging.md has the same list.
TRUTH = {
    "deidentified/GE_IRSPGR_196_mri_reface": SAME,
    "enhanced/Philips": "duplicate-slice",
    "enhanced/Siemens/XA10": "duplicate-slice",
    "enhanced/philips_anatomical/001": SAME,
    "enhanced/philips_anatomical/001_implicit": SAME,
    "failing/gantrytilting/001": "gantry-tilt",
    "failing/notavolume/001": "duplicate-slice",
    "failing/slicecount/001": "not-a-volume",
    "failing/sliceincrement/001": "missing-slice",
    "failing/sliceincrement/002": "missing-slice",
    "failing/sliceorientation/001": "mixed-orientation",
    "transfer_syntaxes": MOSAIC,
    **{
        f"orientation/{plane}/{name}": MOSAIC
        for plane, names in {
            "ax": "axasc35 axasc36 axasc36b axdesc35 axdesc36 axint35 axint36",
            "axmb": "AxAsc36mb2a AxInt36mb",
            "cor": "corasc35 corasc36 cordesc35 cordesc36 corint35 corint36",
            "sag": "sagasc35 sagasc36 sagdesc35 sagdesc36 sagint35 sagint36",
        }.items()
        for name in names.split()
    },
}


def oracle(folder: Path, out: Path) -> list[nib.Nifti1Image]:
    """What dcm2niix makes of the folder; -p n is the scaling of the DICOM header, -m n keeps series apart."""
    out.mkdir()
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-p", "n", "-o", str(out), "-f", "%s_%j", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return [nib.load(path) for path in sorted(out.glob("*.nii"))]


def assert_same(ours: Path, theirs: nib.Nifti1Image) -> None:
    """Both turned to RAS+: the same values at the same places."""
    mine, grid = read_nifti(gzip.decompress(ours.read_bytes()))
    values = np.asarray(theirs.dataobj, dtype=np.float64).transpose(2, 1, 0)
    turned, other = to_ras(values, theirs.affine)
    assert mine.shape == turned.shape
    assert grid.same_as(other, 0.02), (grid.affine, other.affine)
    assert np.allclose(grid.affine[:3, :3], other.affine[:3, :3], atol=1e-4)
    scale = max(1.0, float(np.abs(turned).max()))
    assert np.max(np.abs(mine - turned)) <= 1e-5 * scale
    assert np.all(np.diag(grid.directions()) > 0.5)


def series_folders(root: Path) -> set[str]:
    found = set()
    for path in root.rglob("*"):
        if path.is_file() and path.suffix not in (".txt", ".json", ".md"):
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    found.add(str(path.parent.relative_to(root)))
    return found


def test_every_series_of_the_test_data_has_its_truth_here(test_data):
    assert series_folders(test_data / "dicom") == set(TRUTH)


@pytest.mark.parametrize("folder", sorted(TRUTH))
def test_real_series_are_refused_by_name_or_lie_where_dcm2niix_puts_them(test_data, tmp_path, folder):
    results = list(convert_folder(test_data / "dicom" / folder, tmp_path / "ours"))
    if TRUTH[folder] != SAME:
        assert {one.code for one in results} == {TRUTH[folder]}
        assert all(one.reason for one in results)
        assert list((tmp_path / "ours").iterdir()) == []
        return
    theirs = oracle(test_data / "dicom" / folder, tmp_path / "theirs")
    assert [one.code for one in results] == [""]
    assert len(theirs) == 1
    assert_same(results[0].path, theirs[0])


def test_nine_transfer_syntaxes_give_the_same_pixels(test_data):
    files = [dcmread(path) for path in sorted((test_data / "dicom" / "transfer_syntaxes").glob("*.dcm"))]
    assert len({one.file_meta.TransferSyntaxUID for one in files}) >= 7
    first = pixels_of(files[0])
    for one in files[1:]:
        assert np.array_equal(pixels_of(one), first), one.file_meta.TransferSyntaxUID.name


def turned_by(*degrees: float) -> list[float]:
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return [float(round(v, 6)) for v in (*matrix[:, 0], *matrix[:, 1])]


# Patient Position (0018,5100) and the direction cosines such a scanner writes; the cosines alone place the image.
LYING = {
    "axial": ("HFS", [1, 0, 0, 0, 1, 0]),
    "sagittal": ("HFS", [0, 1, 0, 0, 0, -1]),
    "coronal": ("HFS", [1, 0, 0, 0, 0, -1]),
    "prone": ("HFP", [-1, 0, 0, 0, -1, 0]),
    "decubitus left": ("HFDL", [0, -1, 0, 1, 0, 0]),
    "decubitus right": ("HFDR", [0, 1, 0, -1, 0, 0]),
    "feet first": ("FFS", [1, 0, 0, 0, 1, 0]),
    "oblique": ("HFS", turned_by(12, -7, 25)),
    "doubly oblique sagittal": ("HFS", turned_by(80, 9, 95)),
}


def written(
    folder: Path, cosines, position="HFS", *, reverse=False, syntax=None, rows=20, columns=28, **changes
) -> None:
    """A series of 9 slices of 2.5 mm with other spacing along rows and columns, its instances in a shuffled order."""
    folder.mkdir()
    normal = np.cross(cosines[:3], cosines[3:])
    rng = np.random.default_rng(4)
    for number in rng.permutation(9):
        index = 8 - number if reverse else number
        place = np.array([-31.25, 17.5, -42.0]) + normal * 2.5 * index
        one = dataset(
            number=int(number) + 1,
            ImageOrientationPatient=list(cosines),
            ImagePositionPatient=[float(round(v, 6)) for v in place],
            PixelSpacing=[1.25, 0.75],
            PatientPosition=position,
            SliceThickness=2.5,
            **changes,
        )
        one.Rows, one.Columns = rows, columns
        z, y, x = index, *np.mgrid[:rows, :columns]
        one.PixelData = (40 * z + 7 * y + 3 * x + rng.integers(0, 5, (rows, columns))).astype("<u2").tobytes()
        one["PixelData"].VR = "OW"
        data = as_file(one)
        path = folder / f"{rng.integers(10**9)}.dcm"
        path.write_bytes(data)
        if syntax is not None:
            packed = dcmread(path)
            packed.compress(syntax, generate_instance_uid=False)
            packed.save_as(path)


@pytest.mark.parametrize("reverse", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("name", LYING)
def test_every_way_a_patient_lies(tmp_path, name, reverse):
    position, cosines = LYING[name]
    written(tmp_path / "in", cosines, position, reverse=reverse)
    (result,) = convert_folder(tmp_path / "in", tmp_path / "ours")
    (theirs,) = oracle(tmp_path / "in", tmp_path / "theirs")
    assert_same(result.path, theirs)


@pytest.mark.parametrize(
    ("syntax", "changes"),
    [
        (RLELossless, {}), (JPEGLSLossless, {}), (JPEG2000Lossless, {}),
        (None, {"RescaleSlope": "1.75", "RescaleIntercept": "-100"}), (RLELossless, {"RescaleSlope": "2"}),
    ],
)  # fmt: skip
def test_compressed_and_rescaled_series(tmp_path, syntax, changes):
    written(tmp_path / "in", LYING["oblique"][1], syntax=syntax, rows=96, columns=80, **changes)
    (result,) = convert_folder(tmp_path / "in", tmp_path / "ours")
    (theirs,) = oracle(tmp_path / "in", tmp_path / "theirs")
    assert_same(result.path, theirs)


def test_the_command_writes_no_identity_and_says_what_it_left_out(tmp_path):
    written(
        tmp_path / "in", LYING["sagittal"][1], SeriesDescription="t1 mprage Quastenflosser", ContrastBolusAgent="Gd"
    )
    written(
        tmp_path / "in" / "tilted", [1, 0, 0, 0, 1, 0], series="2", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    )
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "link.dcm").symlink_to("/etc/hostname")
    out = StringIO()
    call_command("convert", str(tmp_path / "in"), "--out", str(tmp_path / "out"), stdout=out)
    assert "001_T1c.nii.gz" in out.getvalue()
    assert "refused, mosaic" in out.getvalue()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["001_T1c.json", "001_T1c.nii.gz"]
    sidecar = (tmp_path / "out" / "001_T1c.json").read_text()
    for secret in ("Quastenflosser", "MRN-4711", "20260311", "Gertrud", "1.2.3.1", "ACC-77001"):
        assert secret not in sidecar + out.getvalue()
        assert secret.encode() not in gzip.decompress((tmp_path / "out" / "001_T1c.nii.gz").read_bytes())
    facts = json.loads(sidecar)
    assert (facts["EchoTime"], facts["MagneticFieldStrength"], facts["Sequence"]) == (0.0025, 3, "T1c")
    with pytest.raises(CommandError, match="no series"):
        call_command("convert", str(tmp_path / "in" / "tilted"), "--out", str(tmp_path / "none"), stdout=out)


def test_what_is_no_image_in_a_series_is_left_out_and_said(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"{number}.dcm").write_bytes(as_file(dataset(number=number)))
    raw = dataset(number=9, SOPClassUID="1.2.840.10008.5.1.4.1.1.66", Rows=None, Columns=None, PixelData=None)
    (folder / "raw.dcm").write_bytes(as_file(raw))
    (result,) = convert_folder(folder, tmp_path / "out")
    assert result.path is not None
    assert any("holds no image" in one for one in result.warnings)
