"""What is measured on one outline: regions, lesions, midline. Lengths in mm, volumes in mm3; None: not assessed.

Nothing is rounded for people here (see `reports.content.figures`); the numbers are those that were computed, to 0.001 mm3 and
0.01 mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from imaging.brats.regions import REGIONS as REGION_KEYS
from imaging.brats.regions import Region
from imaging.schemas.assessed import NotAssessed
from oncoflow_site.foundation.schema import Document, OldData, Schema, with_defaults

__all__ = [
    "ANATOMY",
    "LESIONS",
    "MIDLINE_SHIFT",
    "REGIONS",
    "AtlasMap",
    "LesionLocation",
    "LesionMeasurement",
    "LesionStatus",
    "MeasuredAnatomy",
    "MidlineShift",
    "RegionMaker",
    "RegionMeasurement",
    "RegionMeasurements",
    "VolumeSpread",
    "anatomy_of_v1",
    "lesions_of_v1",
    "midline_shift_of_v1",
    "regions_of_v1",
]


RegionMaker = Literal["consensus", "corrected", "person", "import", "expert", ""]
"""Who made one region's outline; corrected: a consensus that a person changed there; empty: not recorded by region."""


class VolumeSpread(Schema):
    """Smallest and largest volume that the single experts outlined, mm3. No confidence interval."""

    low: float
    high: float
    experts: int | None
    method: str


class RegionMeasurement(Schema):
    """One region of an outline.

    :param voxels: None: the outline says nothing about the region. :param measurable: both diameters at least 10 mm.
    :param assessed: whether millimetres could be given; ``reason`` says why not, or why there is no diameter.
    :param basis: what a reader must know of where the outline comes from; empty where it is the panel's.
    :param maker: who made the outline of this region.
    """

    volume_mm3: float | None
    voxels: int | None
    voxels_basis: str = "affine"
    longest_axial_diameter_mm: float | None
    perpendicular_diameter_mm: float | None
    measurable: bool | None
    assessed: bool
    reason: str
    uncertainty_mm3: VolumeSpread | None
    basis: str = ""
    maker: RegionMaker = ""

    @property
    def outlined(self) -> bool:
        """False where the outline says nothing about the region at all: not only its millimetres are unknown."""
        return self.assessed or self.voxels is not None

    def not_assessed(self, what: str) -> NotAssessed | None:
        """``what`` with the reason, where there is no volume."""
        return None if self.volume_mm3 is not None else NotAssessed(what=what, reason=self.reason or "not computed")


RegionMeasurements = Mapping[Region, RegionMeasurement]


class LesionLocation(Schema):
    """Where a lesion lies. Sides are the patient's. ``distance_to_midline_mm`` is 0 where it crosses."""

    hemisphere: Literal["left", "right", "both"] | None
    distance_to_midline_mm: float | None
    uncertainty_mm: float | None
    assessed: bool
    reason: str
    method: str
    lobe: str | None
    lobe_reason: str


LesionStatus = Literal["baseline", "new", "followed", "gone", "not-assessed"]
"""``not-assessed``: a lesion of the earlier date that this one could not have shown."""


class LesionMeasurement(Schema):
    """One lesion of an outline, or one of the latest earlier date that is no longer there (sizes 0, no centroid).

    :param id: given once per patient, e.g. ``L1``. :param regions: mm3. :param voxels: counts.
    :param split_from: the lesion that it was a part of. :param merged_into: the lesion that it has become a part of.
    :param recurrent: seen at an earlier date, not at the latest one.
    """

    id: str
    status: LesionStatus
    regions: Mapping[Region, float | None]
    voxels: Mapping[Region, int | None]
    longest_axial_diameter_mm: float | None
    perpendicular_diameter_mm: float | None
    measurable: bool | None
    centroid_ras_mm: tuple[float, float, float] | None
    reason: str = ""
    split_from: str | None = None
    merged_into: str | None = None
    recurrent: bool = False
    location: LesionLocation | None = None

    @property
    def present(self) -> bool:
        """Whether it was found in this outline."""
        return self.centroid_ras_mm is not None

    def shows(self, region: str) -> bool:
        """Whether it has any of ``region``; never of no region."""
        return bool(region and self.voxels.get(region))  # type: ignore[call-overload]


