"""Volumes that clients have sent, kept by key, so that they do not travel again with every question about a study."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncoflow_site.foundation.byte_lru import ByteLru

__all__ = ["VolumeCache", "array_names"]


def array_names(sequences: list[str]) -> list[str]:
    """Names of the arrays that a request about these sequences needs."""
    return ["brain_mask", *(f"image:{name}" for name in sequences)]


class VolumeCache:
    """Arrays by (key of the study's volumes, name of the array); the least recently used go when `limit` bytes are passed.

    A key stands for volumes that never change (a volume set of the database), so what is here is never stale.
    """

    def __init__(self, limit: int) -> None:
        self._arrays: ByteLru[tuple[str, str], NDArray[np.generic]] = ByteLru(limit, lambda array: array.nbytes)

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return self._arrays.bytes

    def find(self, key: str, names: list[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """(what is here, names of what is missing)."""
        here: dict[str, NDArray[Any]] = {}
        for name in names:
            array = self._arrays.get((key, name))
            if array is not None:
                here[name] = array
        return here, [name for name in names if name not in here]

    def keep(self, key: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Keep what a client has sent."""
        for name, array in arrays.items():
            self._arrays.put((key, name), array)
