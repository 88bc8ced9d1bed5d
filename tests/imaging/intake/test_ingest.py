"""Bringing in files: folders, archives, NIfTI; repeated, hostile, undeclared."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from django.core.management import CommandError, call_command

from clinical import services as clinical
from imaging.intake.declaration import Declaration
from imaging.intake.file_import import ingest
from imaging.models import Instance, Series, Study, StudySource, StudyState
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import Event
from tests.factories.dicom_files import as_file, dataset, study_files

pytestmark = pytest.mark.django_db
SOMEBODY = Declaration(mrn="MRN-12", family="Quastenflosser", given="Hildegund", day=date(2026, 3, 11))


def write_study(folder: Path, **options) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, data in enumerate(study_files(slices=2, **options)):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(data)
    return paths


def nifti(path: Path, *, value: float = 1.0, descrip: bytes = b"") -> Path:
    image = nib.Nifti1Image(np.full((5, 6, 7), value, np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header["descrip"] = descrip
    image.to_filename(path)
    return path


def test_a_folder_of_dicom_is_filed_and_complete(tmp_path):
    write_study(tmp_path / "a" / "deep")
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 200)
    result = ingest([tmp_path], Declaration())
    assert result.counts == {"stored": 8, "duplicate": 0, "quarantined": 0, "refused": 0, "ignored": 2}
    study = Study.objects.get()
    assert (study.state, study.source) == (StudyState.COMPLETE, StudySource.INGEST)
    assert Event.objects.filter(kind="study.complete").count() == 1
    again = ingest([tmp_path], Declaration())
    assert (again.counts["duplicate"], again.counts["stored"]) == (8, 0)
    assert again.studies == [study]
    assert Event.objects.filter(kind="study.complete").count() == 1


def test_a_zip_is_read_in_memory_and_its_paths_mean_nothing(tmp_path):
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for number, data in enumerate(study_files(slices=2)):
            out.writestr(f"../../../../tmp/oncoflow-escape-{number}.dcm", data)
        out.writestr("/etc/oncoflow-escape", b"x")
        out.writestr("note.txt", "hello")
    before = set(tmp_path.parent.rglob("*escape*"))
    result = ingest([archive], Declaration())
    assert (result.counts["stored"], result.counts["ignored"]) == (8, 2)
    assert set(tmp_path.parent.rglob("*escape*")) == before
    assert not list(Path("/tmp").glob("oncoflow-escape-*"))


def test_a_zip_bomb_is_refused(tmp_path):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for number in range(2):
            out.writestr(f"{number}.dcm", as_file(dataset(number=number + 1)) + b"\0" * (40 << 20))
    with pytest.raises(UserVisibleError) as caught:
        ingest([archive], Declaration())
    assert caught.value.code == "zip-bomb"


@pytest.mark.parametrize("content", [b"PK\x03\x04 not a zip", b"PK\x03\x04" + b"\0" * 500])
def test_a_damaged_zip_is_a_sentence(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserVisibleError) as caught:
        ingest([tmp_path], Declaration())
    assert caught.value.code == "bad-zip"


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    write_study(tmp_path / "elsewhere")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "a.dcm").symlink_to(tmp_path / "elsewhere" / "0.dcm")
    assert ingest([tmp_path / "given"], Declaration()).counts["ignored"] == 1
    assert not Instance.objects.exists()


def test_the_declared_patient_stands_above_the_header(tmp_path):
    (tmp_path / "a.dcm").write_bytes(
        as_file(dataset(PatientID="", StudyDate=None, SeriesDate=None, AcquisitionDate=None))
    )
    assert ingest([tmp_path], Declaration()).counts["quarantined"] == 1
    Instance.objects.all().delete()
    result = ingest([tmp_path], SOMEBODY)
    assert result.counts["stored"] == 1
    study = Study.objects.get()
    assert study.performed_at == datetime(2026, 3, 11, 12, tzinfo=UTC)
    identity = clinical.reveal_identity(study.patient, purpose="test")
    assert (identity.family, identity.identifiers[0].value) == ("Quastenflosser", "MRN-12")


def test_refused_and_quarantined_files_are_told(tmp_path):
    (tmp_path / "bad.dcm").write_bytes(as_file(dataset())[:-50])
    (tmp_path / "report.dcm").write_bytes(as_file(dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", number=2)))
    result = ingest([tmp_path], Declaration())
    assert (result.counts["refused"], result.counts["quarantined"]) == (1, 1)
    assert any("cut short" in note for note in result.notes)
    assert any("structured report" in note for note in result.notes)


def test_nifti_by_declaration_and_by_name(tmp_path):
    for name in ("case_t1.nii.gz", "case-t1c.nii.gz", "case_t2w.nii.gz", "case_seg.nii.gz"):
        nifti(tmp_path / name, descrip=b"Quastenflosser")
    flair = nifti(tmp_path / "odd.nii.gz", value=2.0)
    given = Declaration(mrn="MRN-12", day=date(2026, 3, 11), sequences={"FLAIR": flair}, spacing_known=False)
    result = ingest([tmp_path], given)
    study = Study.objects.get()
    assert (study.source, study.spacing_known, study.state) == (StudySource.NIFTI, False, StudyState.COMPLETE)
    assert {one.sequence: one.sequence_confidence for one in Series.objects.all()} == {
        "T1": 0.6, "T1c": 0.6, "T2": 0.6, "FLAIR": 1.0
    }  # fmt: skip
    assert (result.counts["stored"], result.counts["ignored"]) == (4, 1)
    assert any("case_seg" in note for note in result.notes)
    stored = objects.get(Series.objects.get(sequence="T1").nifti)
    image = nib.Nifti1Image.from_bytes(__import__("gzip").decompress(stored))
    assert image.shape == (5, 6, 7)
    assert np.allclose(image.affine, np.diag([1, 1, 2, 1]))
    assert bytes(image.header["descrip"]).strip(b"\0") == b""
    assert ingest([tmp_path], given).studies == [study]
    assert Study.objects.count() == 1


@pytest.mark.parametrize("declaration", [Declaration(), Declaration(mrn="MRN-12"), Declaration(day=date(2026, 1, 1))])
def test_nifti_without_patient_or_date_is_refused(tmp_path, declaration):
    nifti(tmp_path / "a_t1.nii.gz")
    with pytest.raises(UserVisibleError) as caught:
        ingest([tmp_path], declaration)
    assert caught.value.code == "undeclared"
    assert not Study.objects.exists()


def test_hostile_nifti_is_a_sentence(tmp_path):
    import gzip

    (tmp_path / "a_t1.nii.gz").write_bytes(gzip.compress(b"\0" * 1000))
    with pytest.raises(UserVisibleError) as caught:
        ingest([tmp_path], SOMEBODY)
    assert caught.value.code == "bad-nifti"
    (tmp_path / "a_t1.nii.gz").unlink()
    nifti(tmp_path / "a_t1.nii.gz", value=np.nan)
    with pytest.raises(UserVisibleError) as caught:
        ingest([tmp_path], SOMEBODY)
    assert caught.value.code == "bad-nifti"


def test_two_files_that_look_alike_are_not_guessed(tmp_path):
    nifti(tmp_path / "a_t1.nii.gz")
    nifti(tmp_path / "b_t1.nii.gz")
    with pytest.raises(UserVisibleError) as caught:
        ingest([tmp_path], SOMEBODY)
    assert caught.value.code == "ambiguous-sequence"


def test_the_command(tmp_path):
    write_study(tmp_path / "dicom")
    out = io.StringIO()
    call_command("ingest", str(tmp_path / "dicom"), stdout=out)
    study = Study.objects.get()
    assert "8 stored" in out.getvalue()
    assert str(study.pk) in out.getvalue()
    assert "Quastenflosser" not in out.getvalue()
    assert "MRN-4711" not in out.getvalue()
    with pytest.raises(CommandError, match="There is no"):
        call_command("ingest", str(tmp_path / "nothing"))
    with pytest.raises(CommandError, match="NAME=FILE"):
        call_command("ingest", "--sequence", "T1")
    with pytest.raises(CommandError, match="at least one PATH"):
        call_command("ingest")
    with pytest.raises(CommandError, match="no worker is running"):
        call_command("ingest", str(tmp_path / "dicom"), "--wait")
