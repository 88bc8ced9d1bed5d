"""The scanner of the demo: slices, table positions, and what each sequence suffers.

T1 and T1c are sagittal three-dimensional gradient echoes, T2 and FLAIR axial two-dimensional spin echoes with thick
slices, tilted as a radiographer would.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .acquisition import Degradation, ScanGrid, add_ghost, bias_field, rician, scan
from .fields import FieldSource, Floats, Grid

Difficulty = Literal["clean", "hard"]

__all__ = [
    "Difficulty",
    "choose_grid",
    "choose_motion",
    "choose_pose",
    "choose_scanner",
    "scan_sequence",
    "scanner_flaws",
]

# Where white matter ends up in the 12 bits stored (0-4095), by sequence T1, T1c, T2, FLAIR.
_GAIN = (900.0, 820.0, 420.0, 720.0)


def rigid(angles: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """4 x 4 rigid transform: rotation Rz Ry Rx by `angles` (radians), then `shift` (mm)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    out = np.eye(4)
    out[:3, :3] = about_z @ about_y @ about_x
    out[:3, 3] = shift
    return out


def choose_pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """Head space to world for one examination: the head lies a few degrees and millimetres otherwise each time."""
    return rigid(rng.normal(0, np.deg2rad(3.0), 3), rng.normal(0, 5.0, 3) + np.array([0.0, 15.0, -8.0]))


def choose_motion(rng: np.random.Generator) -> NDArray[np.float64]:
    """What the head moved between sequences: under 1 degree, and under 2 mm."""
    angles = np.clip(rng.normal(0, np.deg2rad(0.3), 3), -0.012, 0.012)
    return rigid(angles, np.clip(rng.normal(0, 0.4, 3), -0.9, 0.9))


def choose_scanner(rng: np.random.Generator) -> tuple[float, float]:
    """What another scanner does to a sequence: slice thickness (mm) of two-dimensional ones, exponent of its contrast."""
    return float(rng.choice([2.0, 3.0, 4.0, 5.0])), float(rng.uniform(0.92, 1.08))


def choose_grid(
    sequence: str,
    pose: NDArray[np.float64],
    rng: np.random.Generator,
    difficulty: Difficulty,
    thickness: float | None = None,
) -> ScanGrid:
    """Slices for a sequence: centred on the brain as planned from a localiser, tilted, never quite the same.

    thickness: of the slices of T2 and FLAIR, mm; that of the demo's scanner where it is not given.
    """
    tilt = rigid(np.array([rng.uniform(-0.16, 0.1), rng.normal(0, 0.03), rng.normal(0, 0.03)]), np.zeros(3))[:3, :3]
    if sequence in ("T1", "T1c"):
        spacing, thick, shape = (1.0, 1.0, 1.2), 1.2, (240, 240, 150)
        # Sagittal: columns run to posterior, rows to the feet, slices from the patient's right to the left.
        axes = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        tilt = rigid(np.array([0.0, rng.normal(0, 0.015), rng.normal(0, 0.015)]), np.zeros(3))[:3, :3]
        middle = np.array([0.0, -12.0, -2.0])
    else:
        thick = thickness or (4.0 if difficulty == "hard" else 3.0)
        gap = float(rng.choice([0.0, 0.3]))
        spacing = (0.9, 0.9, thick + gap)
        shape = (256, 256, int(np.ceil(176.0 / spacing[2])))
        # Axial: columns run to the patient's left, rows to posterior, slices from the feet upwards.
        axes = np.array([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
        middle = np.array([0.0, -14.0, 6.0])
    directions = tilt @ axes
    centre = pose[:3, :3] @ middle + pose[:3, 3] + rng.uniform(-2.0, 2.0, 3)
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2.0)
    # Positions are written to the header with microns, so the truth is kept in the same numbers.
    affine[:3, 3] = np.round(affine[:3, 3], 4)
    return ScanGrid(affine, shape, spacing, thick)


def scanner_flaws(rng: np.random.Generator, difficulty: Difficulty, thickness: float) -> Degradation:
    """What is wrong with one sequence."""
    u = rng.uniform
    if difficulty == "hard":
        return Degradation(
            noise=u(0.10, 0.15), bias=u(0.16, 0.24), blur=u(0.9, 1.4), slice_thickness=thickness, ghost=u(0.06, 0.11)
        )
    return Degradation(noise=u(0.015, 0.03), bias=u(0.03, 0.08), blur=u(0.2, 0.45), slice_thickness=thickness)


def scan_sequence(
    image: Floats,
    head: Grid,
    grid: ScanGrid,
    to_world: NDArray[np.float64],
    flaw: Degradation,
    source: FieldSource,
    names: tuple[int, ...],
    *,
    noise_everywhere: bool,
) -> NDArray[np.uint16]:
    """Scan a head-space image (x, y, z); returns (columns, rows, slices), 12 bits.

    to_world: head space to scanner (RAS mm). names: numbers of this scan for its random streams, the last that of
    the sequence. noise_everywhere=False keeps exact zeros (a skull-stripped image).
    """
    index = names[-1]
    rng = source.rng(420, *names)
    to_voxel = np.linalg.inv(to_world @ head.affine) @ grid.affine
    pixels = scan(image, to_voxel, grid, head.spacing)
    outside = pixels <= 0
    if flaw.ghost:
        # T1 is phase-encoded along columns of the sagittal slice, T2 and FLAIR right to left.
        pixels = add_ghost(pixels, flaw.ghost, 0, int(rng.integers(9, 26)))
    coil = tuple(np.arange(n) * s - (n - 1) * s / 2 for n, s in zip(grid.shape, grid.spacing, strict=True))
    pixels = pixels * bias_field(source, (coil[0], coil[1], coil[2]), flaw.bias, 421, *names)
    if flaw.blur > 0.3:
        pixels = ndimage.gaussian_filter(pixels, (flaw.blur / grid.spacing[0],) * 2 + (0.0,), truncate=2.5)
    pixels = rician(pixels, flaw.noise, rng)
    stored = np.clip(np.rint(pixels * np.float32(_GAIN[index] * rng.uniform(0.85, 1.15))), 0, 4095).astype(np.uint16)
    if not noise_everywhere:
        stored = np.where(outside, 0, np.maximum(stored, 1)).astype(np.uint16)
    return stored
