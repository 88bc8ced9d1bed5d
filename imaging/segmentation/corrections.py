"""A person's corrections of an outline: some voxels of a region on a part of the grid, applied to a parent segmentation.

The parent stays as it is; the result is the study's next version, in force, with its parent, author and reason. Masks
travel as run lengths: the lengths of alternating runs, the first of voxels that are not in the mask, of the part's voxels
in C order (z slowest, x fastest). That is COCO's uncompressed RLE, in rows instead of columns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from django.db import transaction
from numpy.typing import NDArray

from imaging.brats.assessability import left_unassessed
from imaging.brats.regions import REGIONS, labels_from_regions, region_mask
from imaging.models import Segmentation, Study
from imaging.segmentation.label_maps import current_segmentation, load_labels, write_labels
from imaging.segmentation.manual_import import put_in_force
from imaging.volumes.load import assessable_of, grid_of, latest_volume_set
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["HOW", "Correction", "apply_corrections", "save_corrections"]


HOW = ("add", "remove", "replace")


@dataclass(frozen=True)
class Correction:
    """One change. region: ET, TC or WT. origin: first voxel (z, y, x) of the part; mask: bool (z, y, x), the part.

    how: "add" its voxels to the region, "remove" them, or "replace" the region within the part.
    """

    region: str
    how: str
    origin: tuple[int, int, int]
    mask: NDArray[np.bool_]


def apply_corrections(
    labels: NDArray[np.uint8], corrections: Sequence[Correction], not_assessed: Collection[str] = ()
) -> NDArray[np.uint8]:
    """The label map after the corrections, in their order. Regions stay nested: what joins a region joins those around it,
    what leaves a region leaves those within it.

    :param not_assessed: regions that ``labels`` say nothing about. Unless a correction outlines the whole tumour, what leaves
        its core leaves it too: nobody has said that there is oedema.
    :raises UserVisibleError: a part that does not lie on the grid.
    """
    masks: dict[str, NDArray[np.bool_]] = {region: region_mask(labels, region) for region in REGIONS}
    for one in corrections:
        ends = tuple(start + length for start, length in zip(one.origin, one.mask.shape, strict=True))
        if min(one.origin) < 0 or any(end > length for end, length in zip(ends, labels.shape, strict=True)):
            raise UserVisibleError("A part lies outside the study's grid.", code="outside")
        part = tuple(slice(start, end) for start, end in zip(one.origin, ends, strict=True))
        region = masks[one.region][part]
        wanted = {"add": region | one.mask, "remove": region & ~one.mask, "replace": one.mask}[one.how]
        index = REGIONS.index(one.region)  # REGIONS: innermost first
        for inner in REGIONS[:index]:
            masks[inner][part] &= wanted
        masks[one.region][part] = wanted
        for outer in REGIONS[index + 1 :]:
            masks[outer][part] |= wanted
    if "WT" in not_assessed and not any(one.region == "WT" and one.how != "remove" for one in corrections):
        masks["WT"] = masks["TC"]
    return labels_from_regions(masks)


def save_corrections(
    study: Study,
    parent: Segmentation | None,
    corrections: Sequence[Correction],
    *,
    author: str,
    reason: str,
    seen: str | None = None,
) -> Segmentation:
    """Store the corrected parent as a person's segmentation, in force; measuring and a new draft follow.

    :param parent: the outline that was corrected; None: an empty one.
    :param author: user name of who corrected. :param reason: why, in that person's words; free of identity.
    :param seen: id of the outline in force that the person had before them ("" for none); None: not checked.
    :raises UserVisibleError: with a code: no volumes, a parent of older volumes, nothing changed, or another outline has
        come into force meanwhile.
    """
    volume_set = latest_volume_set(study)
    if volume_set is None:
        raise UserVisibleError("This study has no volumes yet.", code="no-volumes")
    if parent is not None and parent.volume_set_id != volume_set.pk:
        raise UserVisibleError(
            "The study was prepared anew since: that outline does not lie on its present volumes.",
            what_to_do="Load the study again.",
            code="old-volumes",
        )
    before = load_labels(parent) if parent is not None else np.zeros(grid_of(volume_set).shape_zyx, np.uint8)
    lacking = parent.not_assessed if parent is not None else assessable_of(volume_set).not_assessed
    labels = apply_corrections(before, corrections, lacking)
    if np.array_equal(labels, before):
        raise UserVisibleError("Nothing would change.", code="unchanged")
    # What a person outlines is assessed by it, also where the sequences do not show it to a model.
    left_out = left_unassessed(assessable_of(volume_set), np.unique(labels).tolist(), before=lacking)
    written = write_labels(study, volume_set, labels, not_assessed=left_out)
    with transaction.atomic():
        Study.objects.select_for_update().get(pk=study.pk)
        current = current_segmentation(study)
        if seen is not None and seen != (str(current.pk) if current else ""):
            raise UserVisibleError(
                "Another outline has come into force meanwhile.",
                what_to_do="Load the study again and correct that one.",
                code="superseded",
            )
        return put_in_force(
            study,
            written,
            author=author,
            parent=parent,
            edited=parent is not None,
            reason=reason,
            detail={"corrections": len(corrections)},
        )
