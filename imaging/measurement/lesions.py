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

from imaging.brats.regions import region_masks
from imaging.geometry.grid import Grid
from imaging.measurement.diameters import axial_diameters

__all__ = ["MIN_LESION_MM3", "Lesion", "find_lesions", "lesion_entry"]


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


def lesion_entry(
    identity: str,
    status: str,
    lesion: Lesion | None,
    labels: NDArray[np.uint8],
    grid: Grid,
    *,
    spacing_known: bool,
    not_assessed: Collection[str] = (),
) -> dict[str, Any]:
    """One entry of ``Measurement.lesions`` (keys as in the room's contract). ``lesion`` None: it is gone, sizes 0.

    :param not_assessed: regions that the label map says nothing about: None, never 0.
    """
    none = dict.fromkeys(not_assessed)
    entry: dict[str, Any] = {
        "id": identity,
        "status": status,
        "regions": dict.fromkeys(("ET", "TC", "WT"), 0.0 if spacing_known else None) | none,
        "voxels": dict.fromkeys(("ET", "TC", "WT"), 0) | none,
        "longest_axial_diameter_mm": None,
        "perpendicular_diameter_mm": None,
        "measurable": False if spacing_known else None,
        "centroid_ras_mm": None,
    }
    if lesion is None:
        return entry
    masks = region_masks(labels)
    for region, mask in masks.items():
        if region in not_assessed:
            continue
        voxels = int(np.count_nonzero(mask & lesion.territory))
        entry["voxels"][region] = voxels
        entry["regions"][region] = round(voxels * grid.voxel_volume_mm3(), 3) if spacing_known else None
    entry["centroid_ras_mm"] = [round(v, 2) for v in lesion.centroid_ras_mm]
    if spacing_known:
        diameters = axial_diameters(lesion.mask, grid)
        if diameters is not None:
            entry["longest_axial_diameter_mm"] = round(diameters.longest_mm, 2)
            entry["perpendicular_diameter_mm"] = round(diameters.perpendicular_mm, 2)
            entry["measurable"] = diameters.measurable
    return entry
