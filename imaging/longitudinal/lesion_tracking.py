"""Lesions of one study named after those of the patient's other studies. Schemas in and out, no Django.

An identity ("L1") is given once per patient and never to another lesion. It comes from the earlier dates, the latest first;
else from an earlier measurement of the same study (a corrected mask keeps its names); else from a later date (an older scan
that arrives after a newer one); else it is new.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging.brats.regions import REGIONS, Region
from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.measurement.lesions import Lesion, measured_lesion
from imaging.schemas.comparison import LesionChange
from imaging.schemas.measurement import LesionMeasurement, LesionStatus

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
    "tracked",
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


NOT_ASSESSED: Final = "not-assessed"
"""Status of a lesion of the earlier date that this one could not have shown."""


_SAME_PLACE_MM = 2.0


@dataclass(frozen=True)
class KnownLesions:
    """The lesions of another measurement of the patient, placed against the current study.

    :param measured: its ``Measurement.lesions``.
    :param found: its lesions as found again in its label map; names follow by their centroids.
    :param matrix: 4x4 RAS, current -> this one; None when they could not be registered.
    :param regions: that it assessed.
    """

    measured: Sequence[LesionMeasurement]
    found: Sequence[Lesion]
    grid: Grid
    matrix: NDArray[np.float64] | None
    regions: Collection[str] = REGIONS


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
    free = [(one.id, one.centroid_ras_mm) for one in known.measured if one.centroid_ras_mm is not None]
    for index, lesion in enumerate(known.found):
        if not free:
            break
        distances = [np.linalg.norm(np.subtract(place, lesion.centroid_ras_mm)) for _, place in free]
        nearest = int(np.argmin(distances))
        if distances[nearest] <= _SAME_PLACE_MM:
            result[index] = free.pop(nearest)[0]
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


def tracked(
    current: Sequence[Lesion],
    labels: NDArray[np.uint8],
    grid: Grid,
    named: TrackedLesions,
    *,
    latest_prior: KnownLesions | None,
    has_priors: bool,
    spacing_known: bool,
    not_assessed: Collection[str] = (),
    not_comparable: str = "",
) -> tuple[LesionMeasurement, ...]:
    """``Measurement.lesions``: every current lesion, then those of the latest prior date that are gone or merged.

    :param not_comparable: why the outline of the latest prior date and this one show no change: no lesion is new or gone then.
    :param not_assessed: regions that ``labels`` say nothing about. Like is compared with like: a lesion that shows only in
        a region which one of the two dates did not assess is neither new nor gone.
    """
    matched = latest_prior is not None and latest_prior.matrix is not None
    before = _present(latest_prior.measured) if latest_prior is not None else {}
    seen = shared_region(set(REGIONS) - set(not_assessed), latest_prior.regions if latest_prior else ())

    def measure(
        identity: str, status: LesionStatus, lesion: Lesion | None, left_out: Collection[str], **more: Any
    ) -> LesionMeasurement:
        return measured_lesion(
            identity, status, lesion, labels, grid, spacing_known=spacing_known, not_assessed=left_out, **more
        )

    result = []
    for index, lesion in enumerate(current):
        identity = named.identity[index]
        status: LesionStatus = "new"
        if not has_priors or not matched:
            status = "baseline"
        elif identity in before or index in named.split_from:
            status = "followed"
        one = measure(
            identity,
            status,
            lesion,
            not_assessed,
            split_from=named.split_from.get(index),
            reason=""
            if matched or not has_priors
            else "The two dates could not be aligned, so lesions were not followed.",
        )
        if status == "new" and not_comparable:
            one = one.model_copy(update={"status": "baseline", "reason": not_comparable})
        elif status == "new" and not one.shows(seen):
            why = "The earlier study was not assessed for what this lesion shows."
            one = one.model_copy(update={"status": "baseline", "reason": why})
        if index in named.recurrent and status == "new":
            one = one.model_copy(update={"recurrent": True})
        result.append(one)
    if not matched:
        return tuple(result)
    carried = set(named.identity.values())
    for identity in before:
        if identity in carried:
            continue
        if identity in named.merged_into:
            one = measure(identity, "followed", None, not_assessed)
            update: dict[str, object] = {"regions": dict.fromkeys(REGIONS), "measurable": None}
            result.append(one.model_copy(update=update | {"merged_into": named.merged_into[identity]}))
        elif not_comparable:
            one = measure(identity, NOT_ASSESSED, None, REGIONS, reason=not_comparable)
            result.append(one.model_copy(update={"measurable": None}))
        elif before[identity].shows(seen):
            result.append(measure(identity, "gone", None, not_assessed))
        else:
            reason = "This study was not assessed for what this lesion showed."
            one = measure(identity, NOT_ASSESSED, None, REGIONS, reason=reason)
            result.append(one.model_copy(update={"measurable": None}))
    return tuple(result)


def shared_region(one: Collection[str], other: Collection[str]) -> Region | Literal[""]:
    """The outermost region that both dates assessed; empty where there is none."""
    return next((region for region in reversed(REGIONS) if region in one and region in other), "")


def _present(lesions: Sequence[LesionMeasurement]) -> dict[str, LesionMeasurement]:
    """Lesions that a measurement found (not the gone and merged ones it also names)."""
    return {one.id: one for one in lesions if one.present}


def new_measurable(lesions: Sequence[LesionMeasurement]) -> int:
    """How many new measurable enhancing lesions there are (not pieces of an old one)."""
    return sum(
        1 for one in lesions if one.status == "new" and one.measurable and not one.split_from and one.shows("ET")
    )


def versus_prior(
    lesions: Sequence[LesionMeasurement],
    prior: Sequence[LesionMeasurement],
    *,
    aligned: bool,
    shared: Collection[str] = REGIONS,
    comparable: bool = True,
) -> tuple[LesionChange, ...]:
    """``Comparison.result.lesions``: each lesion at both dates, core volume in mm3 (whole tumour without a core).

    :param shared: regions that both dates assessed. Sizes are of one of these, or None.
    :param comparable: whether the two outlines can show a change; where not, no lesion is new or gone.
    """
    now, before = _present(lesions), _present(prior)
    seen = shared_region(shared, shared)
    result = []
    for identity in [*now, *(one for one in before if one not in now)]:
        here, there = now.get(identity), before.get(identity)
        entry = next((one for one in lesions if one.id == identity), None)
        status: LesionStatus = "followed" if here and there else "new" if here else "gone"
        if entry is not None and (entry.merged_into or entry.split_from):
            status = "followed"
        unseen_before = status == "new" and here is not None and not here.shows(seen)
        if unseen_before or (not (aligned and comparable) and status == "new") or (not aligned and status == "gone"):
            status = "baseline"
        elif status == "gone" and there and not (comparable and there.shows(seen)):
            status = NOT_ASSESSED
        core = "TC" in shared and any(one is not None and one.shows("TC") for one in (here, there))
        region: Region | Literal[""] = "TC" if core else "WT" if "WT" in shared else seen
        result.append(
            LesionChange(
                id=identity,
                status=status,
                region=region,
                current_mm3=_size(here, region) if here else 0.0 if status == "gone" else None,
                prior_mm3=_size(there, region) if there else 0.0 if status == "new" else None,
            )
        )
    return tuple(result)


def _size(lesion: LesionMeasurement, region: Region | Literal[""]) -> float | None:
    return lesion.regions[region] if region else None
