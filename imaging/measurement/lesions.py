"""Lesions: the parts of a tumour, and who is who between two dates. Arrays and grids only.

A lesion is a connected part of the tumour core (TC = ET and NCR); without any core, of the whole tumour. Parts no more
than 3 mm apart are one lesion (a ragged rim is not a shower of metastases). What is smaller than a ball of 4 mm is left
out of the list, though it counts in the regions' volumes. Oedema belongs to the nearest lesion it is connected with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGIONS, Region, region_masks
from imaging.geometry.grid import Grid
from imaging.measurement.diameters import axial_diameters
from imaging.schemas.measurement import LesionMeasurement, LesionStatus

__all__ = ["MIN_LESION_MM3", "Lesion", "find_lesions", "measured_lesion"]


MERGE_MM = 3.0
MIN_LESION_MM3 = 4.0 / 3.0 * np.pi * 2.0**3
_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Lesion:
    """One lesion of one label map.

    :param mask: (z, y, x), the part of the core (or of the whole tumour where there is no core).
    :param territory: (z, y, x), the mask and the oedema assigned to it.
    """

    mask: NDArray[np.bool_]
    territory: NDArray[np.bool_]
    centroid_ras_mm: tuple[float, float, float]


def find_lesions(labels: NDArray[np.uint8], grid: Grid, *, min_mm3: float = MIN_LESION_MM3) -> list[Lesion]:
    """Lesions of a label map, the largest first.

    :param labels: (z, y, x) uint8, 1 NCR, 2 ED, 3 ET.
    :param min_mm3: physical floor for a lesion of its own; same for every grid.
    """
    regions = region_masks(labels)
    body = regions["TC"] if regions["TC"].any() else regions["WT"]
    if not body.any():
        return []
    reach = ndimage.distance_transform_edt(~body, sampling=grid.spacing_zyx()) <= MERGE_MM / 2.0
    joined, count = ndimage.label(reach, structure=_TOUCHING)
    numbers = np.where(body, joined, 0)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:] * grid.voxel_volume_mm3()
    kept = [int(n) + 1 for n in np.argsort(-sizes, kind="stable") if sizes[n] >= min_mm3]
    if not kept:
        return []
    seeds = np.where(np.isin(numbers, kept), numbers, 0)
    owner = _territories(seeds, regions["WT"], grid)
    found = []
    for number in kept:
        mask = seeds == number
        z, y, x = (float(np.mean(axis)) for axis in np.nonzero(mask))
        centre = grid.world(np.array([x, y, z]))
        found.append(Lesion(mask, owner == number, (float(centre[0]), float(centre[1]), float(centre[2]))))
    return found


def _territories(seeds: NDArray[Any], whole: NDArray[np.bool_], grid: Grid) -> NDArray[Any]:
    """Each WT voxel's lesion: the nearest one within the same connected part of WT; 0 where there is none."""
    _, nearest = ndimage.distance_transform_edt(seeds == 0, sampling=grid.spacing_zyx(), return_indices=True)
    owner = seeds[tuple(nearest)]
    parts, count = ndimage.label(whole, structure=_TOUCHING)
    result = np.where(whole, owner, 0)
    pairs = np.unique(np.stack([parts[seeds > 0], seeds[seeds > 0]]), axis=1)
    linked = set(map(tuple, pairs.T.tolist()))
    for part in range(1, count + 1):
        inside = parts == part
        for number in np.unique(result[inside]):
            if number and (part, int(number)) not in linked:
                result[inside & (result == number)] = 0
    return np.asarray(result)


def measured_lesion(
    identity: str,
    status: LesionStatus,
    lesion: Lesion | None,
    labels: NDArray[np.uint8],
    grid: Grid,
    *,
    spacing_known: bool,
    not_assessed: Collection[str] = (),
    reason: str = "",
    split_from: str | None = None,
    recurrent: bool = False,
) -> LesionMeasurement:
    """One entry of ``Measurement.lesions``. ``lesion`` None: it is gone, sizes 0.

    :param not_assessed: regions that the label map says nothing about: None, never 0.
    """
    voxels: dict[Region, int | None] = {region: None if region in not_assessed else 0 for region in REGIONS}
    diameters = None
    if lesion is not None:
        masks = region_masks(labels)
        for region in REGIONS:
            if region not in not_assessed:
                voxels[region] = int(np.count_nonzero(masks[region] & lesion.territory))
        if spacing_known:
            diameters = axial_diameters(lesion.mask, grid)
    measurable = diameters.measurable if diameters is not None else (False if spacing_known else None)
    return LesionMeasurement(
        id=identity,
        status=status,
        regions={
            region: None if count is None or not spacing_known else round(count * grid.voxel_volume_mm3(), 3)
            for region, count in voxels.items()
        },
        voxels=voxels,
        longest_axial_diameter_mm=None if diameters is None else round(diameters.longest_mm, 2),
        perpendicular_diameter_mm=None if diameters is None else round(diameters.perpendicular_mm, 2),
        measurable=measurable,
        centroid_ras_mm=None if lesion is None else _rounded(lesion.centroid_ras_mm),
        reason=reason,
        split_from=split_from,
        recurrent=recurrent,
    )


def _rounded(point: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = point
    return round(x, 2), round(y, 2), round(z, 2)
