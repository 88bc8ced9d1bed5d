"""Research export: what leaves has no face, no name and no true date; what could show a face is refused by name."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO, StringIO

import nibabel as nib
import numpy as np
import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from pydicom import dcmread

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import User
from imaging.defacing.deface_study import defaced_file
from imaging.deidentification.engine import PatientProfile, deidentify
from imaging.geometry.grid import Grid
from imaging.geometry.nifti import read_nifti, write_nifti
from imaging.geometry.resample import resample
from imaging.preprocessing.intensity import replay
from imaging.preprocessing.mni152 import atlas_template
from imaging.research.bids_export import Derivative, ExportRefused, export_study
from oncoflow_site.foundation import objects
from tests.factories import studies
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.django_db


def prepared(*, plausible: bool = True, whole_head: bool = False, sequence: str = "T1c"):
    """A ready study with one volume, and a radiologist of its team."""
    image = studies.brain_like(studies.SMALL)
    study, volume_set = studies.ready_study(studies.patient(), image + (5 if whole_head else 0), sequences=(sequence,))
    mask = (image > 0).astype(np.uint8)
    volume_set.brain_mask = objects.put(
        write_nifti(mask, studies.SMALL), subject=study.patient.key_subject, kind="brain-mask"
    )
    volume_set.parameters = {"brain": {"plausible": plausible}}
    volume_set.save()
    reader = User.objects.create_user(username="reader", role="radiologist")
    assign(reader, study.patient, reason="research", by=None)
    return study, reader


def test_a_study_leaves_under_its_pseudonym_with_checksums(tmp_path):
    study, reader = prepared()
    made = export_study(study, tmp_path, by=reader)
    label = "".join(one for one in study.patient.pseudonym if one.isalnum())
    assert made.folder.parent.name == f"sub-{label}"
    assert f"{study.performed_at:%Y%m%d}" not in made.folder.name
    for line in (made.folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == digest
    (volume,) = made.folder.glob("anat/*ce-gad_T1w.nii.gz")
    (mask,) = made.folder.glob("anat/*_mask.nii.gz")
    inside = np.asarray(nib.load(mask).dataobj) > 0
    assert not np.any(np.asarray(nib.load(volume).dataobj)[~inside])
    row = AuditRow.objects.get(event="research.export", outcome=0)
    assert (row.detail["dicom_event"], row.detail["files"]) == ("110106", len(made.files))
    with pytest.raises(ExportRefused, match="before"):
        export_study(study, tmp_path, by=reader)


@pytest.mark.parametrize("what", [{"plausible": False}, {"whole_head": True}])
def test_a_head_that_may_show_its_face_is_refused_by_name(tmp_path, what):
    study, reader = prepared(**what)
    with pytest.raises(ExportRefused, match=str(study.pk)):
        export_study(study, tmp_path, by=reader)
    assert list(tmp_path.iterdir()) == []
    assert AuditRow.objects.filter(event="research.export", outcome__gt=0).count() == 1


def test_only_those_who_may_export_and_see_the_patient_do(tmp_path):
    study, _ = prepared()
    for role in ("clinician", "radiologist"):
        with pytest.raises(PermissionDenied):
            export_study(study, tmp_path, by=User.objects.create_user(username=f"other-{role}", role=role))
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path):
    study, _ = prepared()
    out = StringIO()
    call_command("export_research", patient=study.patient.pseudonym, out=tmp_path, by="reader", stdout=out)
    assert "files" in out.getvalue()
    with pytest.raises(CommandError):
        call_command("export_research", study=str(study.pk), out=tmp_path, by="reader", stderr=StringIO())


def test_a_defaced_instance_says_so_and_changes_nothing_else():
    profile = PatientProfile("OF-X", -3, lambda uid: uid if uid.startswith("1.2.840.10008.") else f"2.25.{len(uid)}")
    before = deidentify(as_file(dataset()), profile).data
    face = np.zeros((16, 16), dtype=bool)
    face[10:, 3:] = True
    data, count = defaced_file(dcmread(BytesIO(before)), {0: face}, own_uid=True)
    one, out = dcmread(BytesIO(before)), dcmread(BytesIO(data))
    assert count == face.sum()
    assert (out.pixel_array[face] == one.pixel_array.min()).all()
    assert np.array_equal(out.pixel_array[~face], one.pixel_array[~face])
    assert out.RecognizableVisualFeatures == "NO"
    assert "113102" in [item.CodeValue for item in out.DeidentificationMethodCodeSequence]
    assert out.SOPInstanceUID == out.file_meta.MediaStorageSOPInstanceUID != one.SOPInstanceUID
    assert out.SeriesInstanceUID == one.SeriesInstanceUID


def on_mni(scale: float = 0.94) -> tuple[np.ndarray, Grid, np.ndarray]:
    """MNI152 as somebody's T1 at 2 mm, smaller and elsewhere: (image, its grid, RAS mm of MNI152 -> RAS mm of it)."""
    template, its_grid = atlas_template()
    truth = np.diag([scale, scale, scale, 1.0])
    truth[:3, 3] = [4.0, -7.0, 3.0]
    grid = Grid(np.array([[2.0, 0, 0, -84], [0, 2.0, 0, -118], [0, 0, 2.0, -78], [0, 0, 0, 1]]), (88, 108, 90))
    return resample(template, its_grid, grid, np.linalg.inv(truth)), grid, truth


