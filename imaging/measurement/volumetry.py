"""Volumes and axial diameters of tumour regions. Arrays and grids in, schemas out.

Volume: sum of segmented voxels (DCM 126030) times |det| of the affine. Diameters follow the habit of RANO (Wen et al.,
J Clin Oncol 2010;28:1963, and 2023;41:5187): the longest diameter in an axial slice that runs inside the lesion,
and the longest one perpendicular to it in the same slice. "Axial" are the slices of the study's reference grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, Region, region_masks
from imaging.geometry.grid import Grid
from imaging.measurement.diameters import _filled, _largest_part, axial_diameters
from imaging.schemas.measurement import RegionMaker, RegionMeasurement, VolumeSpread

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
    not_assessed: Mapping[Region, str] | None = None,
    basis: Mapping[Region, str] | None = None,
    makers: Mapping[Region, RegionMaker] | None = None,
) -> dict[Region, RegionMeasurement]:
    """Volume, diameters and uncertainty of ET, TC and WT.

    :param labels: (z, y, x) uint8 on ``grid``.
    :param spacing_known: False leaves every mm quantity None with the reason; ``voxels`` stays, for per cent.
    :param experts: the experts' masks of the regions that they assessed, on the whole grid: the spread of their volumes is
        the uncertainty.
    :param not_assessed: region -> why ``labels`` say nothing about it: then nothing is computed, not even voxels.
    :param basis: region -> what a reader must know of where its outline comes from. :param makers: region -> who outlined it.
    """
    left_out, basis, makers = not_assessed or {}, basis or {}, makers or {}
    masks = region_masks(labels)
    return {
        region: _not_outlined(left_out[region])
        if region in left_out
        else _region(
            region,
            masks[region],
            grid,
            spacing_known,
            [one[region] for one in experts if region in one],
            basis.get(region, ""),
            makers.get(region, ""),
        )
        for region in REGIONS
    }


def _not_outlined(reason: str) -> RegionMeasurement:
    return RegionMeasurement(
        volume_mm3=None,
        voxels=None,
        longest_axial_diameter_mm=None,
        perpendicular_diameter_mm=None,
        measurable=None,
        assessed=False,
        reason=reason,
        uncertainty_mm3=None,
    )


def _region(
    region: Region,
    mask: NDArray[np.bool_],
    grid: Grid,
    spacing_known: bool,
    experts: Sequence[NDArray[np.bool_]],
    basis: str,
    maker: RegionMaker,
) -> RegionMeasurement:
    voxels = int(np.count_nonzero(mask))
    volume, spread, diameters = None, None, None
    reason = "" if spacing_known else SPACING_UNKNOWN
    measurable = None
    if spacing_known:
        volume = round(volume_mm3(mask, grid), 3)
        spread = _spread([volume_mm3(one, grid) for one in experts]) if experts else None
        if voxels == 0:
            measurable, reason = False, f"No {region} was segmented; it has no diameter."
        else:
            diameters = axial_diameters(_largest_part(_filled(mask)), grid)
    return RegionMeasurement(
        volume_mm3=volume,
        voxels=voxels,
        longest_axial_diameter_mm=None if diameters is None else round(diameters.longest_mm, 2),
        perpendicular_diameter_mm=None if diameters is None else round(diameters.perpendicular_mm, 2),
        measurable=measurable if diameters is None else diameters.measurable,
        assessed=spacing_known,
        reason=reason,
        uncertainty_mm3=spread,
        basis=basis,
        maker=maker,
    )


def _spread(volumes: Sequence[float]) -> VolumeSpread:
    return VolumeSpread(
        low=round(min(volumes), 3),
        high=round(max(volumes), 3),
        experts=len(volumes),
        method="spread of the experts' volumes",
    )
