"""Lesions: the parts of a tumour, and who is who between two dates. Arrays and grids only.

A lesion is a connected part of the tumour core (TC = ET and NCR); without any core, of the whole tumour. Parts no more
than 3 mm apart are one lesion (a ragged rim is not a shower of metastases). What is smaller than a ball of 4 mm is left
out of the list, though it counts in the regions' volumes. Oedema belongs to the nearest lesion it is connected with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.geometry import Grid
from imaging.measurement import axial_diameters, region_masks
from imaging.registration import resample

__all__ = ["MIN_LESION_MM3", "Found", "Match", "find_lesions", "lesion_entry", "match_lesions", "next_number"]

MERGE_MM = 3.0
MIN_LESION_MM3 = 4.0 / 3.0 * np.pi * 2.0**3
NEAR_MM = 6.0
_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Found:
    """One lesion of one label map.

    :param mask: (z, y, x), the part of the core (or of the whole tumour where there is no core).
    :param territory: (z, y, x), the mask and the oedema assigned to it.
    """

    mask: NDArray[np.bool_]
    territory: NDArray[np.bool_]
    centroid_ras_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Match:
    """Answer of `match_lesions`; indices into the two lists given.

    :param same: current -> prior.
    :param split_from: current -> prior: another current lesion already carries that prior's identity.
    :param merged_into: prior -> current: the prior lesion has become part of a current one that carries another's.
    """

    same: Mapping[int, int] = field(default_factory=dict)
    split_from: Mapping[int, int] = field(default_factory=dict)
    merged_into: Mapping[int, int] = field(default_factory=dict)


def find_lesions(labels: NDArray[np.uint8], grid: Grid, *, min_mm3: float = MIN_LESION_MM3) -> list[Found]:
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
        found.append(Found(mask, owner == number, (float(centre[0]), float(centre[1]), float(centre[2]))))
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
    lesion: Found | None,
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


def match_lesions(
    current: Sequence[Found],
    current_grid: Grid,
    prior: Sequence[Found],
    prior_grid: Grid,
    matrix: NDArray[np.float64],
) -> Match:
    """Which current lesion is which prior one: by overlap after registration, else by a gap of at most 6 mm.

    :param matrix: 4x4 RAS, current -> prior (as `imaging.registration.register_rigid` gives with the current as fixed).
    """
    if not current or not prior:
        return Match()
    carried = np.zeros(prior_grid.shape_zyx, dtype=np.int16)
    for number, lesion in enumerate(prior, start=1):
        carried[lesion.mask] = number
    here = resample(carried, prior_grid, current_grid, matrix, nearest=True)
    scores: list[tuple[float, float, int, int]] = []
    for index, lesion in enumerate(current):
        away = ndimage.distance_transform_edt(~lesion.mask, sampling=current_grid.spacing_zyx())
        for number in range(1, len(prior) + 1):
            place = here == number
            if not place.any():
                continue
            gap = float(away[place].min())
            if gap <= NEAR_MM:
                scores.append((-float(np.count_nonzero(place & lesion.mask)), gap, index, number - 1))
    same: dict[int, int] = {}
    split: dict[int, int] = {}
    merged: dict[int, int] = {}
    # The largest overlap first; one identity goes to one lesion only.
    for overlap, _, index, number in sorted(scores):
        if index not in same and number not in same.values():
            same[index] = number
        elif index not in same and overlap < 0:
            split.setdefault(index, number)
        elif number not in same.values() and overlap < 0:
            merged.setdefault(number, index)
    split = {index: number for index, number in split.items() if index not in same}
    merged = {number: index for number, index in merged.items() if number not in same.values()}
    return Match(same, split, merged)


def next_number(identities: Sequence[str]) -> int:
    """The number of a patient's next new lesion: one more than the highest ever given ("L3" -> 4)."""
    return 1 + max((int(one[1:]) for one in identities if one[1:].isdigit()), default=0)
