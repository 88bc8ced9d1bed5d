"""Which tool finds the brain: ours, HD-BET where it is installed, or a function that a hospital names.

``ONCOFLOW_BRAIN_MASK`` is ``classical`` (default: `brain_extraction.find_brain`), ``hd-bet`` (the command of that name, Isensee
et al., Hum Brain Mapp 2019;40:4952) or ``module:function``, called as `BrainFinder` says. A tool that is not there
stops the preparation with an error: falling back would give other volumes than the operator asked for.
"""

from __future__ import annotations

import gzip
import importlib
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import GeometryError, Grid
from imaging.geometry.nifti import read_nifti, write_nifti
from imaging.preprocessing.brain_extraction import BrainFinder, BrainMask, find_brain
from imaging.preprocessing.brain_size import BRAIN_ML
from imaging.preprocessing.brain_tool_availability import HD_BET, brain_tool_problem
from oncoflow_site.foundation.errors import PermanentError

__all__ = ["brain_finder", "checked", "hd_bet"]

TIMEOUT_S = 1800.0


def brain_finder(name: str) -> BrainFinder:
    """The tool that ``name`` (the setting ONCOFLOW_BRAIN_MASK) names.

    :raises PermanentError: it is not there.
    """
    if problem := brain_tool_problem(name):
        raise PermanentError(problem)
    if name == "classical":
        return find_brain
    if name == "hd-bet":
        return hd_bet
    module, _, function = name.partition(":")
    return checked(cast(BrainFinder, getattr(importlib.import_module(module), function)), name)


def checked(tool: BrainFinder, name: str) -> BrainFinder:
    """``tool`` with its answer looked at: a mask of the wrong shape stops it, one of no brain's size is called doubtful."""

    def run(images: Mapping[str, NDArray[Any]], grid: Grid, *, threads: int = 2) -> BrainMask:
        found = tool(images, grid, threads=threads)
        mask = np.asarray(found.mask, dtype=bool)
        if mask.shape != grid.shape_zyx:
            raise PermanentError(f"the brain mask of {name} does not fit the images")
        volume_ml = float(mask.sum()) * grid.voxel_volume_mm3() / 1000.0
        fits = BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]
        reason = found.reason or ("" if fits else "the brain found is not of a brain's size")
        quality = {**found.quality, "volume_ml": round(volume_ml, 1)}
        return BrainMask(mask, found.method or name, found.plausible and fits, reason, quality)

    return run


def hd_bet(images: Mapping[str, NDArray[Any]], grid: Grid, *, threads: int = 2) -> BrainMask:
    """HD-BET on the T1 (or contrast T1): a whole process on files in a folder of its own, removed afterwards.

    :raises PermanentError: it failed, took longer than half an hour, or left no mask on our grid.
    """

    def run(images: Mapping[str, NDArray[Any]], grid: Grid, *, threads: int = 2) -> BrainMask:
        image = images["T1"] if "T1" in images else images["T1c"]
        with tempfile.TemporaryDirectory(prefix="brain-") as folder:
            given, out = Path(folder, "image.nii.gz"), Path(folder, "brain.nii.gz")
            given.write_bytes(write_nifti(np.asarray(image, dtype=np.float32), grid))
            command = [HD_BET, "-i", str(given), "-o", str(out), "-device", "cpu", "--save_bet_mask", "--disable_tta"]
            try:
                done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, cwd=folder)
            except subprocess.TimeoutExpired:
                raise PermanentError("hd-bet took longer than half an hour") from None
            masks = [
                path for path in (Path(folder, "brain_bet.nii.gz"), Path(folder, "brain_mask.nii.gz")) if path.exists()
            ]
            if done.returncode != 0 or not masks:
                raise PermanentError(f"hd-bet failed with status {done.returncode}")
            try:
                array, placed = read_nifti(masks[0].read_bytes(), as_float=False)
            except (GeometryError, gzip.BadGzipFile):
                raise PermanentError("hd-bet left a mask that cannot be read") from None
        if not placed.same_as(grid, 0.1):
            raise PermanentError("the brain mask of hd-bet does not lie on the images' grid")
        return BrainMask(array > 0, "HD-BET")

    return checked(run, "hd-bet")(images, grid, threads=threads)
