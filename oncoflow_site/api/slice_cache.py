"""What pictures of slices are cut from: volumes and outlines decoded once, held in the web process within a memory limit.

A mouse wheel asks for a hundred pictures of one volume. What is held is grey as it is shown (one byte a voxel) and forgotten
after ten minutes, so that nothing outlives the erasure of a patient for long. Who may see it is asked before, at each request.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from imaging.models import Segmentation, Volume
from imaging.rendering.slices import default_window
from imaging.segmentation.label_maps import load_labels
from imaging.volumes.load import load_volume
from oncoflow_site.foundation.byte_lru import ByteLru

__all__ = ["WINDOW", "clear", "grey_of", "labels_of"]

WINDOW = (0.0, 255.0)
"""Window of what `grey_of` gives, for `imaging.rendering.slices.render_slice`."""
KEPT_S = 600.0

_Decoded = tuple[float, NDArray[np.uint8]]
_held: ByteLru[uuid.UUID, _Decoded] | None = None
_loading = threading.Lock()  # two requests for one volume decode it once


def grey_of(volume: Volume) -> NDArray[np.uint8]:
    """A volume (z, y, x) in its default window, 0 black and 255 white. Not to be written to."""

    def decode() -> NDArray[np.uint8]:
        values, _ = load_volume(volume.volume_set.study, volume.sequence, volume_set=volume.volume_set)
        low, high = default_window(values)
        scaled = np.clip((values - np.float32(low)) / max(high - low, 1e-6), 0.0, 1.0)
        return np.rint(scaled * 255.0).astype(np.uint8)

    return _kept(volume.pk, decode)


def labels_of(segmentation: Segmentation) -> NDArray[np.uint8]:
    """A label map (z, y, x). Not to be written to."""
    return _kept(segmentation.pk, lambda: load_labels(segmentation))


def clear() -> None:
    """Forget everything."""
    _cache().clear()


def _cache() -> ByteLru[uuid.UUID, _Decoded]:
    global _held
    if _held is None:
        _held = ByteLru(int(settings.ONCOFLOW_SLICE_CACHE_MIB) << 20, _bytes)
    return _held


def _bytes(decoded: _Decoded) -> int:
    return int(decoded[1].nbytes)


def _kept(key: uuid.UUID, decode: Callable[[], NDArray[Any]]) -> NDArray[np.uint8]:
    cache = _cache()
    found = cache.get(key)
    if found is None or found[0] < time.monotonic():
        with _loading:
            found = cache.get(key)
            if found is None or found[0] < time.monotonic():
                array = decode()
                array.flags.writeable = False
                found = (time.monotonic() + KEPT_S, array)
                cache.put(key, found)
    return found[1]
