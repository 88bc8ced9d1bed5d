"""A panel and its experts in summary: what reports, pages and the REST interface tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from imaging.brats.regions import Region
from inference.schemas.agreement import ByRegion, PairAgreement
from oncoflow_site.foundation.schema import Document, OldData, Schema, with_defaults

__all__ = [
    "ENVIRONMENT",
    "NAMES",
    "REMARKS",
    "AgreementSummary",
    "ExpertRemark",
    "ExpertSummary",
    "GateSummary",
    "PanelSummary",
    "panel_of_v1",
]


class ExpertRemark(Schema):
    """What an expert said in words, verified by nobody. ``confidence``: 0 to 1, its own, not calibrated."""

    text: str
    confidence: float
    slice_z: int


class ExpertSummary(Schema):
    """One expert of a panel. ``sequences``: what it was given, where some are missing; None: not computed or not known."""

    name: str
    version: str | None
    sha256: str | None
    architecture: str | None
    role: str
    state: str
    sequences: tuple[str, ...]
    runtime_s: float | None
    device: str
    environment: Mapping[str, JsonValue]
    dice_vs_consensus: ByRegion | None
    hd95_mm: ByRegion | None
    volume_mm3: ByRegion | None
    error: str
    notes: tuple[str, ...]
    findings: tuple[ExpertRemark, ...]


class AgreementSummary(Schema):
    """Mean Dice of the voters against the consensus in the region where it is lowest, and every pair of experts."""

    a: float | None
    region: Region | None
    pairwise: tuple[PairAgreement, ...]


class GateSummary(Schema):
    """The gate's band (empty: not decided) with its reasons."""

    band: str
    a: float | None
    region: Region | None
    reasons: tuple[str, ...]


class PanelSummary(Schema):
    """A panel. Volumes are None where the spacing is not known."""

    panel_run_id: str
    state: str
    experts: tuple[ExpertSummary, ...]
    fusion: str
    agreement: AgreementSummary
    gate: GateSummary
    thresholds: Mapping[str, float]
    demo: bool


_EXPERT: OldData = {
    "version": None,
    "sha256": None,
    "architecture": None,
    "role": "",
    "state": "",
    "sequences": [],
    "runtime_s": None,
    "device": "",
    "environment": {},
    "dice_vs_consensus": None,
    "hd95_mm": None,
    "volume_mm3": None,
    "error": "",
    "notes": [],
    "findings": [],
}


def panel_of_v1(data: Mapping[str, Any]) -> OldData:
    """The summary in a report's content before there were schemas; its keys grew with time."""
    agreement, gate = data.get("agreement") or {}, data.get("gate") or {}
    pairs = [with_defaults(one, dice={}, hd95_mm={}) for one in agreement.get("pairwise") or ()]
    return {
        **with_defaults(data, panel_run_id="", state="", fusion="", thresholds={}, demo=False),
        "experts": [{**_EXPERT, **one} for one in data.get("experts") or ()],
        "agreement": {**with_defaults(agreement, a=None, region=None), "pairwise": pairs},
        "gate": with_defaults(gate, band="", a=None, region=None, reasons=[]),
    }


NAMES: Document[tuple[str, ...]] = Document("names", tuple[str, ...], version=1)
ENVIRONMENT: Document[Mapping[str, JsonValue]] = Document("expert.environment", Mapping[str, JsonValue], version=1)
REMARKS: Document[tuple[ExpertRemark, ...]] = Document("expert.findings", tuple[ExpertRemark, ...], version=1)
