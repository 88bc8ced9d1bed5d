"""Training data of the simulator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from oncoflow_site.demo.simulator.__main__ import main
from oncoflow_site.demo.simulator.acquisition import ScanGrid, scan
from oncoflow_site.demo.simulator.anatomy import Anatomy, MassEffect
from oncoflow_site.demo.simulator.dataset import Case, plan_cases, simulate_case
from oncoflow_site.demo.simulator.fields import FieldSource, Grid, soft_step
from oncoflow_site.demo.simulator.scanner import rigid


def test_fields_do_not_depend_on_the_grid() -> None:
    source = FieldSource(7)
    fine = source.field(Grid((-20.0, -20.0, -20.0), 1.0, (41, 41, 41)).axes, 9.0, 1)
    coarse = source.field(Grid((-20.0, -20.0, -20.0), 2.0, (21, 21, 21)).axes, 9.0, 1)
    np.testing.assert_allclose(fine[::2, ::2, ::2], coarse, atol=1e-5)
    whole = source.field(Grid((-90.0, -90.0, -90.0), 3.0, (60, 60, 60)).axes, 9.0, 1)
    assert abs(float(whole.mean())) < 0.1
    assert float(whole.std()) == pytest.approx(1.0, abs=0.1)


def test_soft_step_has_finite_support() -> None:
    np.testing.assert_allclose(soft_step(np.array([-3.0, 0.0, 3.0], np.float32), 1.0), [0.0, 0.5, 1.0])


def test_anatomy_is_a_partition_and_a_mass_moves_it() -> None:
    grid = Grid((-60.0, -60.0, 0.0), 3.0, (40, 40, 12))
    anatomy = Anatomy(3)
    maps = anatomy.maps(grid)
    np.testing.assert_allclose(maps.grey + maps.white + maps.csf, 1.0, atol=1e-3)
    moved = anatomy.maps(grid, [MassEffect(np.array([-25.0, 0.0, 18.0]), 14.0, 0.6)])
    assert np.abs(moved.mni - maps.mni).max() > 3.0
    outside = maps.brain_distance > 0
    np.testing.assert_array_equal(moved.mni[:, outside], maps.mni[:, outside])


def test_head_position_inverts_the_warp() -> None:
    anatomy = Anatomy(5, rotate=True)
    x, y, z = anatomy.head_position((30.0, -20.0, 12.0))
    back = anatomy.coordinates(Grid((x, y, z), 1.0, (1, 1, 1)))[:, 0, 0, 0]
    np.testing.assert_allclose(back, (30.0, -20.0, 12.0), atol=0.05)


def test_plan_has_disjoint_seeds_and_the_promised_shares() -> None:
    cases = plan_cases(260, 30, 1, 2.0)
    assert len({case.seed for case in cases}) == 290
    assert sum(not c.tumour for c in cases if not c.held_out) == 70
    assert sum(not c.tumour for c in cases if c.held_out) == 6


def test_cases_are_deterministic_and_zero_outside_the_mask() -> None:
    case = Case("X", 11, True, True, 3.0)
    one, two = simulate_case(case), simulate_case(case)
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.labels, two.labels)
    inside = one.images[0] > 0
    assert all(np.array_equal(image > 0, inside) for image in one.images)
    assert set(np.unique(one.labels)) <= {0, 1, 2, 3}
    assert one.labels.any()
    assert not one.labels[~inside].any()
    assert one.record["volumes_ml"]["WT"] == pytest.approx(np.count_nonzero(one.labels) * 0.027, abs=0.01)


def test_command_writes_the_raw_layout(tmp_path: Path) -> None:
    assert (
        main(["dataset", "--out", str(tmp_path), "--cases", "2", "--held-out", "1", "--seed", "3", "--spacing", "4"])
        == 0
    )
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "T1c", "2": "T2", "3": "FLAIR"}
    assert description["labels"]["WT"] == [1, 2, 3]
    assert description["regions_class_order"] == [2, 1, 3]
    assert description["numTraining"] == 2
    assert len(list((tmp_path / "imagesTr").iterdir())) == 8
    image = nib.load(tmp_path / "imagesTs" / "SIMHELD_0000_0001.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), 4.0)
    assert nib.load(tmp_path / "labelsTs" / "SIMHELD_0000.nii.gz").shape == image.shape
    assert len(json.loads((tmp_path / "cases.json").read_text())["cases"]) == 3


def test_simulator_needs_neither_django_nor_torch() -> None:
    code = (
        "import sys, oncoflow_site.demo.simulator.dataset, oncoflow_site.demo.simulator.dicomwriter as w;"
        "bad = {'torch', 'sklearn'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_scan_interpolates_at_the_slices_positions() -> None:
    x, y, z = np.meshgrid(np.arange(20.0), np.arange(24.0), np.arange(28.0), indexing="ij")
    plane = (2 * x + 3 * y - z + 40).astype(np.float32)
    to_voxel = rigid(np.array([0.1, 0.2, -0.1]), np.array([4.0, 3.0, 5.0]))
    scanned = scan(plane, to_voxel, ScanGrid(np.eye(4), (9, 8, 7), (1.0, 1.0, 3.0), 3.0), 1.0)
    for voxel in ((2, 3, 2), (6, 4, 5)):
        vx, vy, vz = (to_voxel @ [*voxel, 1.0])[:3]
        assert scanned[voxel] == pytest.approx(2 * vx + 3 * vy - vz + 40, abs=1e-3)
