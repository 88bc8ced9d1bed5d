"""Volumes made again from their record, and masks on their way back to the scanner's grid."""

from __future__ import annotations

import hashlib
from io import StringIO

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from audit.models import AuditRow
from imaging.geometry.grid import Grid, to_ras
from imaging.geometry.nifti import write_nifti
from imaging.geometry.resample import resample
from imaging.models import Volume
from imaging.volumes.load import grid_of
from imaging.volumes.native_space import from_native_grid, native_frames, native_grid, to_native_grid
from imaging.volumes.reproduce import CannotRemake, remake
from oncoflow_site.foundation import objects
from tests.factories import studies
from tests.factories.phantoms import head, rigid, sphere

SCANNERS = {
    # what a scanner may give: (columns of the affine), spacing, voxels
    "T1c": (np.diag([-1.0, -1.0, 1.0]), (1.0, 1.0, 1.2), (150, 190, 130)),
    "T2": (np.diag([-1.0, -1.0, 1.0]), (0.9, 0.9, 5.0), (166, 210, 32)),
    "FLAIR": (np.array([[0, 0, -1.0], [-1, 0, 0], [0, -1, 0]]).T, (1.0, 1.0, 2.0), (190, 150, 75)),
}


def scanner_made(name: str, oblique: np.ndarray) -> Grid:
    directions, spacing, shape = SCANNERS[name]
    affine = np.eye(4)
    affine[:3, :3] = oblique[:3, :3] @ directions * spacing
    affine[:3, 3] = np.array([0, -10, 0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(affine, shape)


@pytest.fixture
def moved(db):
    """A study of whole heads: each sequence on a grid of its own, the patient moved between them."""
    images, _, grid = head(2.0)
    images["T1c"] = images.pop("T1")
    motions = {"T1c": np.eye(4), "T2": rigid((2, -3, 4), (3, -2, 4)), "FLAIR": rigid((-3, 1, -2), (-2, 3, 1))}
    given = {}
    for name, image in images.items():
        onto = scanner_made(name, rigid((0, 0, 0), (0, 0, 0)) if name == "T1c" else rigid((6, -8, 5), (0, 0, 0)))
        given[name] = (resample(image, grid, onto, np.linalg.inv(motions[name])), onto)
    study = studies.nifti_study(studies.patient(), given)
    studies.run("imaging.prepare_study", study)
    return study, given


def test_a_volume_is_made_again_byte_for_byte_and_masks_come_back_to_the_scanners_grid(moved):
    _, given = moved
    volumes = {one.sequence: one for one in Volume.objects.select_related("volume_set").all()}
    assert set(volumes) == set(given)
    for volume in volumes.values():
        assert volume.transform.converged, volume.transform
        assert hashlib.sha256(remake(volume)).hexdigest() == volume.sha256
        assert np.allclose(np.array(volume.transform.matrix_ras) @ np.array(volume.transform.inverse_ras), np.eye(4))
    out = StringIO()
    call_command("verify_volumes", stdout=out)
    assert out.getvalue().strip() == "3 the same"
    assert AuditRow.objects.filter(event="study.verify", outcome=0).count() == 3

    for name, volume in volumes.items():
        own, grid = native_grid(volume), grid_of(volume.volume_set)
        assert own.same_as(given[name][1], 1e-3)  # a NIfTI header holds float32
        ball = sphere(grid, (-35, 0, 30), 18)
        there = to_native_grid(ball, volume)
        assert there.shape == own.shape_zyx
        assert there.dtype == np.bool_
        # the millilitres stay: thick slices cut a ball of 24 ml coarsely
        volume_there = there.sum() * own.voxel_volume_mm3()
        assert volume_there == pytest.approx(ball.sum() * grid.voxel_volume_mm3(), rel=0.06)
        again = from_native_grid(there, volume)
        dice = 2 * (again & ball).sum() / (again.sum() + ball.sum())
        assert dice > (0.9 if own.spacing_xyz()[2] > 3 else 0.95), (name, dice)
        # and it lies on what it was drawn on: the tumour of this scan, where this scan has it
        truth = resample(sphere(grid, (-35, 0, 30), 17).astype(np.uint8), grid, own,
                         np.linalg.inv(np.array(volume.transform.matrix_ras)), nearest=True) > 0  # fmt: skip
        assert (there | ~truth).all()
    with pytest.raises(ValueError, match="does not fit"):
        to_native_grid(np.zeros((3, 3, 3), bool), volumes["T2"])

    # another matrix on the record makes other bytes, and that is said
    volume = volumes["T2"]
    moved = np.array(volume.transform.matrix_ras)
    moved[0, 3] += 0.5
    volume.transform = volume.transform.model_dump() | {"matrix_ras": moved.tolist()}
    volume.save(update_fields=["transform"])
    with pytest.raises(CommandError, match="not what its record makes"):
        call_command("verify_volumes", stdout=out)
    assert AuditRow.objects.filter(event="study.verify", outcome=8).count() == 1
    # other libraries are no proof of anything
    parameters = volume.volume_set.parameters
    others = {**parameters.versions, "numpy": "0.1"}
    volume.volume_set.parameters = parameters.model_copy(update={"versions": others})
    volume.volume_set.save(update_fields=["parameters"])
    call_command("verify_volumes", "--newest", "3", stdout=out)
    assert "1 other libraries" in out.getvalue()


@pytest.mark.django_db
def test_a_volume_without_its_record_says_so():
    study, volume_set = studies.ready_study(studies.patient(), studies.brain_like(studies.SMALL))
    with pytest.raises(CannotRemake):
        remake(volume_set.volumes.first())
    out = StringIO()
    call_command("verify_volumes", "--study", str(study.pk), stdout=out)
    assert "4 cannot be made again" in out.getvalue()


@pytest.mark.django_db
def test_the_grid_of_an_older_volume_is_read_from_its_series():
    image = studies.brain_like(studies.SMALL)
    study = studies.nifti_study(studies.patient(), {"T1c": (image, studies.SMALL)})
    studies.run("imaging.prepare_study", study)
    volume = Volume.objects.get()
    recorded = native_grid(volume)
    volume.transform = None
    assert native_grid(volume).same_as(recorded)
    assert native_frames(volume.source_series) == []
    turned, grid = to_ras(image, studies.SMALL.affine)
    assert objects.get(volume.source_series.nifti) == write_nifti(turned, grid)
