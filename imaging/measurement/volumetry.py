"""Volumes and axial diameters of tumour regions. Arrays and grids in, plain values out; nothing is rounded here.

Volume: sum of segmented voxels (DCM 126030) times |det| of the affine. Diameters follow the habit of RANO (Wen et al.,
J Clin Oncol 2010;28:1963, and 2023;41:5187): the longest diameter in an axial slice that runs inside the lesion,
and the longest one perpendicular to it in the same slice. "Axial" are the slices of the study's reference grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import region_masks
from imaging.geometry.grid import Grid
from imaging.measurement.diameters import _filled, _largest_part, axial_diameters

__all__ = ["SPACING_UNKNOWN", "measure_regions", "volume_mm3"]


SPACING_UNKNOWN = "The spacing of the voxels is not known, so no millimetre was computed."


def volume_mm3(mask: NDArray[np.bool_], grid: Grid) -> float:
    """Sum of voxels times the voxel's volume."""
    return float(np.count_nonzero(mask)) * grid.voxel_volume_mm3()


def measure_regions(
    labels: NDArray[np.uint8],
    grid: Grid,
    *,
    spacing_known: bool = True,
    experts: Sequence[Mapping[str, NDArray[np.bool_]]] = (),
    not_assessed: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Volume, diameters and uncertainty of ET, TC and WT (JSON-able; the room's contract gives the keys).

    :param labels: (z, y, x) uint8 on ``grid``.
    :param spacing_known: False leaves every mm quantity None with the reason; ``voxels`` stays, for per cent.
    :param experts: the experts' masks of the regions that they assessed, on the whole grid: the spread of their volumes is
        the uncertainty.
    :param not_assessed: region -> why ``labels`` say nothing about it: then nothing is computed, not even voxels.
    """
    left_out = not_assessed or {}
    return {
        region: _left_out(left_out[region])
        if region in left_out
        else _region(region, mask, grid, spacing_known, [one[region] for one in experts if region in one])
        for region, mask in region_masks(labels).items()
    }


def _left_out(reason: str) -> dict[str, Any]:
    return {
        "volume_mm3": None,
        "voxels": None,
        "voxels_basis": "affine",
        "longest_axial_diameter_mm": None,
        "perpendicular_diameter_mm": None,
        "measurable": None,
        "assessed": False,
        "reason": reason,
        "uncertainty_mm3": None,
    }


def _region(
    region: str, mask: NDArray[np.bool_], grid: Grid, spacing_known: bool, experts: Sequence[NDArray[np.bool_]]
) -> dict[str, Any]:
    voxels = int(np.count_nonzero(mask))
    result: dict[str, Any] = {
        "volume_mm3": None,
        "voxels": voxels,
        "voxels_basis": "affine",
        "longest_axial_diameter_mm": None,
        "perpendicular_diameter_mm": None,
        "measurable": None,
        "assessed": spacing_known,
        "reason": "" if spacing_known else SPACING_UNKNOWN,
        "uncertainty_mm3": None,
    }
    if not spacing_known:
        return result
    result["volume_mm3"] = round(volume_mm3(mask, grid), 3)
    if experts:
        volumes = [volume_mm3(one, grid) for one in experts]
        result["uncertainty_mm3"] = _spread(volumes)
    if voxels == 0:
        result["measurable"] = False
        result["reason"] = f"No {region} was segmented; it has no diameter."
        return result
    diameters = axial_diameters(_largest_part(_filled(mask)), grid)
    if diameters is not None:
        result["longest_axial_diameter_mm"] = round(diameters.longest_mm, 2)
        result["perpendicular_diameter_mm"] = round(diameters.perpendicular_mm, 2)
        result["measurable"] = diameters.measurable
    return result


def _spread(volumes: Sequence[float]) -> Mapping[str, Any]:
    return {
        "low": round(min(volumes), 3),
        "high": round(max(volumes), 3),
        "experts": len(volumes),
        "method": "spread of the experts' volumes",
    }