def test_atlas_space_and_evened_intensities_can_be_made_again_and_lead_back(tmp_path):
    image, grid, truth = on_mni()
    brain = image > 5
    z, _, x = np.indices(image.shape)
    field = 1.0 + 0.5 * (x / image.shape[2] - 0.5) + 0.3 * (z / image.shape[0] - 0.5)
    study, volume_set = studies.ready_study(
        studies.patient(), np.where(brain, image * field, 0).astype(np.float32), grid, sequences=("T1",)
    )
    volume_set.brain_mask = objects.put(
        write_nifti(brain.astype(np.uint8), grid), subject=study.patient.key_subject, kind="brain-mask"
    )
    volume_set.parameters = {"brain": {"plausible": True}}
    volume_set.save()
    labels = studies.tumour(grid, ((20.0, -10.0, 20.0), 5.0, 9.0, 16.0))
    studies.segment(study, volume_set, labels)
    reader = User.objects.create_user(username="reader", role="radiologist")
    assign(reader, study.patient, reason="research", by=None)
    call_command(
        "export_research",
        study=str(study.pk),
        out=tmp_path,
        by="reader",
        atlas=True,
        bias=True,
        intensity="zscore",
        stdout=StringIO(),
    )
    (session,) = tmp_path.glob("sub-*/ses-*")
    (moved,) = session.glob("derived/*_space-MNI152NLin2009aSym_desc-evened_T1w.nii.gz")
    told = json.loads(moved.with_name(moved.name.replace(".nii.gz", ".json")).read_text())
    assert [one["step"] for one in told["Steps"]] == ["n4", "zscore", "atlas"]
    there, back = (np.array(told["Steps"][2][name]) for name in ("matrix_ras", "inverse_ras"))
    assert np.allclose(there @ back, np.eye(4), atol=1e-9)
    corners = np.array([[40.0, 40, 40, 1], [-40, -70, 40, 1], [0, 30, -20, 1]])
    assert np.abs((corners @ there.T - corners @ truth.T)[:, :3]).max() < 4.0

    # Made again from the volume beside it and the written steps: the same bytes.
    (source,) = session.glob(f"anat/{told['Source']}")
    given, its_grid = read_nifti(source.read_bytes())
    (mask,) = session.glob("anat/*_mask.nii.gz")
    inside = read_nifti(mask.read_bytes(), as_float=False)[0] > 0
    assert write_nifti(*replay(given, inside, its_grid, told["Steps"])) == moved.read_bytes()
    evened, _ = replay(given, inside, its_grid, told["Steps"][:2])
    assert abs(evened[inside].mean()) < 0.01
    assert abs(evened[inside].std() - 1) < 0.01
    assert not evened[~inside].any()

    def unevenness(values: np.ndarray) -> float:
        """Spread of what is left of the field: the image over what it was without one."""
        ratio = values[inside] / np.maximum(image[inside], 1)
        return float(np.std(ratio) / np.mean(ratio))

    assert unevenness(replay(given, inside, its_grid, told["Steps"][:1])[0]) < 0.7 * unevenness(given)
    (outline,) = session.glob("derived/*_dseg.nii.gz")
    at_atlas, _ = read_nifti(outline.read_bytes(), as_float=False)
    voxels = int((at_atlas == 3).sum()), int((labels == 3).sum()) * 8 / np.linalg.det(there[:3, :3])
    assert abs(voxels[0] / voxels[1] - 1) < 0.05


def test_without_a_t1_there_is_no_atlas_space_and_percentiles_are_within_bounds(tmp_path):
    study, reader = prepared(sequence="T2")
    with pytest.raises(ExportRefused, match="atlas space"):
        export_study(study, tmp_path, by=reader, wanted=Derivative(atlas=True))
    made = export_study(study, tmp_path, by=reader, wanted=Derivative(intensity="percentile"))
    (name,) = (one for one in made.files if "evened" in one and one.endswith(".nii.gz"))
    values = np.asarray(nib.load(made.folder / name).dataobj)
    assert (values.min(), round(float(values.max()), 3)) == (0.0, 1.0)
