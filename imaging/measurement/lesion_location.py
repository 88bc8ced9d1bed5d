"""Where lesions lie: side, distance from the midline, lobe; and the study's midline shift. Plain values for the record.

Every value has its unit in its key and its method beside it; what cannot be known is None with ``assessed`` False and a
reason. The plane is that of `imaging.measurement.midline_shift`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import Grid
from imaging.measurement.lesions import Lesion
from imaging.measurement.midline_shift import Midline
from imaging.measurement.volumetry import SPACING_UNKNOWN

__all__ = ["NO_LOBES", "lesion_location", "locate", "midline_entry"]

NO_LOBES = "No parcellation of the lobes whose licence allows shipping it is part of this service."
METHOD = "plane through the edge of the fissure between the hemispheres, found with MNI152 on T1"
SHIFT_METHOD = "distance of the septum at the level of the frontal horns from that plane"
# A lesion is on both sides when this much of it lies more than 2 mm beyond the plane, about what the plane is sure of.
_CROSSES_SHARE, _CROSSES_MM = 0.05, 2.0


def midline_entry(midline: Midline | None, *, reason: str = "") -> dict[str, Any]:
    """``Measurement.anatomy["midline_shift"]``.

    :param midline: None with ``reason`` where it was not looked for.
    """
    shift = None if midline is None else midline.shift_mm
    why = reason if midline is None else midline.reason
    side = None if shift is None else ("right" if shift > 0 else "left")
    return {
        "shift_mm": None if shift is None else round(abs(shift), 1),
        "towards": side,
        "uncertainty_mm": None if midline is None or shift is None else midline.uncertainty_mm,
        "assessed": shift is not None,
        "reason": why,
        "method": SHIFT_METHOD,
        "quality": {} if midline is None else dict(midline.quality),
        "atlas": None if midline is None or midline.atlas.reason else midline.atlas.to_json(),
    }


def lesion_location(
    lesion: Lesion, grid: Grid, midline: Midline | None, *, reason: str = "", spacing_known: bool = True
) -> dict[str, Any]:
    """``location`` of one lesion's entry: ``hemisphere`` left, right or both; ``distance_to_midline_mm`` from its nearest
    voxel, 0 where it crosses; ``lobe``. Side of the patient, not of the picture.
    """
    why = reason
    if not spacing_known:
        why = SPACING_UNKNOWN
    elif midline is not None and midline.plane_reason:
        why = midline.plane_reason
    entry: dict[str, Any] = {
        "hemisphere": None,
        "distance_to_midline_mm": None,
        "uncertainty_mm": None,
        "assessed": False,
        "reason": why,
        "method": METHOD,
        "lobe": None,
        "lobe_reason": NO_LOBES,
    }
    if why or midline is None:
        return entry
    side = _sides(lesion.mask, grid, midline)
    right, left = float(np.mean(side > _CROSSES_MM)), float(np.mean(side < -_CROSSES_MM))
    crosses = min(right, left) >= _CROSSES_SHARE
    entry["hemisphere"] = "both" if crosses else ("right" if float(np.mean(side)) > 0 else "left")
    entry["distance_to_midline_mm"] = 0.0 if crosses else round(float(np.min(np.abs(side))), 1)
    entry["uncertainty_mm"] = round(midline.quality.get("plane_rms_mm", 0.0) + 0.5, 1)
    entry["assessed"] = True
    return entry


def locate(
    entries: Sequence[dict[str, Any]],
    lesions: Sequence[Lesion],
    grid: Grid,
    midline: Midline | None,
    *,
    reason: str = "",
    spacing_known: bool = True,
) -> None:
    """Add ``location`` to the entries of the lesions that are there: the first ones, in order."""
    for entry, lesion in zip(entries, lesions, strict=False):
        entry["location"] = lesion_location(lesion, grid, midline, reason=reason, spacing_known=spacing_known)


def _sides(mask: NDArray[np.bool_], grid: Grid, midline: Midline) -> NDArray[np.float64]:
    """Signed mm of the lesion's voxels from the plane, positive to the patient's right."""
    z, y, x = np.nonzero(mask)
    return midline.distance(grid.world(np.stack([x, y, z], axis=1)))
