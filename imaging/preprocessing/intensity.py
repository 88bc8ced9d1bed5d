"""What research asks for beyond the prepared volumes: bias field and intensities evened out, and MNI152 space. Arrays only.

Nothing here changes a stored volume: experts are given the scanner's intensities, and normalise for themselves. Every step
that was done is a line of JSON that `replay` does again, with the same libraries bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.geometry.sitk import to_sitk
from imaging.preprocessing.coregistration import within
from imaging.preprocessing.mni152 import AtlasFit, atlas_grid
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["INTENSITIES", "SPACE", "atlas_step", "intensity_steps", "replay"]

SPACE = "MNI152NLin2009aSym"
INTENSITIES = ("zscore", "percentile")
_N4: JsonDict = {"shrink": 4, "iterations": [50, 50, 30], "bins": 200, "fwhm": 0.15, "threads": 1}
_LOW, _HIGH = 0.5, 99.5


def intensity_steps(
    image: NDArray[np.float32], brain: NDArray[np.bool_], grid: Grid, *, bias: bool, intensity: str
) -> list[JsonDict]:
    """The steps that even out one volume, with the numbers they take from it.

    :param image: (z, y, x) on ``grid``, 0 outside ``brain``.
    :param bias: N4 within the brain first (Tustison et al., IEEE TMI 2010;29:1310).
    :param intensity: ``zscore`` (mean 0, standard deviation 1 within the brain), ``percentile`` (0.5th to 0, 99.5th to 1,
        clipped), or empty for none.
    :raises ValueError: another word, or a brain that shows nothing.
    """
    if intensity not in ("", *INTENSITIES):
        raise ValueError(f"{intensity!r} is none of {', '.join(INTENSITIES)}")
    steps: list[JsonDict] = [{"step": "n4", **_N4}] if bias else []
    if not intensity:
        return steps
    values = replay(image, brain, grid, steps)[0][brain]
    if not values.size or float(np.ptp(values)) == 0.0:
        raise ValueError("there is nothing in the brain to normalise by")
    if intensity == "zscore":
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return [*steps, {"step": "zscore", "within": "brain", "mean": mean, "sd": deviation}]
    low, high = (float(v) for v in np.percentile(values.astype(np.float64), (_LOW, _HIGH)))
    return [*steps, {"step": "percentile", "within": "brain", "percentiles": [_LOW, _HIGH], "low": low, "high": high}]


def atlas_step(fit: AtlasFit) -> JsonDict:
    """The step onto MNI152's 1 mm grid, with the map both ways (RAS mm).

    :raises ValueError: the fit must not be used; the text says why.
    """
    if fit.reason:
        raise ValueError(fit.reason)
    inverse = np.linalg.inv(np.asarray(fit.matrix, dtype=np.float64))
    return {
        "step": "atlas",
        "space": SPACE,
        **fit.map().model_dump(mode="json"),
        "matrix_ras_is": "MNI152 -> study",
        "inverse_ras": [[float(v) for v in row] for row in inverse],
        "grid": atlas_grid().to_json(),
        "interpolation": "linear; nearest neighbour for masks and labels",
    }


def replay(
    image: NDArray[Any],
    brain: NDArray[np.bool_],
    grid: Grid,
    steps: Sequence[Mapping[str, Any]],
    *,
    labels: bool = False,
) -> tuple[NDArray[Any], Grid]:
    """Do recorded steps: the image (or label map) they make, (z, y, x), and its grid. Exactly 0 outside the brain.

    :raises ValueError: a step that this version does not know.
    """
    out: NDArray[Any] = image if labels else np.asarray(image, dtype=np.float32)
    for one in steps:
        name = one["step"]
        if name == "atlas":
            onto = Grid.from_json(one["grid"])
            matrix = np.asarray(one["matrix_ras"], dtype=np.float64)
            moved = resample(out, grid, onto, matrix, nearest=labels)
            brain = resample(brain.astype(np.uint8), grid, onto, matrix, nearest=True) > 0
            out, grid = (moved if labels else within(brain, moved)), onto
        elif labels:
            continue
        elif name == "n4":
            out = _n4(out, brain, grid, one)
        elif name == "zscore":
            out = within(brain, ((out - np.float32(one["mean"])) / np.float32(one["sd"])).astype(np.float32))
        elif name == "percentile":
            low, high = np.float32(one["low"]), np.float32(one["high"])
            out = within(brain, np.clip((out - low) / (high - low), 0, 1).astype(np.float32))
        else:
            raise ValueError(f"{name!r} is no step that is known here")
    return out, grid


def _n4(
    image: NDArray[np.float32], brain: NDArray[np.bool_], grid: Grid, step: Mapping[str, Any]
) -> NDArray[np.float32]:
    """The image divided by its bias field, which is found on a coarser grid; the mean within the brain stays."""
    whole, mask = to_sitk(image, grid), to_sitk(brain, grid)
    factor = [max(1, min(int(step["shrink"]), n // 8)) for n in whole.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(int(step["threads"]))  # one: sums in one order give one result
    n4.SetMaximumNumberOfIterations([int(n) for n in step["iterations"]])
    n4.SetNumberOfHistogramBins(int(step["bins"]))
    n4.SetBiasFieldFullWidthAtHalfMaximum(float(step["fwhm"]))
    n4.Execute(sitk.Shrink(whole, factor), sitk.Shrink(mask, factor))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)))
    corrected = within(brain, (image / np.maximum(field, 1e-3)).astype(np.float32))
    before, after = (float(one[brain].mean(dtype=np.float64)) for one in (image, corrected))
    return corrected * np.float32(before / after) if after > 0 else image
