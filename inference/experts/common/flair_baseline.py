"""The trivial rule: what image evidence alone says about where a tumour is.

FLAIR more than 1.2 standard deviations above the brain's mean, largest component, is the whole tumour; where contrast
brightened T1 inside it is enhancing; what enhancement encloses is the core. It is the baseline beside every model's
Dice (about 0.8 / 0.6 / 0.6 for WT / TC / ET on real cases), and the source of SAM's automatic prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.experts.common.intensity import stack_channels, zscore_in_brain
from inference.experts.contract import Volumes

__all__ = ["FLAIR_Z", "RULE_SEQUENCES", "rule_regions", "salient_places", "salient_tumour", "suggested_regions"]

FLAIR_Z = 1.2
ENHANCEMENT_Z = 0.3
RULE_SEQUENCES = ("T1", "T1c", "FLAIR")


def salient_places(
    flair_z: NDArray[np.float32],
    brain: NDArray[np.bool_],
    sigma: tuple[float, float, float] = (0.5, 0.5, 0.5),
    *,
    most: int = 1,
    least_voxels: int = 1,
) -> list[NDArray[np.bool_]]:
    """Where a tumour may be, from z-scored FLAIR (z, y, x): smoothed, thresholded, opened, the largest components, filled.

    The largest first; at most `most`, and none but the first with fewer voxels than `least_voxels`.
    """
    smooth = ndimage.gaussian_filter(flair_z, sigma)
    raised = (smooth > FLAIR_Z) & brain
    opened = ndimage.binary_opening(raised)
    labelled, _ = ndimage.label(opened if opened.any() else raised)
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    found: list[NDArray[np.bool_]] = []
    for label in np.argsort(-sizes, kind="stable")[:most]:
        if sizes[label] >= (least_voxels if found else 1):
            found.append(ndimage.binary_fill_holes(labelled == label) & brain)
    return found


def salient_tumour(
    flair_z: NDArray[np.float32], brain: NDArray[np.bool_], sigma: tuple[float, float, float] = (0.5, 0.5, 0.5)
) -> NDArray[np.bool_]:
    """The largest of the `salient_places`; all False where there is none."""
    found = salient_places(flair_z, brain, sigma)
    return found[0] if found else np.zeros(brain.shape, bool)


def suggested_regions(
    whole: NDArray[np.bool_], t1c: NDArray[np.float32], t1: NDArray[np.float32]
) -> dict[str, NDArray[np.bool_]]:
    """The rule's nested masks {ET, TC, WT} of z-scored images (z, y, x) within a salient place."""
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
    return suggested_regions(salient_tumour(flair, brain, (sigma[0], sigma[1], sigma[2])), t1c, t1)
