"""Faces end to end: a simulated head comes in as DICOM, is prepared, and what is offered and exported has lost its face.

The truth (where skin and brain are) is the simulator's; the brain mask that the face is told by is the one that the
pipeline finds.
"""

from __future__ import annotations

import shutil
import subprocess
import zlib
from io import BytesIO, StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from django.core.management import CommandError, call_command
from pydicom import dcmread
from pydicom.dataset import Dataset

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import AssigningAuthority, User
from imaging.archive import completion
from imaging.archive.store_instance import store_instance
from imaging.defacing.deface_study import defaced_file
from imaging.deidentification.engine import PatientProfile, deidentify
from imaging.deidentification.report import faces_of
from imaging.models import DefacedInstance, FaceRemoval, InstanceState, Series, Study
from oncoflow_site.demo.simulator.anatomy import Anatomy
from oncoflow_site.demo.simulator.dicomwriter import write_study
from oncoflow_site.demo.simulator.fields import FieldSource, Grid
from oncoflow_site.demo.simulator.head import head_surface, random_shell
from oncoflow_site.demo.simulator.patient import AcquiredStudy, SyntheticPatient
from oncoflow_site.foundation import objects
from tests.factories.dicom_files import as_file, dataset
from tests.factories.studies import run, run_waiting

pytestmark = pytest.mark.django_db
SEED = 6


@pytest.fixture(scope="module")
def simulated() -> tuple[SyntheticPatient, AcquiredStudy]:
    patient = SyntheticPatient(SEED, "stable", spacing=2)
    return patient, patient.acquire(0, sequences=("T1", "FLAIR"))


@pytest.fixture
def taken(simulated, tmp_path, settings) -> Study:
    """The head as it lies here after preparation, with ONCOFLOW_DEFACE on, and one image that nobody can place."""
    settings.ONCOFLOW_DEFACE = True
    _, acquired = simulated
    stored = None
    files = write_study(acquired, tmp_path / "in")
    first = dcmread(files[0])
    AssigningAuthority.objects.create(name=first.IssuerOfPatientID)
    elsewhere = {"FrameOfReferenceUID": "1.2.3.4.5", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    lost = dataset(series="77", study=first.StudyInstanceUID, SeriesDescription="localizer", **elsewhere)
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "IssuerOfPatientID",
        "AccessionNumber",
    ):
        setattr(lost, keyword, first.get(keyword))
    for data in [*(path.read_bytes() for path in files), as_file(lost)]:
        stored = store_instance(data, source="dicom", peer="X")
        assert stored.status == 0, stored.reason
    study = Study.objects.get(pk=stored.study_id)
    completion.complete(study)
    run_waiting("imaging")
    study.refresh_from_db()
    return study


@pytest.fixture
def reader(taken) -> User:
    person = User.objects.create_user(username="reader", role="radiologist")
    assign(person, taken.patient, reason="research", by=None)
    return person


def truth(patient: SyntheticPatient, acquired: AcquiredStudy, sequence: str, dataset: Dataset):
    """(skin of the face, brain) of one slice, bool (rows, columns), by the simulator's own anatomy."""
    series = acquired.series[sequence]
    k = int(dataset.InstanceNumber) - 1
    columns, rows, _ = series.grid.shape
    i, j = np.meshgrid(np.arange(columns), np.arange(rows), indexing="xy")
    index = np.stack([i, j, np.full_like(i, k), np.ones_like(i)], axis=-1)
    head = (index @ series.grid.affine.T @ np.linalg.inv(series.to_world).T)[..., :3]
    return head


def looked_up(head: np.ndarray, field: np.ndarray, grid: Grid) -> np.ndarray:
    index = np.rint((head - np.asarray(grid.origin)) / grid.spacing).astype(int)
    inside = np.all((index >= 0) & (index < field.shape), axis=-1)
    out = np.zeros(head.shape[:-1], dtype=bool)
    out[inside] = field[tuple(index[inside].T)]
    return out


