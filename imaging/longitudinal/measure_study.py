"""Measuring the outline in force: volumes, diameters and midline shift, once for each outline.

Volumes are measured on each study's own grid. What other dates say of its lesions comes with the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from audit import services as audit
from imaging.brats.regions import REGIONS, Region, region_masks
from imaging.events import STUDY_MEASURED
from imaging.geometry.grid import Grid, crop_box, crop_to_box
from imaging.measurement.lesion_location import midline_shift
from imaging.measurement.midline_shift import Midline
from imaging.measurement.volumetry import measure_regions
from imaging.models import Segmentation, SegmentationKind, Study, Volumetry
from imaging.schemas.measurement import MidlineShift, RegionMaker, RegionMeasurement
from imaging.segmentation.label_maps import assessed_regions, current_segmentation, load_labels
from imaging.volumes.anatomy import anatomy_of, no_midline
from imaging.volumes.load import assessable_of, grid_of
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.events import emit

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["cut_to_tumour", "measure_study", "midline_of", "volumetry_of"]

_MARGIN_MM = 12.0


def measure_study(ctx: JobContext, study: Study) -> None:
    """Measure the outline in force of ``study`` (event study.measured); nothing where there is none, or it was measured."""
    segmentation = current_segmentation(study)
    if segmentation is None or Volumetry.objects.filter(segmentation=segmentation).exists():
        return
    ctx.progress(0.05, "Measuring")
    values = _measured(ctx, segmentation)
    failpoints.hit("imaging.measure_computed")
    with ctx.commit(done=True):
        _, made = Volumetry.objects.get_or_create(segmentation=segmentation, defaults=values)
        if not made:
            return
        emit(STUDY_MEASURED, subject=study.subject, study_id=str(study.pk))
        audit.record(
            "study.measure",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"segmentation": str(segmentation.pk)},
            source="worker",
        )


def volumetry_of(ctx: JobContext, segmentation: Segmentation) -> Volumetry:
    """The kept measures of an outline; made where an older version of this service measured it and kept none."""
    kept = Volumetry.objects.filter(segmentation=segmentation).first()
    if kept is not None:
        return kept
    values = _measured(ctx, segmentation)
    with ctx.commit():
        return Volumetry.objects.get_or_create(segmentation=segmentation, defaults=values)[0]


def midline_of(ctx: JobContext, segmentation: Segmentation) -> tuple[Midline | None, str]:
    """The midline as this outline leaves it (a core over the septum hides the shift), or None and why not."""
    volume_set = segmentation.volume_set
    if reason := no_midline(volume_set):
        return None, reason
    found = anatomy_of(ctx, volume_set)
    if not found.septum:
        return found, ""
    masks = region_masks(load_labels(segmentation))
    core = masks["WT" if "TC" in segmentation.not_assessed else "TC"]
    return found.under(core, grid_of(volume_set)), ""


def cut_to_tumour(labels: NDArray[np.uint8], grid: Grid) -> tuple[NDArray[np.uint8], Grid]:
    """A label map cut to the tumour with a margin: the rest of the head costs time and says nothing."""
    if not labels.any():
        return labels, grid
    box = crop_box(labels > 0, [int(np.ceil(_MARGIN_MM / s)) for s in grid.spacing_zyx()])
    return np.ascontiguousarray(labels[box]), crop_to_box(grid, box)


class MeasuredFields(TypedDict):
    """What measuring adds to a `Volumetry`."""

    regions: Mapping[Region, RegionMeasurement]
    midline_shift: MidlineShift


def _measured(ctx: JobContext, segmentation: Segmentation) -> MeasuredFields:
    """``regions`` and ``midline_shift`` of `Volumetry`."""
    whole = load_labels(segmentation)
    labels, grid = cut_to_tumour(whole, grid_of(segmentation.volume_set))
    regions = measure_regions(
        labels,
        grid,
        spacing_known=segmentation.study.spacing_known,
        experts=_experts(segmentation),
        not_assessed=segmentation.not_assessed,
        basis={
            region: f"Outlined by a person; the models could not assess it. {why}"
            for region, why in _by_hand(segmentation).items()
        },
        makers=_makers(segmentation, whole),
    )
    ctx.progress(0.5, "Finding the midline")
    midline, reason = midline_of(ctx, segmentation)
    return {"regions": regions, "midline_shift": midline_shift(midline, reason=reason)}


def _experts(segmentation: Segmentation) -> list[dict[str, NDArray[np.bool_]]]:
    """What each expert of the panel outlined in the same volumes, on the whole grid: the regions it assessed."""
    rows = Segmentation.objects.filter(volume_set=segmentation.volume_set, kind=SegmentationKind.EXPERT)
    newest = {row.author: row for row in rows.select_related("labels", "volume_set").order_by("author", "version")}
    # Whole, not cut: an expert may see tumour where the consensus has none, and that is part of the spread.
    masks = [(row, region_masks(load_labels(row))) for row in newest.values()]
    return [{region: mask[region] for region in assessed_regions(row)} for row, mask in masks]


def _makers(segmentation: Segmentation, labels: NDArray[np.uint8]) -> dict[Region, RegionMaker]:
    """Who made the outline of each region. A region of a person's outline that equals the consensus beneath is the consensus's.

    :param labels: the whole label map of ``segmentation``.
    """
    whole: dict[str, RegionMaker] = {
        SegmentationKind.CONSENSUS: "consensus",
        SegmentationKind.IMPORT: "import",
        SegmentationKind.EXPERT: "expert",
    }
    if segmentation.kind != SegmentationKind.PERSON:
        return dict.fromkeys(REGIONS, whole[segmentation.kind])
    origin, edited = segmentation.parent, segmentation.edited
    while origin is not None and origin.kind == SegmentationKind.PERSON:
        edited = edited and origin.edited
        origin = origin.parent
    beneath = origin is not None and origin.kind == SegmentationKind.CONSENSUS
    if origin is None or not beneath or origin.volume_set_id != segmentation.volume_set_id:
        return dict.fromkeys(REGIONS, "person")
    mine, theirs = region_masks(labels), region_masks(load_labels(origin))
    changed: RegionMaker = "corrected" if edited else "person"
    return {
        region: "person"
        if region in origin.not_assessed
        else "consensus"
        if np.array_equal(mine[region], theirs[region])
        else changed
        for region in REGIONS
    }


def _by_hand(segmentation: Segmentation) -> dict[Region, str]:
    """Regions that a person assessed though the study's sequences do not show them, with why these do not."""
    possible = assessable_of(segmentation.volume_set).not_assessed
    return {region: why for region, why in possible.items() if region not in segmentation.not_assessed}
