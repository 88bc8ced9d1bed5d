"""Lesions of one study named after those of the patient's other studies. Plain values in and out, no Django.

An identity ("L1") is given once per patient and never to another lesion. It comes from the earlier dates, the latest first;
else from an earlier measurement of the same study (a corrected mask keeps its names); else from a later date (an older scan
that arrives after a newer one); else it is new.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.measurement.lesions import Lesion, lesion_entry

__all__ = [
    "NOT_ASSESSED",
    "KnownLesions",
    "LesionMatch",
    "TrackedLesions",
    "identities_of",
    "match_lesions",
    "new_measurable",
    "next_number",
    "shared_region",
    "track_lesions",
    "versus_prior",
]


NEAR_MM = 6.0


@dataclass(frozen=True)
class LesionMatch:
    """Answer of `match_lesions`; indices into the two lists given.

    :param same: current -> prior.
    :param split_from: current -> prior: another current lesion already carries that prior's identity.
    :param merged_into: prior -> current: the prior lesion has become part of a current one that carries another's.
    """

    same: Mapping[int, int] = field(default_factory=dict)
    split_from: Mapping[int, int] = field(default_factory=dict)
    merged_into: Mapping[int, int] = field(default_factory=dict)


def match_lesions(
    current: Sequence[Lesion],
    current_grid: Grid,
    prior: Sequence[Lesion],
    prior_grid: Grid,
    matrix: NDArray[np.float64],
) -> LesionMatch:
    """Which current lesion is which prior one: by overlap after registration, else by a gap of at most 6 mm.

    :param matrix: 4x4 RAS, current -> prior (as `imaging.preprocessing.rigid.register_rigid` gives with the current as fixed).
    """
    if not current or not prior:
        return LesionMatch()
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
    return LesionMatch(same, split, merged)


def next_number(identities: Sequence[str]) -> int:
    """The number of a patient's next new lesion: one more than the highest ever given ("L3" -> 4)."""
    return 1 + max((int(one[1:]) for one in identities if one[1:].isdigit()), default=0)


NOT_ASSESSED = "not-assessed"
"""Status of a lesion of the earlier date that this one could not have shown."""


_SAME_PLACE_MM = 2.0


@dataclass(frozen=True)
class KnownLesions:
    """The lesions of another measurement of the patient, placed against the current study.

    :param entries: its ``Measurement.lesions``.
    :param found: its lesions as found again in its label map; names follow by their centroids.
    :param matrix: 4x4 RAS, current -> this one; None when they could not be registered.
    :param regions: that it assessed.
    """

    entries: Sequence[Mapping[str, Any]]
    found: Sequence[Lesion]
    grid: Grid
    matrix: NDArray[np.float64] | None
    regions: Collection[str] = ("ET", "TC", "WT")


@dataclass
class TrackedLesions:
    """Which identity each current lesion has, and how it came by it."""

    identity: dict[int, str] = field(default_factory=dict)
    split_from: dict[int, str] = field(default_factory=dict)
    merged_into: dict[str, str] = field(default_factory=dict)
    recurrent: set[int] = field(default_factory=set)


def identities_of(known: KnownLesions) -> dict[int, str]:
    """Index in ``known.found`` -> identity, by the nearest recorded centroid."""
    result: dict[int, str] = {}
    free = [one for one in known.entries if one.get("centroid_ras_mm")]
    for index, lesion in enumerate(known.found):
        if not free:
            break
        distances = [np.linalg.norm(np.subtract(one["centroid_ras_mm"], lesion.centroid_ras_mm)) for one in free]
        nearest = int(np.argmin(distances))
        if distances[nearest] <= _SAME_PLACE_MM:
            result[index] = str(free.pop(nearest)["id"])
    return result


def track_lesions(
    current: Sequence[Lesion],
    grid: Grid,
    *,
    priors: Sequence[KnownLesions],
    same_study: KnownLesions | None,
    later: Sequence[KnownLesions],
    all_identities: Sequence[str],
) -> TrackedLesions:
    """Give each current lesion its identity.

    :param priors: earlier dates, the latest first. :param later: later dates, the earliest first.
    :param all_identities: every identity ever given in this patient.
    """
    named = TrackedLesions()
    sources = [*priors, *([same_study] if same_study else []), *later]
    for position, known in enumerate(sources):
        if known.matrix is None:
            continue
        todo = [index for index in range(len(current)) if index not in named.identity]
        if not todo and position > 0:
            break
        names = identities_of(known)
        match = match_lesions(current, grid, known.found, known.grid, known.matrix)
        _take(named, match, names, todo, recurrent=0 < position < len(priors))
        if position == 0 and priors:
            for index, number in match.split_from.items():
                if number in names:
                    named.split_from[index] = names[number]
            for number, index in match.merged_into.items():
                if number in names and index in named.identity:
                    named.merged_into[names[number]] = named.identity[index]
    number = next_number(all_identities)
    for index in range(len(current)):
        if index not in named.identity:
            named.identity[index] = f"L{number}"
            number += 1
    return named


def _take(
    named: TrackedLesions, match: LesionMatch, names: Mapping[int, str], todo: Sequence[int], *, recurrent: bool
) -> None:
    for index, number in match.same.items():
        identity = names.get(number)
        if index in todo and identity is not None and identity not in named.identity.values():
            named.identity[index] = identity
            if recurrent:
                named.recurrent.add(index)