def face_and_brain(patient: SyntheticPatient):
    """(skin of the face, brain, grid) in head space, 2 mm."""
    grid = Grid((-100.0, -132.0, -126.0), 2.0, (101, 128, 122))
    place = Anatomy(SEED).place(grid)
    depth = head_surface(place, random_shell(FieldSource(SEED).rng(330)))
    x, y, z = place.mni
    skin = (np.abs(depth) < 1.5) & (y > 45) & (z < -25) & (z > -95) & (np.abs(x) < 55)
    return skin, place.brain_distance < 0.0, grid


def share_and_loss(simulated, sequence: str, pairs) -> tuple[float, int, int]:
    """Of (before, after) data sets: share of the face's skin that is gone, brain voxels that changed, all that changed."""
    patient, acquired = simulated
    skin, brain, grid = face_and_brain(patient)
    gone = there = lost = changed = 0
    for before, after in pairs:
        head = truth(patient, acquired, sequence, before)
        on_skin, in_brain = looked_up(head, skin, grid), looked_up(head, brain, grid)
        old, new = before.pixel_array, after.pixel_array
        differs = old != new
        assert (new[differs] == old.min()).all()
        there += int(on_skin.sum())
        gone += int((new[on_skin] == old.min()).sum())
        lost += int(differs[in_brain].sum())
        changed += int(differs.sum())
    return gone / there, lost, changed


def opened(stored) -> Dataset:
    return dcmread(BytesIO(objects.get(stored)))


def test_a_head_from_the_scanner_to_viewers_and_research(simulated, taken, reader, client, settings, tmp_path):
    """One way through, because the preparation that stands before everything takes its time."""
    what_is_offered_has_no_face_and_all_of_its_brain(simulated, taken, reader, client)
    the_export_as_a_whole(simulated, taken, tmp_path)
    switched_on_later_nothing_with_a_face_is_offered(taken, client, settings)


