"""What the gate decided about a consensus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imaging.brats.regions import Region
from imaging.schemas.outline import GateBand
from oncoflow_site.foundation.schema import Document, OldData, Schema, with_defaults

__all__ = ["GATE", "REASONS", "THRESHOLDS", "GateDecision", "gate_of_v1"]


class GateDecision(Schema):
    """band; a: agreement of the voters (None when no voter answered); region: the one that decided it; reasons in reading order."""

    band: GateBand
    a: float | None
    region: Region | None
    reasons: tuple[str, ...]

    def rounded(self) -> GateDecision:
        """As it is kept: ``a`` with four decimals."""
        return self if self.a is None else self.model_copy(update={"a": round(float(self.a), 4)})


def gate_of_v1(data: Mapping[str, Any]) -> OldData | None:
    """A plain dictionary, empty while a panel was at work."""
    return with_defaults(data, a=None, region=None, reasons=[]) if data else None


GATE: Document[GateDecision | None] = Document("panel.gate", GateDecision | None, version=2, upgrades={1: gate_of_v1})
THRESHOLDS: Document[Mapping[str, float]] = Document("panel.thresholds", Mapping[str, float], version=1)
REASONS: Document[tuple[str, ...]] = Document("panel.reasons", tuple[str, ...], version=1)
