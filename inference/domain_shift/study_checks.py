"""Does a study look like what the experts were made for? Simple, honest checks; each answers with a sentence or nothing.

They find gross misfits (wrong sequence, wrong size, empty image), not every study that a model has not seen the like of.
A flag keeps a panel from being issued without a person; it never rejects a study.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imaging.preprocessing.brain_size import ADULT_BRAIN_ML
from imaging.schemas.volumes import VolumeParameters

__all__ = ["study_flags"]

SPACING_MM = (0.4, 2.5)
COVERED = 0.90
ALIKE = 0.985


def study_flags(
    images: Mapping[str, NDArray[np.float32]],
    brain_mask: NDArray[np.bool_],
    spacing_zyx: tuple[float, float, float],
    *,
    spacing_known: bool,
    parameters: VolumeParameters | None = None,
) -> tuple[str, ...]:
    """What speaks against trusting the panel on this study, one sentence each; empty when nothing does.

    :param images: sequence -> (z, y, x), 0 outside the brain. :param spacing_zyx: mm.
    :param parameters: of the volume set; its findings and its doubts about the brain mask count here.
    """
    flags = [one.message for one in parameters.findings] if parameters else []
    inside = int(np.count_nonzero(brain_mask))
    if inside == 0:
        return (*flags, "The brain mask is empty.")
    brain = parameters.brain if parameters else None
    if brain is not None and brain.plausible is False:
        flags.append(f"The brain mask is doubtful: {brain.reason or 'no reason recorded'}.")
    if not spacing_known:
        flags.append("The spacing of the voxels is not known; the models expect millimetres.")
    else:
        volume_ml = inside * float(np.prod(spacing_zyx)) / 1000.0
        if not ADULT_BRAIN_ML[0] <= volume_ml <= ADULT_BRAIN_ML[1]:
            flags.append(f"The brain mask measures {volume_ml:.0f} ml, unlike an adult's brain.")
        if min(spacing_zyx) < SPACING_MM[0] or max(spacing_zyx) > SPACING_MM[1]:
            flags.append("The voxels are larger or smaller than those the models know.")
    sample: dict[str, NDArray[np.float32]] = {}
    for name, image in images.items():
        values = image[brain_mask]
        if np.count_nonzero(values) < COVERED * inside:
            flags.append(f"The {name} image does not cover the brain.")
        if float(np.ptp(values)) == 0.0:
            flags.append(f"The {name} image is uniform.")
            continue
        sample[name] = values[:: max(1, inside // 100_000)]
    names = sorted(sample)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            if float(np.corrcoef(sample[one], sample[other])[0, 1]) > ALIKE:
                flags.append(f"The {one} and {other} images look like the same sequence.")
    if "T2" in sample and "FLAIR" in sample:
        fluid = sample["T2"] >= np.percentile(sample["T2"], 98)
        if fluid.any() and np.median(sample["FLAIR"][fluid]) > np.percentile(sample["FLAIR"], 97):
            flags.append("Fluid is not dark in the FLAIR image: the sequences may be exchanged.")
    return tuple(flags)
