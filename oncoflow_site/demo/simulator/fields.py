"""Axis-aligned grids in head space and the smooth random fields that everything in the simulator is made of.

Head space is RAS in millimetres with the origin of MNI152. Arrays are (x, y, z), as nibabel gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FieldSource", "Floats", "Grid", "soft_step"]

# Values are float32 throughout for speed; NumPy's own rules may widen an intermediate result.
Floats = NDArray[np.floating[Any]]
Axes = tuple[Floats, Floats, Floats]

# Half the edge of the cube (mm) on which lattices live: larger than any head, so a field does not depend on the grid.
HALF_BOX = 150.0
# Root of the mean sum of squared cubic B-spline weights in three dimensions, so that fields come out with unit variance.
_SPLINE_DEVIATION = 0.4794**1.5


@dataclass(frozen=True)
class Grid:
    """A grid whose axes are those of head space: voxel (i, j, k) lies at origin + spacing * (i, j, k), in mm."""

    origin: tuple[float, float, float]
    spacing: float
    shape: tuple[int, int, int]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to head space (RAS mm), 4 x 4."""
        affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine

    @property
    def axes(self) -> Axes:
        """The three coordinate vectors, mm."""
        x, y, z = (o + self.spacing * np.arange(n) for o, n in zip(self.origin, self.shape, strict=True))
        return x, y, z

    def open_coordinates(self) -> tuple[Floats, Floats, Floats]:
        """Coordinates that broadcast to the grid: (nx,1,1), (1,ny,1), (1,1,nz), mm."""
        x, y, z = (a.astype(np.float32) for a in self.axes)
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def box(self, centre: NDArray[np.float64], reach: float) -> tuple[slice, slice, slice]:
        """Slices of the part of the grid within `reach` mm of `centre` along each axis (may be empty)."""
        first = np.floor((centre - reach - np.asarray(self.origin)) / self.spacing).astype(int)
        last = np.ceil((centre + reach - np.asarray(self.origin)) / self.spacing).astype(int) + 1
        shape = np.asarray(self.shape)
        first, last = np.clip(first, 0, shape), np.clip(last, 0, shape)
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])

    def crop(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid that indexing an array with `box` leaves."""
        origin = tuple(o + self.spacing * s.start for o, s in zip(self.origin, box, strict=True))
        shape = tuple(s.stop - s.start for s in box)
        return Grid((origin[0], origin[1], origin[2]), self.spacing, (shape[0], shape[1], shape[2]))


def soft_step(x: Floats, width: float) -> Floats:
    """0 below -2 width, 1 above 2 width, smooth between: a cheap sigmoid with finite support."""
    t = np.asarray(x * np.float32(0.25 / width), np.float32)
    t += np.float32(0.5)
    np.clip(t, 0.0, 1.0, out=t)
    out = t * np.float32(-2.0)
    out += np.float32(3.0)
    out *= t
    out *= t
    return out


def _spline_weights(at: NDArray[np.float64], step: float) -> tuple[Floats, int]:
    """Rows of cubic B-spline weights for positions `at` (mm) and the index of the first lattice node used."""
    u = (at + HALF_BOX) / step + 1.0
    cell = np.floor(u).astype(int)
    t = u - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6.0
    first = int(cell.min()) - 1
    rows = np.zeros((len(at), int(cell.max()) + 3 - first), np.float32)
    index = np.arange(len(at))
    for k in range(4):
        rows[index, cell - 1 + k - first] = weights[:, k]
    return rows, first


@lru_cache(maxsize=4)
def _lattice_size(step: float) -> int:
    return int(np.ceil(2 * HALF_BOX / step)) + 4


class FieldSource:
    """Smooth Gaussian random fields of head space that depend on a seed and a name only, never on the grid.

    The same patient can so be sampled at 2 mm for training and at 1 mm for a scanner, today and at the next visit.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def rng(self, *names: int) -> np.random.Generator:
        """A generator of its own for what `names` (small integers) stand for."""
        return np.random.default_rng([self.seed & 0xFFFFFFFF, *names])

    def field(self, axes: Axes, scale: float, *names: int) -> Floats:
        """A field of mean 0 and variance 1 with structures of about 2 * `scale` mm, on the grid of `axes`.

        Cubic B-splines on a lattice of step `scale`, evaluated axis by axis. Positions beyond the cube of
        +-150 mm are clamped to its faces.
        """
        size = _lattice_size(scale)
        values = self.rng(*names).standard_normal((size, size, size), dtype=np.float32)
        limit = HALF_BOX - 1e-3
        parts = [_spline_weights(np.clip(a, -limit, limit), scale) for a in axes]
        window = tuple(slice(first, first + rows.shape[1]) for rows, first in parts)
        out = values[window]
        for rows, _ in parts:
            # Contracts the leading axis and appends the new one: after three turns the order is x, y, z again.
            out = np.tensordot(out, rows, axes=(0, 1))
        return np.ascontiguousarray(out) / np.float32(_SPLINE_DEVIATION)
