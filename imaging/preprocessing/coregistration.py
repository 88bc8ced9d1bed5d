"""All sequences of a study on one grid, aligned, with everything but the brain set to 0. Arrays and grids only.

The reference is the contrast T1 (else T1, T2, FLAIR), turned to RAS+ without resampling when its voxels are near 1 mm, else
resampled to 1 mm. The others are registered rigidly to it and resampled linearly; images that already share one grid and
one skull-stripped outline are taken as they are. Intensities are not changed: each expert normalises for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from imaging.brats.sequences import REFERENCE_ORDER
from imaging.geometry.grid import Grid, crop_box, crop_to_box, to_ras
from imaging.geometry.resample import resample
from imaging.preprocessing.brain_extraction import BrainFinder, find_brain, skull_stripped_mask
from imaging.preprocessing.rigid import Registration, register_rigid
from imaging.schemas.volumes import BrainRecord, GridRecord, VolumeParameters

__all__ = [
    "Coregistered",
    "NoBrain",
    "NotAligned",
    "Progress",
    "coregister_study",
    "on_grid",
    "reference_grid",
    "within",
]


Progress = Callable[[float, str], None]
NEAR_MM = (0.7, 1.35)
MARGIN_MM = 5.0
MOVED_DEG = 6.0
MOVED_MM = 25.0
DISAGREED_MM = 3.0
"""Limits of what is believed within one examination. Two heads of different people, aligned, were found 7.4 and 8.4 degrees
turned; two series of one head 0.3 and 1.9."""
IMPLAUSIBLE_ALIGNMENT = "The alignment is implausible"


class NotAligned(Exception):
    """A sequence could not be aligned with the reference. ``sequence``, ``reference`` and ``reason`` say which and why."""

    def __init__(self, sequence: str, reference: str, reason: str) -> None:
        super().__init__(f"{sequence} could not be aligned with {reference}: {reason}")
        self.sequence, self.reference, self.reason = sequence, reference, reason


class NoBrain(Exception):
    """No brain was found in the images. The text says why."""


@dataclass(frozen=True)
class Coregistered:
    """What a volume set holds.

    :param images: sequence -> float32 (z, y, x), exactly 0 outside ``brain``.
    :param brain: bool (z, y, x).
    :param registrations: sequence -> how it came onto the grid.
    :param scanner_grids: sequence -> the grid it was given on, before any turning.
    :param parameters: what was done; without the inputs, which are the caller's.
    """

    grid: Grid
    images: Mapping[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]
    reference: str
    registrations: Mapping[str, Registration]
    scanner_grids: Mapping[str, Grid]
    parameters: VolumeParameters


def reference_grid(own: Grid, *, spacing_known: bool = True) -> Grid:
    """The grid to work on: the reference image's own where its voxels are near 1 mm, else 1 mm over the same box."""
    spacing = own.spacing_xyz()
    if not spacing_known or all(NEAR_MM[0] <= s <= NEAR_MM[1] for s in spacing):
        return own
    return own.with_spacing((1.0, 1.0, 1.0))


def coregister_study(
    sequences: Mapping[str, tuple[NDArray[Any], NDArray[np.float64]]],
    *,
    spacing_known: bool = True,
    progress: Progress = lambda fraction, text: None,
    threads: int = 2,
    brain_finder: BrainFinder = find_brain,
) -> Coregistered:
    """Bring the sequences of one study onto one grid.

    :param sequences: sequence -> (array (z, y, x), 4x4 RAS affine in index order x, y, z), as the scanner gave it.
    :param spacing_known: False keeps the reference's own grid and measures nothing in millilitres.
    :param brain_finder: what finds the brain in whole heads (see `imaging.preprocessing.brain_extraction_tools`).
    :raises NotAligned: a registration did not converge. :raises NoBrain: no plausible brain.
    :raises GeometryError: an unusable affine.
    """
    given = {
        name: Grid(affine, (array.shape[2], array.shape[1], array.shape[0]))
        for name, (array, affine) in sequences.items()
    }
    turned = {name: to_ras(np.asarray(array, dtype=np.float32), affine) for name, (array, affine) in sequences.items()}
    reference = next(name for name in REFERENCE_ORDER if name in turned)
    own = turned[reference][1]
    shared = all(grid.same_as(own) for _, grid in turned.values())
    stripped = None
    if shared:
        stripped = skull_stripped_mask({n: a for n, (a, _) in turned.items()}, own, spacing_known=spacing_known)
    grid = reference_grid(own, spacing_known=spacing_known)
    images: dict[str, NDArray[np.float32]] = {}
    registrations: dict[str, Registration] = {}
    others = [name for name in turned if name != reference]
    registrations[reference] = Registration.identity("identity: the reference")
    images[reference] = on_grid(*turned[reference], grid, registrations[reference].matrix)
    for number, name in enumerate(others):
        progress(0.6 * number / max(1, len(others)), f"Aligning {name} with {reference}")
        array, its_grid = turned[name]
        if stripped is not None:
            found = Registration.identity("identity: one grid and one skull-stripped outline")
        else:
            found = register_rigid(turned[reference][0], own, array, its_grid, threads=threads)
            if not found.converged:
                raise NotAligned(name, reference, found.reason)
        registrations[name] = found
        images[name] = on_grid(array, its_grid, grid, found.matrix)
    progress(0.6, "Finding the brain")
    brain, brain_record, warnings = _brain(images, grid, own, stripped, spacing_known, brain_finder, threads)
    margin = [int(np.ceil(MARGIN_MM / s)) for s in grid.spacing_zyx()]
    box = crop_box(brain, margin)
    brain = np.ascontiguousarray(brain[box])
    masked = {name: within(brain, image[box]) for name, image in images.items()}
    warnings += [_moved(name, reference, one) for name, one in registrations.items() if _implausible(one)]
    for name, image in masked.items():
        covered = float(np.count_nonzero(image)) / float(max(1, np.count_nonzero(brain)))  # type: ignore[arg-type]
        if covered < 0.9:
            warnings.append(f"The {name} series covers only {covered:.0%} of the brain.")
    progress(1.0, "Volumes are on one grid")
    parameters = VolumeParameters(
        reference=reference,
        reference_grid=GridRecord.model_validate(own.to_json()),
        full_grid=GridRecord.model_validate(grid.to_json()),
        box=((box[0].start, box[0].stop), (box[1].start, box[1].stop), (box[2].start, box[2].stop)),
        interpolation="linear",
        brain=brain_record,
        steps=_steps(reference, registrations, brain_record),
        warnings=tuple(warnings),
    )
    return Coregistered(crop_to_box(grid, box), masked, brain, reference, registrations, given, parameters)


