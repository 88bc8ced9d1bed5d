"""One study against an earlier one: change of regions and lesions, and the response category on images alone.

Volumes in mm3, as measured; None: not assessed. Both sides say who made their outline, from which sequences and with which
band of the gate, so that a claim can ask whether like is compared with like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from imaging.brats.regions import Region
from imaging.schemas.assessed import NotAssessed
from imaging.schemas.measurement import LesionStatus
from imaging.schemas.outline import OutlineSource
from oncoflow_site.foundation.schema import Document, Instant, OldData, Schema, with_defaults

__all__ = [
    "COMPARISON",
    "ComparedSequences",
    "ComparisonOutlines",
    "ComparisonResult",
    "LesionChange",
    "RegionChange",
    "RegistrationQuality",
    "Response",
    "ResponseCategory",
    "ResponseInputs",
    "ResponseOutlines",
    "VolumesAt",
    "comparison_of_v1",
]

ResponseCategory = Literal["CR", "PR", "SD", "PD", "not assessed"]


class RegionChange(Schema):
    """Change of one region. ``small``: both volumes below what repeated scans agree on; ``reason``: why, or what to think."""

    current_mm3: float | None
    prior_mm3: float | None
    change_mm3: float | None
    change_percent: float | None
    small: bool | None
    reason: str

    def not_assessed(self, what: str) -> NotAssessed | None:
        """``what`` with the reason, where no percentage can be given."""
        return None if self.change_percent is not None else NotAssessed(what=what, reason=self.reason or "not computed")


class LesionChange(Schema):
    """One lesion at both dates, by the volume of ``region`` (its core; the whole tumour where it has none)."""

    id: str
    status: LesionStatus
    region: Region | Literal[""]
    current_mm3: float | None
    prior_mm3: float | None


class ComparedSequences(Schema):
    """Sequences of both studies; ``prior`` is None at the baseline. ``note``: a sentence where they differ."""

    current: tuple[str, ...]
    prior: tuple[str, ...] | None
    note: str


class RegistrationQuality(Schema):
    """How the earlier study was aligned with this one."""

    method: str
    quality: Mapping[str, float]
    converged: bool
    reason: str


class VolumesAt(Schema):
    """Volumes of one date, mm3."""

    study_id: str
    performed_at: Instant
    ET: float | None
    TC: float | None
    WT: float | None

    def volume(self, region: str) -> float | None:
        """Of ET, TC or WT."""
        return {"ET": self.ET, "TC": self.TC, "WT": self.WT}[region]


class ResponseInputs(Schema):
    """What the response rules were given, whole mm3. Baseline: the earliest date known here; nadir: the smallest since."""

    current_mm3: int | None = None
    current_measurable: bool | None = None
    baseline_mm3: int | None = None
    baseline_study_id: str | None = None
    baseline_measurable: bool | None = None
    nadir_mm3: int | None = None
    nadir_study_id: str | None = None
    percent_vs_baseline: float | None = None
    percent_vs_nadir: float | None = None
    new_measurable_lesions: int | None = None
    dates_without_volume: int | None = None


class ResponseOutlines(Schema):
    """The outlines that the response rests on; None: that date was not used."""

    current: OutlineSource
    baseline: OutlineSource | None
    nadir: OutlineSource | None


class Response(Schema):
    """Category of RANO 2.0 on images alone, with the rules that gave it and what only the clinic knows (``missing``).

    :param confirmed: None where there is no category. :param inputs: None where nothing could be computed.
    :param outlines: None: computed before they were recorded.
    """

    category: ResponseCategory
    criteria: str
    compartment: str
    confirmed: bool | None
    rule_ids: tuple[str, ...]
    inputs: ResponseInputs | None
    missing: tuple[str, ...]
    reason: str
    outlines: ResponseOutlines | None

    @property
    def assessed(self) -> bool:
        """Whether there is a category."""
        return self.category != "not assessed"

    def not_assessed(self) -> NotAssessed | None:
        """That there is no category, with the reason."""
        reason = self.reason or "no category was computed"
        return None if self.assessed else NotAssessed(what="response category", reason=reason)


class ComparisonOutlines(Schema):
    """The two outlines that are compared; ``prior`` is None at the baseline."""

    current: OutlineSource
    prior: OutlineSource | None


class AlikeComparison(Schema):
    """The same two studies by another pair of outlines of one making, where both have one beside those in force."""

    maker: Literal["consensus", "person"]
    regions: Mapping[Region, RegionChange]


class ComparisonResult(Schema):
    """A measurement against that of one earlier study; without one the baseline (``prior_study_id`` None).

    :param latest_prior: whether the earlier study is the latest one before this. :param history: all dates, oldest first.
    :param outlines: None: compared before they were recorded. :param alike: other pairs of outlines, like with like.
    """

    prior_study_id: str | None
    interval_days: int | None
    latest_prior: bool
    regions: Mapping[Region, RegionChange]
    lesions: tuple[LesionChange, ...]
    registration: RegistrationQuality | None
    sequences: ComparedSequences | None
    response: Response
    history: tuple[VolumesAt, ...]
    outlines: ComparisonOutlines | None
    alike: tuple[AlikeComparison, ...] = ()


_CHANGE = {
    "current_mm3": None,
    "prior_mm3": None,
    "change_mm3": None,
    "change_percent": None,
    "small": None,
    "reason": "",
}


def comparison_of_v1(data: Mapping[str, Any]) -> OldData:
    """A plain dictionary: no outlines, an empty one for the inputs of a response that was not assessed."""
    registration, sequences = data.get("registration"), data.get("sequences")
    response: Mapping[str, Any] = data.get("response") or {}
    return {
        **with_defaults(data, prior_study_id=None, interval_days=None, latest_prior=False, history=[], outlines=None),
        "regions": {region: {**_CHANGE, **values} for region, values in (data.get("regions") or {}).items()},
        "lesions": [
            with_defaults(one, region="TC", current_mm3=None, prior_mm3=None) for one in data.get("lesions") or ()
        ],
        "registration": with_defaults(registration, quality={}, reason="") if registration else None,
        "sequences": with_defaults(sequences, prior=None, note="") if sequences else None,
        "response": {
            **with_defaults(
                response,
                category="not assessed",
                criteria="RANO 2.0 imaging-only, volumetric",
                compartment="enhancing tumour",
                confirmed=None,
                rule_ids=[],
                missing=[],
                reason="",
                outlines=None,
            ),
            "inputs": response.get("inputs") or None,
        },
    }


COMPARISON: Document[ComparisonResult] = Document(
    "comparison.result", ComparisonResult, version=2, upgrades={1: comparison_of_v1}
)
