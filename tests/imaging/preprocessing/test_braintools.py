"""The brain mask's tool: one that a setting names is used, looked at, and refused clearly when it is not there."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from django.core.checks import run_checks

from imaging.geometry.grid import Grid
from imaging.preprocessing.brain_extraction import BrainMask, find_brain
from imaging.preprocessing.brain_extraction_tools import brain_finder
from imaging.preprocessing.coregistration import coregister_study
from oncoflow_site.foundation.errors import PermanentError
from tests.factories.phantoms import sphere

GRID = Grid(np.array([[4.0, 0, 0, -100], [0, 4.0, 0, -100], [0, 0, 4.0, -100], [0, 0, 0, 1]]), (50, 50, 50))


def head_of_nothing() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A ball of 62 mm (a litre) in a head of 90 mm; no atlas would find it."""
    image = np.where(sphere(GRID, (0, 0, 0), 62), 100, np.where(sphere(GRID, (0, 0, 0), 90), 40, 1)).astype(np.float32)
    return {"T1": (image, GRID.affine)}


def bright(images, grid, *, threads=2) -> BrainMask:
    """A plug-in as a hospital might write it."""
    return BrainMask(images["T1"] > 70, "what is bright")


def wrong_shape(images, grid, *, threads=2) -> BrainMask:
    return BrainMask(np.ones((2, 2, 2), bool), "wrong")


def everything(images, grid, *, threads=2) -> BrainMask:
    return BrainMask(np.ones(grid.shape_zyx, bool), "everything")


def named(settings, function: str):
    settings.ONCOFLOW_BRAIN_MASK = f"{__name__}:{function}"
    return brain_finder(settings.ONCOFLOW_BRAIN_MASK)


def test_the_classical_tool_is_the_default(settings):
    assert brain_finder(settings.ONCOFLOW_BRAIN_MASK) is find_brain


def test_a_function_that_the_setting_names_finds_the_brain(settings):
    made = coregister_study(head_of_nothing(), threads=1, brain_finder=named(settings, "bright"))
    assert made.parameters.brain.method == "what is bright"
    assert made.parameters.brain.quality["volume_ml"] == pytest.approx(4 / 3 * np.pi * 62**3 / 1000, rel=0.03)
    assert made.parameters.warnings == ()
    assert np.all(made.images["T1"][made.brain] > 50)
    assert np.all(made.images["T1"][~made.brain] == 0)


def test_its_answer_is_looked_at(settings):
    images = {"T1": head_of_nothing()["T1"][0]}
    with pytest.raises(PermanentError, match="does not fit"):
        named(settings, "wrong_shape")(images, GRID)
    found = named(settings, "everything")(images, GRID)
    assert not found.plausible
    assert "size" in found.reason


@pytest.mark.parametrize("name", ["hd-bet", "nowhere.to:be", f"{__name__}:nothing", "quick"])
def test_a_tool_that_is_not_there_is_refused_and_the_check_says_so(settings, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    settings.ONCOFLOW_BRAIN_MASK = name
    with pytest.raises(PermanentError, match="ONCOFLOW_BRAIN_MASK"):
        brain_finder(settings.ONCOFLOW_BRAIN_MASK)
    assert [one.id for one in run_checks(tags=["imaging"])] == ["imaging.E010"]


def test_hd_bet_is_run_as_a_command_on_files_of_ours(settings, monkeypatch, tmp_path):
    """A small program stands where HD-BET would: same arguments, same files."""
    program = tmp_path / "hd-bet"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, nibabel as nib, numpy as np\n"
        "given, out = sys.argv[sys.argv.index('-i') + 1], sys.argv[sys.argv.index('-o') + 1]\n"
        "assert '--save_bet_mask' in sys.argv\n"
        "image = nib.load(given)\n"
        "mask = (image.get_fdata() > 70).astype('uint8')\n"
        "nib.save(nib.Nifti1Image(mask, image.affine), out.replace('.nii.gz', '_bet.nii.gz'))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    settings.ONCOFLOW_BRAIN_MASK = "hd-bet"
    assert run_checks(tags=["imaging"]) == []
    images = {"T1": head_of_nothing()["T1"][0]}
    found = brain_finder(settings.ONCOFLOW_BRAIN_MASK)(images, GRID)
    assert found.method == "HD-BET"
    assert found.plausible
    assert np.array_equal(found.mask, images["T1"] > 70)
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(PermanentError, match="status 3"):
        brain_finder(settings.ONCOFLOW_BRAIN_MASK)(images, GRID)
