"""The trivial rule: what image evidence alone says about where a tumour is.

FLAIR more than 1.2 standard deviations above the brain's mean, largest component, is the whole tumour; where contrast
brightened T1 inside it is enhancing; what enhancement encloses is the core. It is the baseline beside every model's
Dice (about 0.8 / 0.6 / 0.6 for WT / TC / ET on real cases), and the source of SAM's automatic prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .base import Volumes
from .prepare import stack_channels, zscore_in_brain

__all__ = ["FLAIR_Z", "RULE_SEQUENCES", "largest_component", "rule_regions", "salient_tumour", "suggested_regions"]

FLAIR_Z = 1.2
ENHANCEMENT_Z = 0.3
RULE_SEQUENCES = ("T1", "T1c", "FLAIR")


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest 6-connected component; all False when the mask is empty."""
    labelled, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, bool)
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    found: NDArray[np.bool_] = labelled == int(sizes.argmax())
    return found


def salient_tumour(
    flair_z: NDArray[np.float32], brain: NDArray[np.bool_], sigma: tuple[float, float, float] = (0.5, 0.5, 0.5)
) -> NDArray[np.bool_]:
    """Whole-tumour candidate from z-scored FLAIR (z, y, x): smoothed, thresholded, opened, largest component, filled."""
    smooth = ndimage.gaussian_filter(flair_z, sigma)
    raised = (smooth > FLAIR_Z) & brain
    opened = ndimage.binary_opening(raised)
    main = largest_component(opened if opened.any() else raised)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(main) & brain
    return filled


def suggested_regions(
    flair: NDArray[np.float32],
    t1c: NDArray[np.float32],
    t1: NDArray[np.float32],
    brain: NDArray[np.bool_],
    sigma: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> dict[str, NDArray[np.bool_]]:
    """The rule's nested masks {ET, TC, WT} of z-scored images (z, y, x)."""
    whole = salient_tumour(flair, brain, sigma)
    enhancing = (t1c - t1 > ENHANCEMENT_Z) & whole
    core = enhancing.copy()
    for index in np.flatnonzero(enhancing.any(axis=(1, 2))):
        core[index] = ndimage.binary_fill_holes(enhancing[index])
    return {"ET": enhancing, "TC": core & whole, "WT": whole}


def rule_regions(volumes: Volumes) -> dict[str, NDArray[np.bool_]]:
    """The rule's nested masks {ET, TC, WT} on the grid of `volumes`. Raises MissingSequence."""
    brain = volumes.brain_mask
    t1, t1c, flair = zscore_in_brain(stack_channels(volumes, RULE_SEQUENCES), brain)
    sigma = tuple(1.0 / s for s in volumes.spacing)
    return suggested_regions(flair, t1c, t1, brain, (sigma[0], sigma[1], sigma[2]))