def what_is_offered_has_no_face_and_all_of_its_brain(simulated, taken, reader, client):
    print(
        list(FaceRemoval.objects.values("series__sequence", "removed", "reason", "voxels")),
        taken.state,
        taken.flag_message,
    )
    for sequence, least in (("T1", 0.93), ("FLAIR", 0.92)):
        series = Series.objects.get(study=taken, sequence=sequence)
        rows = list(series.instances.select_related("deidentified", "defaced__object"))
        pairs = [(opened(one.deidentified), opened(one.defaced.object)) for one in rows]
        gone, lost, changed = share_and_loss(simulated, sequence, pairs)
        assert gone >= least, (sequence, gone)
        assert lost == 0
        assert changed > 0
        for _, after in pairs[:1]:
            assert after.RecognizableVisualFeatures == "NO"
            assert "113102" in [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
            assert after.ImageType[0] == "DERIVED"
            assert "Face removed" in after.DerivationDescription
        removal = FaceRemoval.objects.get(series=series)
        assert removal.removed
        assert removal.instances == len(rows)
        assert removal.voxels >= changed

    client.force_login(reader)
    listed = client.get(
        f"/dicomweb/studies/{taken.deidentified_uid}/series", headers={"accept": "application/dicom+json"}
    )
    shown = {one["0020000E"]["Value"][0]: one["00201209"]["Value"][0] for one in listed.json()}
    wanted = Series.objects.filter(study=taken, sequence__in=["T1", "FLAIR"])
    assert shown == {one.deidentified_uid: one.instances.count() for one in wanted}, "what has no place is held back"
    held = FaceRemoval.objects.get(removed=False)
    assert "frame of reference" in held.reason
    address = f"/dicomweb/studies/{taken.deidentified_uid}/series/{held.series.deidentified_uid}"
    assert client.get(address).status_code == 404
    faces = {one["sequence"]: one for one in faces_of(taken)}
    assert faces["T1"]["removed"]
    assert faces[held.series.sequence]["reason"] == held.reason
    assert AuditRow.objects.get(event="study.deface").detail == {"series": 3, "defaced": 2, "held_back": 1}

    # The volumes for the experts are made of what keeps its face: they are empty outside the brain anyway.
    before = {one.pk: one.object_id for one in DefacedInstance.objects.all()}
    run("imaging.deface_study", taken)
    assert {one.pk: one.object_id for one in DefacedInstance.objects.all()} == before, "done twice, nothing is new"


def switched_on_later_nothing_with_a_face_is_offered(taken, client, settings):
    address = f"/dicomweb/studies/{taken.deidentified_uid}/instances"
    assert client.get(address, headers={"accept": "application/dicom+json"}).status_code == 200
    settings.ONCOFLOW_DEFACE = False
    run("imaging.publish_study", taken)
    everything = len(client.get(address, headers={"accept": "application/dicom+json"}).json())
    assert everything == taken.instances.filter(state=InstanceState.DEIDENTIFIED).count()
    settings.ONCOFLOW_DEFACE = True
    assert client.get(address, headers={"accept": "application/dicom+json"}).status_code in (204, 404)


def the_export_as_a_whole(simulated, taken, tmp_path):
    out = StringIO()
    target = tmp_path / "out"
    call_command("export_research", study=str(taken.pk), out=target, by="reader", dicom=True, stdout=out)
    (session,) = target.glob("sub-*/ses-*")
    names = {str(path.relative_to(session)) for path in session.rglob("*") if path.is_file()}
    folders = {name.split("/")[1] for name in names if name.startswith("dicom/")}
    assert folders == {"1-FLAIR", "2-T1"}
    identity = simulated[1].patient
    secrets = [identity.family.encode(), identity.patient_id.encode(), simulated[1].accession_number.encode()]
    for name in names:
        data = (session / name).read_bytes()
        assert not any(secret in data for secret in secrets), name
    (volume,) = session.glob("anat/*_T1w.nii.gz")
    (mask,) = session.glob("anat/*_mask.nii.gz")
    assert not np.any(np.asarray(nib.load(volume).dataobj)[np.asarray(nib.load(mask).dataobj) == 0])

    after = {int(one.InstanceNumber): one for one in map(dcmread, sorted((session / "dicom" / "2-T1").iterdir()))}
    rows = Series.objects.get(study=taken, sequence="T1").instances.select_related("deidentified")
    pairs = [(one, after[int(one.InstanceNumber)]) for one in (opened(row.deidentified) for row in rows)]
    gone, lost, _ = share_and_loss(simulated, "T1", pairs)
    assert (gone >= 0.93, lost) == (True, 0), gone
    assert all(old.SOPInstanceUID != new.SOPInstanceUID for old, new in pairs)
    with pytest.raises(CommandError):
        call_command("export_research", study=str(taken.pk), out=target, by="reader", dicom=True, stderr=StringIO())


def defaced_slice(simulated, path: Path) -> Path:
    """One slice of the simulated head, de-identified, with a face taken off."""
    first = write_study(simulated[1], path / "one")[0]
    profile = PatientProfile("OF-X", -3, map_uid_for_tests)
    image = dcmread(BytesIO(deidentify(first.read_bytes(), profile).data))
    mask = np.zeros((int(image.Rows), int(image.Columns)), dtype=bool)
    mask[: mask.shape[0] // 3] = True
    data, _ = defaced_file(image, {0: mask}, own_uid=True)
    (path / "defaced.dcm").write_bytes(data)
    return path / "defaced.dcm"


def map_uid_for_tests(uid: str) -> str:
    return uid if uid.startswith("1.2.840.10008.") else f"2.25.{zlib.crc32(uid.encode())}"


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_a_defaced_image(simulated, tmp_path):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    told = subprocess.run([program, defaced_slice(simulated, tmp_path)], capture_output=True, text=True, timeout=60)
    lines = (told.stdout + told.stderr).splitlines()
    assert any("MRImage" in line for line in lines), lines
    assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.peer("dcmtk")
def test_dcmtk_reads_a_defaced_image(simulated, tmp_path):
    program = shutil.which("dcmdump")
    if program is None:
        pytest.skip("dcmdump (dcmtk) is not installed")
    told = subprocess.run([program, defaced_slice(simulated, tmp_path)], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0
    assert "RecognizableVisualFeatures" in told.stdout
    assert "[113102]" in told.stdout
