"""How far experts agree, as a panel keeps it: Dice and IoU (0 to 1), HD95 in mm, volumes in mm3, to four decimals.

None: not computed, or not known in millimetres. A region that one of two outlines says nothing about is absent where they are
compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imaging.brats.regions import Region
from oncoflow_site.foundation.schema import Document, OldData, Schema, with_defaults

__all__ = [
    "AGREEMENT",
    "METHODS",
    "NOTHING",
    "ByRegion",
    "ExpertAgreement",
    "FusionMethodResult",
    "PairAgreement",
    "PanelAgreement",
    "agreement_of_v1",
    "methods_of_v1",
]

ByRegion = Mapping[Region, float | None]


class ExpertAgreement(Schema):
    """One expert against the consensus, and its own volumes."""

    dice_vs_consensus: ByRegion
    iou_vs_consensus: ByRegion
    hd95_mm: ByRegion
    volume_mm3: ByRegion


NOTHING = ExpertAgreement(dice_vs_consensus={}, iou_vs_consensus={}, hd95_mm={}, volume_mm3={})
"""Of an expert that did not answer."""


class PairAgreement(Schema):
    """Two experts against each other."""

    experts: tuple[str, str]
    dice: ByRegion
    hd95_mm: ByRegion


class PanelAgreement(Schema):
    """Everything measured when a panel was fused.

    :param a: mean Dice of the voters against the consensus in ``region``, the worst; None without a voter.
    :param volume_spread: (largest - smallest) / mean over the experts. :param consensus_mm3: empty where it was not kept.
    :param staple: region -> expert -> what STAPLE estimated of it (sensitivity, specificity).
    """

    a: float | None
    region: Region | None
    pairwise: tuple[PairAgreement, ...]
    experts: Mapping[str, ExpertAgreement]
    volume_spread: ByRegion
    consensus_mm3: ByRegion
    staple: Mapping[Region, Mapping[str, Mapping[str, float]]]

    def of(self, expert: str) -> ExpertAgreement:
        """Of one expert; `NOTHING` where it did not answer."""
        return self.experts.get(expert, NOTHING)


class FusionMethodResult(Schema):
    """One way to fuse the experts of a panel, to compare; or why it cannot be done with them.

    :param dice: of every expert against this consensus. :param dice_vs_consensus: of this consensus against the panel's.
    """

    why_not: str = ""
    experts: tuple[str, ...] = ()
    volume_mm3: ByRegion = {}
    dice: Mapping[str, ByRegion] = {}
    dice_vs_consensus: ByRegion = {}


def agreement_of_v1(data: Mapping[str, Any]) -> OldData | None:
    """A plain dictionary, empty while a panel was at work; IoU and the consensus's volumes were not kept at first."""
    if not data:
        return None
    experts = {
        name: with_defaults(one, dice_vs_consensus={}, iou_vs_consensus={}, hd95_mm={}, volume_mm3={})
        for name, one in (data.get("experts") or {}).items()
    }
    pairs = [with_defaults(one, dice={}, hd95_mm={}) for one in data.get("pairwise") or ()]
    filled = with_defaults(data, a=None, region=None, volume_spread={}, consensus_mm3={}, staple={})
    return {**filled, "experts": experts, "pairwise": pairs}


def methods_of_v1(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Plain dictionaries with what each method had."""
    return data


AGREEMENT: Document[PanelAgreement | None] = Document(
    "panel.agreement", PanelAgreement | None, version=2, upgrades={1: agreement_of_v1}
)
METHODS: Document[Mapping[str, FusionMethodResult]] = Document(
    "panel.methods", Mapping[str, FusionMethodResult], version=2, upgrades={1: methods_of_v1}
)
