"""Research export: what leaves has no face, no name and no true date; what could show a face is refused by name."""

from __future__ import annotations

import hashlib
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
from imaging.deidentification.engine import Profile, deidentify
from imaging.deidentification.export import ExportRefused, export_study
from imaging.deidentification.faces import defaced_file
from imaging.geometry import write_nifti
from oncoflow_site.foundation import objects
from tests.imaging import studies
from tests.imaging.dicomfiles import as_file, dataset

pytestmark = pytest.mark.django_db


def prepared(*, plausible: bool = True, whole_head: bool = False):
    """A ready study with one volume, and a radiologist of its team."""
    image = studies.brain_like(studies.SMALL)
    study, volume_set = studies.ready_study(studies.patient(), image + (5 if whole_head else 0), sequences=("T1c",))
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
    profile = Profile("OF-X", -3, lambda uid: uid if uid.startswith("1.2.840.10008.") else f"2.25.{len(uid)}")
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