class AtlasMap(Schema):
    """The affine map of an atlas onto a brain: 4x4, RAS mm of the atlas -> RAS mm of the patient."""

    atlas: str
    matrix_ras: tuple[tuple[float, float, float, float], ...]
    correlation: float


class MidlineShift(Schema):
    """Distance of the septum from the ideal midline, mm, not negative, and the patient's side that it went to."""

    shift_mm: float | None
    towards: Literal["left", "right"] | None
    uncertainty_mm: float | None
    assessed: bool
    reason: str
    method: str
    quality: Mapping[str, float]
    atlas: AtlasMap | None

    def not_assessed(self) -> NotAssessed | None:
        """That it was not assessed, with the reason."""
        return None if self.assessed else NotAssessed(what="midline shift", reason=self.reason or "not computed")


class MeasuredAnatomy(Schema):
    """What is measured of the brain and not of the tumour. None: measured before there was such a thing."""

    midline_shift: MidlineShift | None = None


def regions_of_v1(data: Mapping[str, Any]) -> OldData:
    """Plain dictionaries: ``basis`` was there for a person's outline only, the spread did not always count its experts."""
    return {region: _region_of_v1(values) for region, values in data.items()}


def _region_of_v1(values: Mapping[str, Any]) -> OldData:
    spread = values.get("uncertainty_mm3")
    filled = with_defaults(
        values,
        volume_mm3=None,
        voxels=None,
        longest_axial_diameter_mm=None,
        perpendicular_diameter_mm=None,
        measurable=None,
        assessed=values.get("volume_mm3") is not None,
        reason="",
    )
    return {**filled, "uncertainty_mm3": with_defaults(spread, experts=None, method="") if spread else None}


def lesions_of_v1(data: list[Mapping[str, Any]]) -> list[OldData]:
    """A plain list; what did not concern a lesion was left out of its entry, and there was no location at first."""
    return [
        with_defaults(
            {**one, "regions": _all_regions(one.get("regions")), "voxels": _all_regions(one.get("voxels"))},
            longest_axial_diameter_mm=None,
            perpendicular_diameter_mm=None,
            measurable=None,
            centroid_ras_mm=None,
        )
        for one in data
    ]


def _all_regions(values: Mapping[str, Any] | None) -> OldData:
    return {region: (values or {}).get(region) for region in REGION_KEYS}


def anatomy_of_v1(data: Mapping[str, Any]) -> OldData:
    """A plain dictionary, empty before the midline was measured."""
    shift = data.get("midline_shift") or None
    return {"midline_shift": midline_shift_of_v1(shift) if shift else None}


def midline_shift_of_v1(data: Mapping[str, Any]) -> OldData:
    """A plain dictionary; neither quality nor atlas were kept at first."""
    return with_defaults(data, quality={}, atlas=None)


REGIONS: Document[RegionMeasurements] = Document(
    "measurement.regions", RegionMeasurements, version=2, upgrades={1: regions_of_v1}
)
LESIONS: Document[tuple[LesionMeasurement, ...]] = Document(
    "measurement.lesions", tuple[LesionMeasurement, ...], version=2, upgrades={1: lesions_of_v1}
)
ANATOMY: Document[MeasuredAnatomy] = Document(
    "measurement.anatomy", MeasuredAnatomy, version=2, upgrades={1: anatomy_of_v1}
)
MIDLINE_SHIFT: Document[MidlineShift] = Document(
    "volumetry.midline_shift", MidlineShift, version=2, upgrades={1: midline_shift_of_v1}
)
