"""Rigid registration against known motions."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.geometry.grid import Grid
from imaging.geometry.resample import centroid_ras, resample
from imaging.preprocessing.rigid import register_rigid
from tests.factories.phantoms import rigid
from tests.factories.studies import SMALL, brain_like

POLES = np.concatenate([np.eye(3), -np.eye(3)]) * 60


def error_mm(found, truth) -> float:
    one = POLES @ found[:3, :3].T + found[:3, 3]
    other = POLES @ truth[:3, :3].T + truth[:3, 3]
    return float(np.max(np.linalg.norm(one - other, axis=1)))


@pytest.mark.parametrize(("angles", "shift", "spacing"), [((3, -4, 5), (4, -3, 6), 2.0), ((-6, 2, 8), (-8, 5, 3), 3.0)])
def test_a_known_motion_is_found(angles, shift, spacing):
    fixed = brain_like(SMALL, seed=1)
    truth = rigid(angles, shift)
    onto = SMALL.with_spacing((2.0, 2.0, spacing))
    # other contrast, other noise, other slices
    other = np.where(fixed > 0, 400 - brain_like(SMALL, seed=2), 0).astype(np.float32)
    moving = resample(other, SMALL, onto, np.linalg.inv(truth))
    found = register_rigid(fixed, SMALL, moving, onto, threads=1)
    assert found.converged, found.reason
    assert error_mm(found.matrix, truth) < 0.7
    assert found.quality["start_disagreement_mm"] < 5


def test_the_same_input_gives_the_same_answer():
    fixed = brain_like(SMALL, seed=1)
    moving = resample(fixed, SMALL, SMALL, rigid((2, 1, -3), (2, 2, 1)))
    first = register_rigid(fixed, SMALL, moving, SMALL, threads=1)
    second = register_rigid(fixed, SMALL, moving, SMALL, threads=1)
    assert np.allclose(first.matrix, second.matrix, atol=1e-6)


def test_unrelated_and_uniform_images_do_not_converge():
    fixed = brain_like(SMALL)
    noise = np.random.default_rng(0).random(SMALL.shape_zyx).astype(np.float32)
    assert not register_rigid(fixed, SMALL, np.zeros_like(fixed), SMALL, threads=1).converged
    assert not register_rigid(fixed, SMALL, noise, SMALL, threads=1).converged


def test_a_far_away_image_is_met_at_its_centre():
    fixed = brain_like(SMALL)
    far = Grid(rigid((0, 0, 0), (300, -200, 500)) @ SMALL.affine, SMALL.shape_xyz)
    found = register_rigid(fixed, SMALL, fixed, far, threads=1)
    assert found.converged
    assert error_mm(found.matrix, rigid((0, 0, 0), (300, -200, 500))) < 0.5


def test_resampling_takes_the_value_at_the_moved_place():
    image = np.zeros(SMALL.shape_zyx, dtype=np.float32)
    image[20:24, 30:34, 40:44] = 7
    moved = resample(image, SMALL, SMALL, rigid((0, 0, 0), (20, 0, 0)))
    assert np.allclose(np.subtract(centroid_ras(image > 0, SMALL), centroid_ras(moved > 3, SMALL)), (20, 0, 0), atol=1)
    labels = resample((image > 0).astype(np.uint8), SMALL, SMALL, rigid((5, 5, 5), (1, 1, 1)), nearest=True)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1}
