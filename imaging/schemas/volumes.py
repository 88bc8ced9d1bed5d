"""How the volumes of a study came about: grids, transforms, the brain mask, steps. RAS, mm; matrices whole, row by row.

What is kept here makes the same bytes again (`imaging.volumes.reproduce`), so no number is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from oncoflow_site.foundation.schema import Document, OldData, Schema, with_defaults

__all__ = [
    "MATRIX",
    "MIDLINE",
    "QUALITY",
    "SHAPE",
    "SPACING",
    "TRANSFORM",
    "VOLUME_PARAMETERS",
    "AtlasRecord",
    "BrainRecord",
    "GridRecord",
    "Matrix",
    "MidlineRecord",
    "TransformRecord",
    "VolumeFinding",
    "VolumeParameters",
    "parameters_of_v1",
    "transform_of_v1",
]

_Row = tuple[float, float, float, float]
Matrix = tuple[_Row, _Row, _Row, _Row]
"""4 x 4 affine."""


class GridRecord(Schema):
    """A grid: affine (voxel index (x, y, z) to RAS mm), [x, y, z] voxels, [x, y, z] mm."""

    affine: Matrix
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]


class BrainRecord(Schema):
    """How the brain was found. ``quality``: volume_ml, atlas_ml, atlas_correlation, atlas_dice, or what the tool gives."""

    method: str
    plausible: bool | None
    reason: str
    quality: Mapping[str, float]


class VolumeFinding(Schema):
    """What speaks against trusting the volumes, and a reason to hold: ``code`` for machines, ``message`` for a radiologist."""

    code: str
    message: str


class VolumeParameters(Schema):
    """What was done to the series of a study, in order.

    :param reference: the sequence whose grid it is; None: not recorded. :param reference_grid: as the scanner gave it, RAS.
    :param full_grid: before the volumes were cut to the brain; ``box``: where they were cut, [[z0, z1], [y0, y1], [x0, x1]].
    :param inputs: fingerprint of the images that it started from. :param pipeline: version of the preparation.
    :param versions: of the libraries that the bytes depend on. :param warnings: sentences for a person.
    """

    reference: str | None
    reference_grid: GridRecord | None
    full_grid: GridRecord | None
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None
    interpolation: str
    brain: BrainRecord | None
    steps: tuple[Mapping[str, JsonValue], ...]
    warnings: tuple[str, ...]
    inputs: str = ""
    pipeline: JsonValue = ""
    versions: Mapping[str, str] = {}
    findings: tuple[VolumeFinding, ...] = ()


class TransformRecord(Schema):
    """The rigid transform of one sequence: ``matrix_ras`` from the study's grid to the scanner's, ``inverse_ras`` back.

    ``scanner_grid``: the grid of the series as it was given; None: not recorded.
    """

    method: str
    matrix_ras: Matrix
    inverse_ras: Matrix | None
    converged: bool
    reason: str
    scanner_grid: GridRecord | None


class AtlasRecord(Schema):
    """MNI152 against one brain: RAS mm of the atlas to RAS mm of the patient. ``reason``: why it must not be used."""

    matrix: Matrix
    correlation: float
    reason: str


class MidlineRecord(Schema):
    """`imaging.measurement.midline_shift.Midline`, whole."""

    normal: tuple[float, float, float] | None
    offset: float
    shift_mm: float | None
    uncertainty_mm: float | None
    reason: str
    plane_reason: str
    atlas: AtlasRecord
    quality: Mapping[str, float]
    septum: tuple[tuple[float, float, float], ...]


_BRAIN = {"method", "plausible", "reason"}


def parameters_of_v1(data: Mapping[str, Any]) -> OldData:
    """A plain dictionary whose keys grew with time; the brain's quality stood beside its method."""
    brain = data.get("brain") or None
    if brain is not None:
        quality = {name: value for name, value in brain.items() if name not in _BRAIN}
        brain = {
            "method": brain.get("method") or "",
            "plausible": brain.get("plausible"),
            "reason": brain.get("reason") or "",
            "quality": quality,
        }
    filled = with_defaults(
        data,
        reference=None,
        reference_grid=None,
        full_grid=None,
        box=None,
        interpolation="linear",
        steps=[],
        warnings=[],
    )
    return {**filled, "brain": brain}


def transform_of_v1(data: Mapping[str, Any] | None) -> OldData | None:
    """A plain dictionary; the way back and the scanner's grid were not kept at first."""
    if data is None:
        return None
    return with_defaults(data, method="", inverse_ras=None, converged=True, reason="", scanner_grid=None)


MATRIX: Document[Matrix] = Document("matrix", Matrix, version=1)
SHAPE: Document[tuple[int, int, int]] = Document("shape", tuple[int, int, int], version=1)
SPACING: Document[tuple[float, float, float]] = Document("spacing", tuple[float, float, float], version=1)
QUALITY: Document[Mapping[str, float]] = Document("registration quality", Mapping[str, float], version=1)
VOLUME_PARAMETERS: Document[VolumeParameters] = Document(
    "volume set parameters", VolumeParameters, version=2, upgrades={1: parameters_of_v1}
)
TRANSFORM: Document[TransformRecord | None] = Document(
    "volume.transform", TransformRecord | None, version=2, upgrades={1: transform_of_v1}
)
MIDLINE: Document[MidlineRecord] = Document("anatomy.midline", MidlineRecord, version=1)
