"""Intensity preparation that training and prediction share.

Each sequence is clipped to its 0.5 and 99.5 percentiles inside the brain, so that one bright vessel or a spike does not
set the scale of the z-score that follows. Outside the brain stays exactly 0, which is how nnU-Net recognises it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.common.input_requirements import NotRunnable, plan
from inference.experts.contract import Volumes
from inference.experts.errors import MissingSequence

__all__ = ["CLIP_PERCENTILES", "blank_channels", "clip_in_brain", "stack_channels", "zscore_in_brain"]

CLIP_PERCENTILES: tuple[float, float] = (0.5, 99.5)


def clip_in_brain(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Clip one image to CLIP_PERCENTILES of its values under `mask`; 0 outside. An all-zero image stays so."""
    inside = image[mask]
    out = np.zeros(image.shape, np.float32)
    if inside.size and inside.any():
        low, high = np.percentile(inside, CLIP_PERCENTILES)
        out[mask] = np.clip(inside, low, high)
    return out


def stack_channels(
    volumes: Volumes, channels: Sequence[str] = PANEL_SEQUENCES, *, blank: Collection[str] = ()
) -> NDArray[np.float32]:
    """(channel, z, y, x) float32 in the model's channel order, clipped, 0 outside the brain.

    An image that is 0 everywhere is passed on as such: models are trained with now and then a blank channel. One of `blank`
    that is absent becomes such a channel. Raises MissingSequence when another one is absent.
    """
    missing = [c for c in channels if c not in volumes.images and c not in blank]
    if missing:
        raise MissingSequence("missing sequence: " + ", ".join(missing))
    nothing = np.zeros(volumes.shape, np.float32)
    return np.stack(
        [clip_in_brain(np.asarray(volumes.images.get(c, nothing), np.float32), volumes.brain_mask) for c in channels]
    )


def blank_channels(
    volumes: Volumes, kind: str, evaluation: Mapping[str, Any], needs: Sequence[str] | None
) -> tuple[str, ...]:
    """The sequences that an expert may take blank on this study (see `needs.plan`).

    Raises MissingSequence when it cannot run on what is there.
    """
    try:
        given = plan(volumes.images.keys(), kind, evaluation, needs).sequences
    except NotRunnable as error:
        raise MissingSequence(f"missing sequence: the expert {error}") from None
    return tuple(name for name in PANEL_SEQUENCES if name not in given)


def zscore_in_brain(stack: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each channel minus its mean over `mask`, divided by its standard deviation there; 0 outside."""
    out = np.zeros(stack.shape, np.float32)
    for channel in range(stack.shape[0]):
        inside = stack[channel][mask]
        out[channel][mask] = (inside - inside.mean()) / max(float(inside.std()), 1e-8)
    return out