def _implausible(found: Registration) -> bool:
    """Whether a head would have had to move more between two series than in a head coil within one examination."""
    return (
        found.quality.get("rotation_deg", 0.0) > MOVED_DEG
        or abs(found.quality.get("translation_mm", 0.0)) > MOVED_MM
        or found.quality.get("start_disagreement_mm", 0.0) > DISAGREED_MM
    )


def _moved(name: str, reference: str, found: Registration) -> str:
    turned, moved = found.quality["rotation_deg"], found.quality["translation_mm"]
    return (
        f"{IMPLAUSIBLE_ALIGNMENT}: {name} had to be turned by {turned:.0f} degrees and moved by {moved:.0f} mm to lie on "
        f"{reference}. Please check that both show the same person at the same examination."
    )


def on_grid(array: NDArray[np.float32], its_grid: Grid, grid: Grid, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """The image (z, y, x) on ``grid``: as it is where nothing has to move, else resampled linearly, 0 outside.

    :param matrix: RAS mm of ``grid`` -> RAS mm of the image.
    """
    if its_grid.same_as(grid) and np.array_equal(matrix, np.eye(4)):
        return array
    return np.asarray(resample(array, its_grid, grid, matrix), dtype=np.float32)


def within(brain: NDArray[np.bool_], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image, exactly 0 outside the brain."""
    return np.where(brain, image, np.float32(0)).astype(np.float32, copy=False)


def _steps(
    reference: str, registrations: Mapping[str, Registration], brain: BrainRecord
) -> tuple[dict[str, JsonValue], ...]:
    """What was done, in order. What each step used is in the parameters, the transforms with each volume."""
    return (
        {"step": "read", "values": "modality values, float32"},
        {"step": "reorient", "to": "RAS+", "interpolation": "none: axes permuted and flipped"},
        {"step": "register", "to": reference, "methods": {name: one.method for name, one in registrations.items()}},
        {"step": "resample", "onto": "full_grid", "interpolation": "linear", "outside": 0},
        {"step": "bias", "done": False, "reason": "each expert is given the scanner's intensities"},
        {"step": "intensity", "done": False, "reason": "each expert normalises within the brain for itself"},
        {"step": "brain", "method": brain.method},
        {"step": "crop", "to": "box", "margin_mm": MARGIN_MM},
        {"step": "mask", "outside": 0},
        {"step": "write", "format": "NIfTI-1, int16 with slope, gzip"},
    )


def _brain(
    images: Mapping[str, NDArray[np.float32]],
    grid: Grid,
    own: Grid,
    stripped: NDArray[np.bool_] | None,
    spacing_known: bool,
    brain_finder: BrainFinder,
    threads: int,
) -> tuple[NDArray[np.bool_], BrainRecord, list[str]]:
    if stripped is not None:
        mask = stripped
        if grid is not own:
            mask = resample(stripped.astype(np.float32), own, grid) >= 0.5
        method = "the images are skull-stripped already"
        return mask, BrainRecord(method=method, plausible=True, reason="", quality={}), []
    if not spacing_known:
        # The atlas is measured in millimetres: without a true spacing it cannot be fitted.
        raise NoBrain("The images show the whole head, and without a true spacing the brain cannot be found in them.")
    if not {"T1", "T1c", "FLAIR"} & set(images):
        raise NoBrain("Without a T1-weighted or FLAIR series the brain cannot be found.")
    found = brain_finder(images, grid, threads=threads)
    if not found.mask.any():
        raise NoBrain(f"No brain was found: {found.reason}.")
    record = BrainRecord(method=found.method, plausible=found.plausible, reason=found.reason, quality=found.quality)
    warnings = [] if found.plausible else [f"The brain mask is doubtful: {found.reason}."]
    return found.mask, record, warnings
