"""A person's segmentation: who may bring one in, what is refused, and what follows."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from django.test import Client

from audit.models import AuditRow
from clinical.access import assign
from clinical.models import Patient, User
from imaging.geometry.grid import Grid
from imaging.geometry.nifti import read_nifti, write_nifti
from imaging.models import Segmentation, Study
from imaging.segmentation.label_maps import current_segmentation, load_labels
from oncoflow_site.foundation.jobs import run_pending
from reports.models import Report
from reports.services import load_content

pytestmark = pytest.mark.django_db
GRID = Grid(np.eye(4), (26, 28, 24))


def outline(grid: Grid = GRID, *, value: int = 3) -> bytes:
    """A box of 6 x 5 x 4 mm around (13, 14, 12)."""
    labels = np.zeros(grid.shape_zyx, np.uint8)
    z, y, x = np.indices(grid.shape_zyx)
    world = grid.world(np.stack([x, y, z], -1).reshape(-1, 3)).reshape(*grid.shape_zyx, 3)
    inside = (np.abs(world - np.array([13.0, 14.0, 12.0])) < np.array([3.0, 2.5, 2.0])).all(-1)
    labels[inside] = value
    return write_nifti(labels, grid)


def send(
    client: Client, study: Study, data: bytes, reason: str = "The models took the scar for tumour.", **more: Any
) -> Any:
    file = io.BytesIO(data)
    file.name = "outline.nii.gz"
    return client.post(f"/api/studies/{study.pk}/segmentations/", {"file": file, "reason": reason, **more})


@pytest.fixture
def reader(drafted: Report, client_of: Callable[[Any], Client], radiologist: User) -> Client:
    return client_of(radiologist)


def test_it_is_put_in_force_measured_and_reported(drafted: Report, reader: Client) -> None:
    study = drafted.study
    answer = send(reader, study, outline())
    assert answer.status_code == 201, answer.content
    current = current_segmentation(study)
    assert current is not None
    assert (str(current.pk), current.kind) == (answer.json()["id"], "person")
    assert np.count_nonzero(load_labels(current) == 3) == 5 * 5 * 3
    row = AuditRow.objects.get(event="segmentation.person", outcome=0)
    assert (row.patient, row.actor_type) == (study.patient_id, "user")
    run_pending("default")
    drafted.refresh_from_db()
    assert drafted.versions.count() == 2
    assert study.measurements.filter(segmentation=current).exists()


def test_the_studys_grid_with_its_axes_turned_is_the_studys_grid(drafted: Report, reader: Client) -> None:
    whole, _ = read_nifti(outline(), as_float=False)
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = GRID.shape_xyz[0] - 1
    turned = Grid(GRID.affine @ mirrored, GRID.shape_xyz)
    assert send(reader, drafted.study, write_nifti(whole[:, :, ::-1], turned)).status_code == 201
    current = current_segmentation(drafted.study)
    assert current is not None
    assert np.array_equal(load_labels(current), whole)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_by_its_header(drafted: Report, reader: Client) -> None:
    shape = (400, 400, 400)
    head = nib.Nifti1Header()
    head.set_data_dtype(np.uint8)
    head.set_data_shape(shape)
    head.set_sform(np.eye(4), code=1)
    head["vox_offset"], head["magic"] = 352, b"n+1"
    bomb = gzip.compress(head.binaryblock + b"\0\0\0\0" + bytes(64_000_000), 9)
    assert len(bomb) < 100_000
    tracemalloc.start()
    answer = send(reader, drafted.study, bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.json()["type"] == "urn:oncoflow:problem:other-frame"
    assert peak < 16 << 20


elsewhere = np.eye(4)
elsewhere[:3, 3] = 300.0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"nonsense", "unreadable"),
        (outline(value=4), "labels"),
        (write_nifti(np.full((24, 28, 26), 1.5, np.float32), GRID), "labels"),
        (write_nifti(np.ones((24, 28, 26), np.uint8), Grid(elsewhere, (26, 28, 24))), "other-frame"),
        (outline(Grid(np.diag([0.5, 0.5, 0.5, 1.0]), (52, 56, 48))), "other-frame"),
    ],
    ids=["nonsense", "label 4", "no whole labels", "another frame", "another grid"],
)
def test_what_cannot_be_this_studys_is_refused(data: bytes, code: str, drafted: Report, reader: Client) -> None:
    before = Segmentation.objects.count()
    answer = send(reader, drafted.study, data)
    assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
    assert answer.json()["type"] == f"urn:oncoflow:problem:{code}"
    assert Segmentation.objects.count() == before


def test_a_reason_is_asked_for(drafted: Report, reader: Client) -> None:
    assert send(reader, drafted.study, outline(), reason=" ").status_code == 400


def test_only_whose_role_allows_it(drafted: Report, client_of: Callable[[Any], Client], patient: Patient) -> None:
    doctor = User.objects.create_user(username="dora", role="doctor")
    assert send(client_of(doctor), drafted.study, outline()).status_code == 404
    assign(doctor, patient, reason="treats the patient", by=None)
    assert send(client_of(doctor), drafted.study, outline()).status_code == 403
    assert AuditRow.objects.filter(event="segmentation.person", outcome__gt=0).count() == 2
    assert not Segmentation.objects.filter(kind="person").exists()


def test_the_page_takes_one_too(drafted: Report, reader: Client, client_of: Callable[[Any], Client]) -> None:
    page = f"/studies/{drafted.study.pk}/"
    assert "Bring in your own outline" in reader.get(page).content.decode()
    file = io.BytesIO(b"nonsense")
    file.name = "outline.nii.gz"
    answer = reader.post(f"{page}outline", {"file": file, "reason": "x"}, follow=True)
    assert "This is no label map" in answer.content.decode()
    file = io.BytesIO(outline())
    file.name = "outline.nii.gz"
    answer = reader.post(f"{page}outline", {"file": file, "reason": "The scar."}, follow=True)
    assert "is in force" in answer.content.decode()
    doctor = User.objects.create_user(username="dora", role="doctor")
    assign(doctor, drafted.patient, reason="treats the patient", by=None)
    assert "Bring in your own outline" not in client_of(doctor).get(page).content.decode()
    assert client_of(doctor).post(f"{page}outline", {"reason": "x"}).status_code == 403


def test_with_sequences_missing_a_person_assesses_what_they_outline_or_say_they_looked_for(
    drafted: Report, reader: Client
) -> None:
    study = drafted.study
    study.volume_sets.get().volumes.exclude(sequence="T1c").delete()
    enhancing = send(reader, study, outline(value=3)).json()
    assert list(enhancing["not_assessed"]) == ["WT"]
    assert send(reader, study, outline(value=3), assessed=["WT"]).json()["not_assessed"] == {}
    assert send(reader, study, outline(value=2)).json()["not_assessed"] == {}
    refused = send(reader, study, outline(value=3), assessed=["XX"])
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:oncoflow:problem:region")
    send(reader, study, outline(value=3))
    run_pending("default")
    measured = study.measurements.order_by("-created_at").first()
    assert measured is not None
    assert measured.regions["WT"].voxels is None
    reasons = load_content(drafted.versions.order_by("-number").first()).held_reasons
    assert any("a reduced result is always held" in reason for reason in reasons)
