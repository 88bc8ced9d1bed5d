"""Volumes, diameters, lesions and the response category, against known shapes and hand-computed numbers."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from imaging.brats.regions import region_masks
from imaging.geometry.grid import Grid
from imaging.longitudinal.lesion_tracking import match_lesions, next_number
from imaging.longitudinal.rano import TimePoint, assess_response, change
from imaging.measurement.diameters import axial_diameters
from imaging.measurement.lesions import find_lesions
from imaging.measurement.volumetry import measure_regions, volume_mm3
from imaging.rendering.slices import best_slices, render_slice
from tests.factories.phantoms import rigid, sphere
from tests.factories.studies import SMALL, tumour

FINE = Grid(np.diag([1.0, 1.0, 1.2, 1.0]), (90, 80, 60))


def box(grid: Grid, z: slice, y: slice, x: slice):
    mask = np.zeros(grid.shape_zyx, dtype=bool)
    mask[z, y, x] = True
    return mask


def test_volume_counts_voxels_times_the_determinant():
    grid = Grid(rigid((12, 20, 3), (0, 0, 0)) @ np.diag([0.5, 2.0, 3.0, 1.0]), (20, 20, 20))
    assert volume_mm3(box(grid, slice(0, 2), slice(0, 3), slice(0, 4)), grid) == pytest.approx(24 * 3.0)


def test_diameters_of_a_ball():
    found = axial_diameters(sphere(FINE, (45, 40, 36), 20), FINE)
    assert found is not None
    assert found.longest_mm == pytest.approx(41, abs=1)
    assert found.perpendicular_mm == pytest.approx(41, abs=1)
    assert found.measurable


def test_a_run_of_voxels_is_as_long_as_its_voxels():
    found = axial_diameters(box(FINE, slice(5, 7), slice(10, 11), slice(20, 40)), FINE)
    assert found is not None
    assert found.longest_mm == pytest.approx(20.0)
    assert found.perpendicular_mm == pytest.approx(1.0, abs=0.3)
    assert not found.measurable


def test_diameters_follow_the_physical_spacing():
    grid = Grid(np.diag([0.5, 2.0, 1.0, 1.0]), (60, 30, 5))
    found = axial_diameters(box(grid, slice(1, 4), slice(5, 15), slice(10, 30)), grid)
    assert found is not None
    # 10 rows of 2 mm, 20 columns of 0.5 mm
    assert found.longest_mm == pytest.approx(np.hypot(20, 10), abs=1.5)


def test_a_diameter_does_not_leave_the_lesion():
    mask = box(FINE, slice(10, 12), slice(20, 60), slice(20, 26))  # an L: 40 x 6 and 6 x 40
    mask |= box(FINE, slice(10, 12), slice(54, 60), slice(20, 60))
    found = axial_diameters(mask, FINE)
    assert found is not None
    hull = np.hypot(40, 40)
    assert 39 <= found.longest_mm < 45 < hull


def test_one_slice_is_not_measurable_two_are():
    one = axial_diameters(box(FINE, slice(3, 4), slice(5, 25), slice(5, 25)), FINE)
    two = axial_diameters(box(FINE, slice(3, 5), slice(5, 25), slice(5, 25)), FINE)
    assert one is not None
    assert not one.measurable
    assert two is not None
    assert two.measurable


def test_an_enhancing_rim_is_measured_across_its_necrosis():
    labels = tumour(FINE, ((45, 40, 36), 12, 16, 20))
    regions = measure_regions(labels, FINE)
    assert regions["ET"].longest_axial_diameter_mm == pytest.approx(33, abs=1.5)
    assert regions["ET"].volume_mm3 < regions["TC"].volume_mm3 < regions["WT"].volume_mm3
    assert regions["TC"].volume_mm3 == pytest.approx(4 / 3 * np.pi * 16**3, rel=0.02)


def test_nothing_is_nothing_and_not_minus_one():
    regions = measure_regions(np.zeros(FINE.shape_zyx, dtype=np.uint8), FINE)
    for region in regions.values():
        assert region.volume_mm3 == 0
        assert region.longest_axial_diameter_mm is None
        assert region.measurable is False


def test_unknown_spacing_leaves_millimetres_unassessed():
    regions = measure_regions(tumour(FINE, ((45, 40, 36), 8, 12, 18)), FINE, spacing_known=False)
    for region in regions.values():
        assert region.volume_mm3 is None
        assert region.longest_axial_diameter_mm is None
        assert region.assessed is False
        assert region.voxels > 0
        assert "not known" in region.reason


def test_the_experts_spread_is_the_uncertainty():
    labels = tumour(FINE, ((45, 40, 36), 8, 12, 18))
    small, large = tumour(FINE, ((45, 40, 36), 8, 11, 16)), tumour(FINE, ((45, 40, 36), 8, 13, 20))
    spread = measure_regions(labels, FINE, experts=[region_masks(small), region_masks(large)])["WT"].uncertainty_mm3
    assert spread.low == pytest.approx(np.count_nonzero(small) * 1.2)
    assert spread.high == pytest.approx(np.count_nonzero(large) * 1.2)


# --- lesions ----------------------------------------------------------------------------------------------------------


def test_lesions_are_parts_of_the_core_and_specks_are_left_out():
    labels = tumour(FINE, ((25, 40, 36), 6, 10, 13), ((65, 40, 36), 0, 6, 9))
    labels[2, 2, 2] = 3
    found = find_lesions(labels, FINE)
    assert len(found) == 2
    assert found[0].mask.sum() > found[1].mask.sum()
    assert found[0].centroid_ras_mm == pytest.approx((25, 40, 36), abs=0.5)
    assert not (found[0].territory & found[1].territory).any()
    assert (found[0].territory & (labels == 2)).any()


def test_ragged_parts_close_together_are_one_lesion():
    labels = np.zeros(FINE.shape_zyx, dtype=np.uint8)
    labels[20:26, 20:30, 20:30] = 3
    labels[20:26, 20:30, 32:40] = 3  # 2 mm apart
    labels[20:26, 20:30, 50:58] = 3  # 10 mm apart
    assert len(find_lesions(labels, FINE)) == 2


def test_without_a_core_the_whole_tumour_is_the_lesion():
    labels = np.where(sphere(FINE, (45, 40, 36), 12), 2, 0).astype(np.uint8)
    assert len(find_lesions(labels, FINE)) == 1


def test_lesions_are_matched_across_a_turned_head():
    pose = rigid((4, -3, 6), (3, 5, -4))
    places = [(-25.0, 10.0, 5.0), (25.0, -20.0, 10.0)]
    prior = find_lesions(tumour(SMALL, *[(c, 4.0, 8.0, 10.0) for c in places]), SMALL)
    moved = [tuple(np.linalg.inv(pose)[:3, :3] @ c + np.linalg.inv(pose)[:3, 3]) for c in places]
    current = find_lesions(tumour(SMALL, (moved[1], 6.0, 12.0, 14.0), (moved[0], 0.0, 5.0, 8.0)), SMALL)
    match = match_lesions(current, SMALL, prior, SMALL, pose)
    named = {
        tuple(np.round(current[i].centroid_ras_mm)): tuple(np.round(prior[j].centroid_ras_mm))
        for i, j in match.same.items()
    }
    assert len(named) == 2
    for here, there in named.items():
        assert np.linalg.norm(pose[:3, :3] @ here + pose[:3, 3] - there) < 5


def test_a_split_and_a_merged_lesion_are_told():
    one = find_lesions(tumour(SMALL, ((0, 0, 0), 0, 18, 20)), SMALL)
    two = find_lesions(tumour(SMALL, ((-11, 0, 0), 0, 8, 9), ((11, 0, 0), 0, 6, 7)), SMALL)
    assert len(two) == 2
    split = match_lesions(two, SMALL, one, SMALL, np.eye(4))
    assert split.same == {0: 0}
    assert split.split_from == {1: 0}
    merged = match_lesions(one, SMALL, two, SMALL, np.eye(4))
    assert merged.same == {0: 0}
    assert merged.merged_into == {1: 0}


def test_numbers_are_never_given_twice():
    assert next_number([]) == 1
    assert next_number(["L1", "L7", "L3"]) == 8


# --- response ---------------------------------------------------------------------------------------------------------


def point(day: int, et: float | None, measurable: bool | None = True) -> TimePoint:
    return TimePoint(f"s{day}", datetime(2026, 1, day, tzinfo=UTC), {"ET": et, "TC": et, "WT": et}, measurable)


@pytest.mark.parametrize(
    ("volumes", "category", "rule"),
    [
        ([10000, 3500], "PR", "RANO2-PR-VOLUME-65"),  # exactly -65 %: inclusive
        ([10000, 3501], "SD", "RANO2-SD"),
        ([10000, 14000], "PD", "RANO2-PD-VOLUME-40"),  # exactly +40 %: inclusive
        ([10000, 13999], "SD", "RANO2-SD"),
        ([10000, 0], "CR", "RANO2-CR-VOLUME-0"),
        ([10000, 4000, 5600], "PD", "RANO2-PD-VOLUME-40"),  # against the nadir, not the baseline
        ([10000, 4000, 5599], "SD", "RANO2-SD"),
        ([10000, 2000, 2500], "PR", "RANO2-PR-VOLUME-65"),  # against the baseline
    ],
)
def test_thresholds_of_rano_on_integers(volumes, category, rule):
    points = [point(day, float(v), v > 0) for day, v in enumerate(volumes, start=1)]
    result = assess_response(points[-1], points[:-1], new_measurable_lesions=0)
    assert result.category == category
    assert rule in result.rule_ids
    assert "corticosteroid dose" in result.missing
    assert "imaging-only" in result.criteria


def test_a_new_measurable_lesion_is_progression_whatever_the_volume():
    result = assess_response(point(2, 1000.0), [point(1, 10000.0)], new_measurable_lesions=1)
    assert result.category == "PD"
    assert "RANO2-PD-NEW-LESION" in result.rule_ids


def test_without_measurable_disease_nothing_is_concluded():
    result = assess_response(point(2, 50.0, False), [point(1, 90.0, False)], new_measurable_lesions=0)
    assert result.category == "not assessed"
    assert "REPEATABILITY-0.1ML" in result.rule_ids


def test_the_first_scan_is_the_baseline():
    result = assess_response(point(1, 900.0), [], new_measurable_lesions=None)
    assert result.category == "not assessed"
    assert result.rule_ids == ("RANO2-BASELINE",)


def test_unknown_spacing_is_missing_not_guessed():
    result = assess_response(point(2, None, None), [point(1, None, None)], new_measurable_lesions=None)
    assert result.category == "not assessed"
    assert result.missing[0] == "voxel spacing"


@pytest.mark.parametrize(
    ("arguments", "percent", "words"),
    [
        ((150.0, 100.0), 50.0, ""),
        ((50.0, 40.0), 25.0, "Below 0.1 ml"),
        ((50.0, 0.0), None, "none before"),
        ((0.0, 0.0), 0.0, "none at either"),
        ((None, None, 30, 20), 50.0, "voxel counts"),
        ((None, 10.0, None, None), None, "Not assessed"),
    ],
)
def test_change_of_a_region(arguments, percent, words):
    result = change(*arguments)
    assert result.change_percent == percent
    assert words in result.reason
    if arguments[0] is None:
        assert result.change_mm3 is None


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_slice_is_shown_in_radiological_convention_and_true_proportions():
    from io import BytesIO

    from PIL import Image

    grid = Grid(np.diag([1.0, 1.0, 3.0, 1.0]), (60, 40, 20))
    volume = np.full(grid.shape_zyx, 50.0, dtype=np.float32)
    volume[10, 35:, 55:] = 200.0  # right, anterior
    shown = np.asarray(Image.open(BytesIO(render_slice(volume, grid, "axial", 10, window=(0, 200)))).convert("L"))
    assert shown.shape == (80, 120)
    assert shown[5, 5] > 200
    assert shown[5, -5] < 120
    assert shown[-5, 5] < 120
    coronal = np.asarray(Image.open(BytesIO(render_slice(volume, grid, "coronal", 37, window=(0, 200)))))
    assert coronal.shape[:2] == (120, 120)  # 20 slices of 3 mm are as tall as 60 columns of 1 mm


def test_regions_are_drawn_and_the_best_slices_show_the_tumour():
    labels = tumour(FINE, ((45, 40, 36), 6, 10, 16))
    assert best_slices(labels) == {"axial": 30, "coronal": 40, "sagittal": 45}
    image = np.where(labels > 0, 200, 100).astype(np.float32)
    plain = render_slice(image, FINE, "axial", 30)
    assert plain != render_slice(image, FINE, "axial", 30, labels)
    assert plain == render_slice(image, FINE, "axial", 30, np.zeros_like(labels))
    with pytest.raises(ValueError):
        render_slice(image[1:], FINE, "axial", 3)
