"""Run-length coding of masks (z, y, x in C order), as a browser sends them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["decode_runs", "encode_runs"]


def encode_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths of a mask, as the module's docstring has them. An empty array gives []."""
    flat = np.asarray(mask, bool).ravel()
    if not flat.size:
        return []
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size])))
    found: list[int] = runs.tolist()
    return [0, *found] if flat[0] else found


def decode_runs(runs: Sequence[int], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Inverse of `encode_runs`.

    :raises UserVisibleError: the runs are not those of a mask of this shape.
    """
    lengths = np.asarray(runs, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != int(np.prod(shape)):
        raise UserVisibleError("The run lengths do not add up to the size of the part.", code="runs")
    values = np.zeros(len(lengths), bool)
    values[1::2] = True
    return np.repeat(values, lengths).reshape(shape)