def entries(
    current: Sequence[Lesion],
    labels: NDArray[np.uint8],
    grid: Grid,
    named: TrackedLesions,
    *,
    latest_prior: KnownLesions | None,
    has_priors: bool,
    spacing_known: bool,
    not_assessed: Collection[str] = (),
) -> list[dict[str, Any]]:
    """``Measurement.lesions``: every current lesion, then those of the latest prior date that are gone or merged.

    :param not_assessed: regions that ``labels`` say nothing about. Like is compared with like: a lesion that shows only in
        a region which one of the two dates did not assess is neither new nor gone.
    """
    matched = latest_prior is not None and latest_prior.matrix is not None
    before = _present(latest_prior.entries) if latest_prior is not None else {}
    seen = shared_region({"ET", "TC", "WT"} - set(not_assessed), latest_prior.regions if latest_prior else ())
    result = []
    for index, lesion in enumerate(current):
        identity = named.identity[index]
        if not has_priors or not matched:
            status = "baseline"
        elif identity in before or index in named.split_from:
            status = "followed"
        else:
            status = "new"
        entry = lesion_entry(
            identity, status, lesion, labels, grid, spacing_known=spacing_known, not_assessed=not_assessed
        )
        if status == "new" and not _shows(entry, seen):
            entry |= {"status": "baseline", "reason": "The earlier study was not assessed for what this lesion shows."}
        if has_priors and not matched:
            entry["reason"] = "The two dates could not be aligned, so lesions were not followed."
        if index in named.split_from:
            entry["split_from"] = named.split_from[index]
        if index in named.recurrent and status == "new":
            entry["recurrent"] = True
        result.append(entry)
    if not matched:
        return result
    carried = set(named.identity.values())
    for identity in before:
        if identity in carried:
            continue
        if identity in named.merged_into:
            entry = lesion_entry(
                identity, "followed", None, labels, grid, spacing_known=spacing_known, not_assessed=not_assessed
            )
            entry["regions"] = dict.fromkeys(("ET", "TC", "WT"))
            entry["measurable"] = None
            entry["merged_into"] = named.merged_into[identity]
        else:
            gone = _shows(before[identity], seen)
            entry = lesion_entry(
                identity,
                "gone" if gone else NOT_ASSESSED,
                None,
                labels,
                grid,
                spacing_known=spacing_known,
                not_assessed=not_assessed if gone else ("ET", "TC", "WT"),
            )
            if not gone:
                entry |= {"measurable": None, "reason": "This study was not assessed for what this lesion showed."}
        result.append(entry)
    return result


def shared_region(one: Collection[str], other: Collection[str]) -> str:
    """The outermost region that both dates assessed; empty where there is none."""
    return next((region for region in ("WT", "TC", "ET") if region in one and region in other), "")


def _shows(entry: Mapping[str, Any], region: str) -> bool:
    """Whether a lesion has any of ``region``."""
    return bool(region and entry["voxels"].get(region))


def _present(lesions: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Lesions that a measurement found (not the gone and merged ones it also names)."""
    return {str(one["id"]): one for one in lesions if one.get("centroid_ras_mm")}


def new_measurable(lesions: Sequence[Mapping[str, Any]]) -> int:
    """How many new measurable enhancing lesions there are (not pieces of an old one)."""
    return sum(
        1
        for one in lesions
        if one["status"] == "new"
        and one.get("measurable")
        and not one.get("split_from")
        and (one["voxels"]["ET"] or 0) > 0
    )


def versus_prior(
    lesions: Sequence[Mapping[str, Any]],
    prior: Sequence[Mapping[str, Any]],
    *,
    aligned: bool,
    shared: Collection[str] = ("ET", "TC", "WT"),
) -> list[dict[str, Any]]:
    """``Comparison.result["lesions"]``: each lesion at both dates, core volume in mm3 (whole tumour without a core).

    :param shared: regions that both dates assessed. Sizes are of one of these, or None.
    """
    now, before = _present(lesions), _present(prior)
    seen = shared_region(shared, shared)
    result = []
    for identity in [*now, *(one for one in before if one not in now)]:
        here, there = now.get(identity), before.get(identity)
        entry = next((one for one in lesions if one["id"] == identity), None)
        status = "followed" if here and there else "new" if here else "gone"
        if entry is not None and (entry.get("merged_into") or entry.get("split_from")):
            status = "followed"
        unseen_before = status == "new" and here is not None and not _shows(here, seen)
        if unseen_before or (not aligned and status != "followed"):
            status = "baseline"
        elif status == "gone" and there and not _shows(there, seen):
            status = NOT_ASSESSED
        core = "TC" in shared and (_core(here) or _core(there))
        region = "TC" if core else "WT" if "WT" in shared else seen
        result.append(
            {
                "id": identity,
                "status": status,
                "region": region,
                "current_mm3": _size(here, region) if here else 0.0 if status == "gone" else None,
                "prior_mm3": _size(there, region) if there else 0.0 if status == "new" else None,
            }
        )
    return result


def _core(lesion: Mapping[str, Any] | None) -> bool:
    return bool(lesion and lesion["voxels"]["TC"])


def _size(lesion: Mapping[str, Any], region: str) -> float | None:
    size = lesion["regions"][region] if region else None
    return None if size is None else float(size)
