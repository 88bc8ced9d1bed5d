"""Midline plane, midline shift and location of lesions: simulated patients with a known shift, and where nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.geometry.grid import Grid, to_ras
from imaging.geometry.resample import resample
from imaging.measurement.lesion_location import NO_LOBES, lesion_location, midline_shift
from imaging.measurement.lesions import find_lesions
from imaging.measurement.midline_shift import Midline, find_midline
from imaging.preprocessing.mni152 import AtlasFit, atlas_grid, atlas_template, fit_atlas, from_atlas, to_atlas
from oncoflow_site.demo.simulator.patient import SyntheticPatient
from tests.factories.phantoms import rigid, sphere
from tests.factories.studies import SMALL, brain_like, tumour

PLANE = Midline(np.array([1.0, 0, 0]), 2.0, 3.26, 1.4, "", "", AtlasFit(np.eye(4), 0.8), {"plane_rms_mm": 1.0})


def stripped(seed: int, scenario: str):
    patient = SyntheticPatient(seed, scenario, spacing=2)
    study = patient.acquire(0, skull=False, sequences=("T1", "T1c"))
    series, truth = study.series["T1"], patient.midline(0)
    image, grid = to_ras(series.pixels.transpose(2, 1, 0).astype(np.float32), series.grid.affine)
    to_world = study.truth.affine @ np.linalg.inv(patient.visit(0).affine)
    return image, grid, truth.shift_mm, to_world[:3, :3] @ truth.normal


@pytest.mark.parametrize(("seed", "scenario"), [(2, "midline-shift"), (11, "two-lesions")])
def test_a_known_shift_is_measured_within_two_millimetres(seed, scenario):
    image, grid, truth, normal = stripped(seed, scenario)
    assert abs(truth) > 5 if scenario == "midline-shift" else abs(truth) < 2
    found = find_midline(image, image > 0, grid, threads=1)
    assert found.shift_mm == pytest.approx(truth, abs=2.0), found.reason
    assert abs(found.shift_mm - truth) <= found.uncertainty_mm
    assert np.degrees(np.arccos(found.normal @ normal)) < 3
    entry = midline_shift(found)
    assert entry.assessed
    assert entry.towards == ("left" if found.shift_mm < 0 else "right")
    # a tumour's core over the septum: nothing is measured through it
    core = np.zeros(image.shape, bool)
    core[:, :, image.shape[2] // 2 - 25 : image.shape[2] // 2 + 25] = True
    hidden = find_midline(image, image > 0, grid, tumour=core, threads=1)
    assert (hidden.shift_mm, hidden.reason) == (None, "the tumour lies over the septum")
    assert hidden.normal is not None


def test_a_shift_is_not_assessed_where_nothing_is_to_be_found():
    ball = brain_like(SMALL)
    found = find_midline(ball, ball > 0, SMALL, threads=1)
    assert (found.normal, found.shift_mm) == (None, None)
    assert found.reason
    entry = midline_shift(found)
    assert (entry.assessed, entry.shift_mm, entry.towards) == (False, None, None)
    doubtful = find_midline(ball, ball > 0, SMALL, doubtful="it is too small", threads=1)
    assert "too small" in doubtful.reason
    nothing = find_midline(ball, np.zeros(ball.shape, bool), SMALL, threads=1)
    assert nothing.reason == "there is no brain mask"
    with pytest.raises(ValueError, match="no midline"):
        found.distance(np.zeros(3))


@pytest.mark.parametrize(
    ("centre", "hemisphere", "distance"),
    [((30, 0, 0), "right", 18.0), ((-30, 0, 0), "left", 22.0), ((4, 0, 0), "both", 0.0), ((11.0, 0, 0), "right", 0.0)],
)
def test_side_and_distance_are_the_patients(centre, hemisphere, distance):
    labels = tumour(SMALL, (centre, 5, 10, 14))
    (lesion,) = find_lesions(labels, SMALL)
    entry = lesion_location(lesion, SMALL, PLANE)
    assert entry.hemisphere == hemisphere
    assert entry.distance_to_midline_mm == pytest.approx(distance, abs=1.5)
    assert (entry.assessed, entry.uncertainty_mm, entry.lobe, entry.lobe_reason) == (
        True,
        1.5,
        None,
        NO_LOBES,
    )


def test_a_location_without_plane_or_millimetres_says_why():
    (lesion,) = find_lesions(tumour(SMALL, ((30, 0, 0), 5, 10, 14)), SMALL)
    lost = Midline(None, 0.0, None, None, "no fissure", "no fissure", AtlasFit(np.eye(4), 0.1))
    for entry, reason in (
        (lesion_location(lesion, SMALL, lost), "no fissure"),
        (lesion_location(lesion, SMALL, None, reason="no T1"), "no T1"),
        (lesion_location(lesion, SMALL, PLANE, spacing_known=False), "spacing"),
    ):
        assert (entry.assessed, entry.hemisphere, entry.distance_to_midline_mm) == (False, None, None)
        assert reason in entry.reason


def test_the_atlas_is_found_on_itself_moved_and_back():
    template, grid = atlas_template()
    motion = rigid((4, -3, 5), (8, -6, 5)) @ np.diag([0.92, 0.95, 0.9, 1.0])
    onto = Grid(np.array([[2.0, 0, 0, -90], [0, 2.0, 0, -120], [0, 0, 2.0, -80], [0, 0, 0, 1]]), (92, 110, 90))
    moved = resample(template, grid, onto, np.linalg.inv(motion))
    fit = fit_atlas(moved, moved > 20, onto, threads=1)
    assert not fit.reason
    assert fit.correlation > 0.9
    points = np.array([[40, 20, 30], [-40, -60, 10], [0, 50, 20], [10, -20, 60.0]])
    error = points @ (fit.matrix - motion)[:3, :3].T + (fit.matrix - motion)[:3, 3]
    assert np.max(np.linalg.norm(error, axis=1)) < 2.0
    back, placed = to_atlas(moved, onto, fit)
    assert placed.same_as(atlas_grid())
    inside = template > 0
    assert np.corrcoef(back[inside], template[inside])[0, 1] > 0.9
    ball = sphere(atlas_grid(), (30, 10, 20), 15)
    there = from_atlas(ball.astype(np.uint8), fit, onto)
    again, _ = to_atlas(there, onto, fit, nearest=True)
    assert 2 * (ball & (again > 0)).sum() / (ball.sum() + (again > 0).sum()) > 0.9
