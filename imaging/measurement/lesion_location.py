"""Where lesions lie: side, distance from the midline, lobe; and the study's midline shift. Schemas for the record.

What cannot be known is None with ``assessed`` False and a reason. The plane is that of `imaging.measurement.midline_shift`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.measurement.lesions import Lesion
from imaging.measurement.midline_shift import Midline
from imaging.measurement.volumetry import SPACING_UNKNOWN
from imaging.schemas.measurement import LesionLocation, LesionMeasurement, MidlineShift

__all__ = ["NO_LOBES", "lesion_location", "located", "midline_shift"]

NO_LOBES = "No parcellation of the lobes whose licence allows shipping it is part of this service."
METHOD = "plane through the edge of the fissure between the hemispheres, found with MNI152 on T1"
SHIFT_METHOD = "distance of the septum at the level of the frontal horns from that plane"
# A lesion is on both sides when this much of it lies more than 2 mm beyond the plane, about what the plane is sure of.
_CROSSES_SHARE, _CROSSES_MM = 0.05, 2.0


def midline_shift(midline: Midline | None, *, reason: str = "") -> MidlineShift:
    """``Measurement.anatomy.midline_shift``.

    :param midline: None with ``reason`` where it was not looked for.
    """
    shift = None if midline is None else midline.shift_mm
    return MidlineShift(
        shift_mm=None if shift is None else round(abs(shift), 1),
        towards=None if shift is None else ("right" if shift > 0 else "left"),
        uncertainty_mm=None if midline is None or shift is None else midline.uncertainty_mm,
        assessed=shift is not None,
        reason=reason if midline is None else midline.reason,
        method=SHIFT_METHOD,
        quality={} if midline is None else midline.quality,
        atlas=None if midline is None or midline.atlas.reason else midline.atlas.map(),
    )


def lesion_location(
    lesion: Lesion, grid: Grid, midline: Midline | None, *, reason: str = "", spacing_known: bool = True
) -> LesionLocation:
    """Where one lesion lies: ``hemisphere`` left, right or both; ``distance_to_midline_mm`` from its nearest voxel, 0 where
    it crosses; ``lobe``. Side of the patient, not of the picture.
    """
    why = reason
    if not spacing_known:
        why = SPACING_UNKNOWN
    elif midline is not None and midline.plane_reason:
        why = midline.plane_reason
    hemisphere: Literal["left", "right", "both"] | None = None
    distance, uncertainty = None, None
    if not why and midline is not None:
        side = _sides(lesion.mask, grid, midline)
        right, left = float(np.mean(side > _CROSSES_MM)), float(np.mean(side < -_CROSSES_MM))
        crosses = min(right, left) >= _CROSSES_SHARE
        hemisphere = "both" if crosses else ("right" if float(np.mean(side)) > 0 else "left")
        distance = 0.0 if crosses else round(float(np.min(np.abs(side))), 1)
        uncertainty = round(midline.quality.get("plane_rms_mm", 0.0) + 0.5, 1)
    return LesionLocation(
        hemisphere=hemisphere,
        distance_to_midline_mm=distance,
        uncertainty_mm=uncertainty,
        assessed=hemisphere is not None,
        reason=why,
        method=METHOD,
        lobe=None,
        lobe_reason=NO_LOBES,
    )


def located(
    measured: Sequence[LesionMeasurement],
    lesions: Sequence[Lesion],
    grid: Grid,
    midline: Midline | None,
    *,
    reason: str = "",
    spacing_known: bool = True,
) -> tuple[LesionMeasurement, ...]:
    """The measured lesions with the location of those that are there: the first ones, in order."""
    places = [lesion_location(lesion, grid, midline, reason=reason, spacing_known=spacing_known) for lesion in lesions][
        : len(measured)
    ]
    placed = [one.model_copy(update={"location": place}) for one, place in zip(measured, places, strict=False)]
    return (*placed, *measured[len(places) :])


def _sides(mask: NDArray[np.bool_], grid: Grid, midline: Midline) -> NDArray[np.float64]:
    """Signed mm of the lesion's voxels from the plane, positive to the patient's right."""
    z, y, x = np.nonzero(mask)
    return midline.distance(grid.world(np.stack([x, y, z], axis=1)))
