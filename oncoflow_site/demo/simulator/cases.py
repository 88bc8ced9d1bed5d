"""What is to be simulated, and what came out: the plain values that the kinds of cases and the dataset share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .anatomy import Anatomy
from .fields import Grid

__all__ = ["REGION_LABELS", "Case", "SimulatedCase", "case_grid", "finish"]

REGION_LABELS: dict[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


@dataclass(frozen=True)
class Case:
    """What is to be simulated: name, seed, held out or not, tumour or not, grid spacing in mm.

    kinds: names of the table in kinds/table.py; without any, the case is of the classic mixture.
    """

    name: str
    seed: int
    held_out: bool
    tumour: bool
    spacing: float
    kinds: tuple[str, ...] = ()


@dataclass
class SimulatedCase:
    """images (4, x, y, z) int16, order SEQUENCES, 0 outside the brain mask; labels (x, y, z); affine RAS mm; a record.

    cavity (x, y, z): the resection cavity (RC of BraTS 2024), which is no part of the tumour's regions; None without one.
    """

    images: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    record: dict[str, Any]
    cavity: NDArray[np.bool_] | None = field(default=None)


def case_grid(rng: np.random.Generator, anatomy: Anatomy, spacing: float) -> Grid:
    """A grid that holds the brain, at a random place within the voxel."""
    jitter = rng.uniform(-0.5, 0.5, 3) * spacing
    lower, upper = np.array([-80.0, -112.0, -78.0]), np.array([80.0, 84.0, 90.0])
    lower, upper = lower * anatomy.scale.max(), upper * anatomy.scale.max()
    shape = np.ceil((upper - lower) / spacing).astype(int)
    origin = lower + jitter
    return Grid((origin[0], origin[1], origin[2]), spacing, (int(shape[0]), int(shape[1]), int(shape[2])))


def finish(
    case: Case,
    grid: Grid,
    images: NDArray[np.int16],
    labels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    facts: dict[str, Any],
    cavity: NDArray[np.bool_] | None = None,
) -> SimulatedCase:
    """Crop to the brain mask, with a margin of 3 voxels, and write the record; `facts` go into it as they are."""
    labels = np.where(mask, labels, 0).astype(np.uint8)
    keep = tuple(slice(max(int(i.min()) - 3, 0), int(i.max()) + 4) for i in np.nonzero(mask))
    ml = case.spacing**3 / 1000.0
    volumes = {region: round(float(np.isin(labels, values).sum()) * ml, 2) for region, values in REGION_LABELS.items()}
    inside = None if cavity is None else (cavity & mask)[keep]
    if inside is not None and inside.any():
        volumes["RC"] = round(float(inside.sum()) * ml, 2)
    record = {
        "name": case.name,
        "seed": case.seed,
        "held_out": case.held_out,
        "spacing_mm": case.spacing,
        "volumes_ml": volumes,
        **facts,
    }
    affine = grid.affine
    affine[:3, 3] += case.spacing * np.array([k.start for k in keep])
    return SimulatedCase(images[(slice(None), *keep)], labels[keep], affine, record, inside)
