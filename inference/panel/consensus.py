"""What a panel keeps of a fusion: the experts' stored answers, the agreement as JSON, the regions left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, Region
from imaging.schemas.outline import FusedExpert, FusedOutline, GateBand
from imaging.segmentation.probability_maps import decode_probability
from imaging.volumes.load import assessable_of
from inference.fusion.agreement import Agreement
from inference.fusion.fuse import Fused
from inference.fusion.gate import GateDecision
from inference.models import ExpertRun, PanelRun
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError

__all__ = ["agreement_json", "fused_outline", "left_out", "probabilities_of"]


Probabilities = dict[str, NDArray[np.float16]]


def left_out(panel: PanelRun, fused: Fused) -> dict[Region, str]:
    """Region -> why a consensus says nothing about it: the sequences do not show it, or no fused expert could tell."""
    why = assessable_of(panel.volume_set).not_assessed
    otherwise = "No expert that was fused can assess it from the sequences that are there."
    return {region: why.get(region, otherwise) for region in REGIONS if region not in fused.masks}


def fused_outline(fused: Fused, runs: Iterable[ExpertRun], band: GateBand, *, chosen_by: str = "") -> FusedOutline:
    """Whose outlines a consensus was made of, and what the gate said of it."""
    experts = [
        FusedExpert(
            name=run.expert, role=run.role, segmentation=str(run.segmentation_id) if run.segmentation_id else None
        )
        for run in runs
    ]
    return FusedOutline(fusion=fused.method, experts=tuple(experts), chosen_by=chosen_by, band=band)


def probabilities_of(run: ExpertRun) -> Probabilities:
    """What an expert that is done answered: region -> (z, y, x) float16, of the regions that it assessed."""
    if run.segmentation is None or run.segmentation.probability is None:
        raise PermanentError(f"expert run {run.pk} is done but has no stored probabilities")
    return decode_probability(objects.get(run.segmentation.probability))


def agreement_json(
    agreement: Agreement, decision: GateDecision, fused: Fused, *, spacing_known: bool
) -> dict[str, Any]:
    """What `PanelRun.agreement` keeps; millimetres are None where the spacing is not known."""

    def number(value: float | None, *, millimetres: bool = False) -> float | None:
        return None if value is None or (millimetres and not spacing_known) else round(float(value), 4)

    experts = {
        name: {
            "dice_vs_consensus": {region: number(one.dice) for region, one in regions.items()},
            "iou_vs_consensus": {region: number(one.iou) for region, one in regions.items()},
            "hd95_mm": {region: number(one.hd95_mm, millimetres=True) for region, one in regions.items()},
            "volume_mm3": {
                region: number(value, millimetres=True) for region, value in agreement.volume_mm3[name].items()
            },
        }
        for name, regions in agreement.vs_consensus.items()
    }
    pairwise = [
        {
            "experts": list(pair),
            "dice": {region: number(one.dice) for region, one in regions.items()},
            "hd95_mm": {region: number(one.hd95_mm, millimetres=True) for region, one in regions.items()},
        }
        for pair, regions in agreement.pairwise.items()
    ]
    return {
        "a": number(decision.a),
        "region": decision.region,
        "pairwise": pairwise,
        "experts": experts,
        "volume_spread": {region: number(value) for region, value in agreement.volume_spread.items()},
        "consensus_mm3": {
            region: number(value, millimetres=True) for region, value in agreement.volume_mm3["consensus"].items()
        },
        "staple": {region: dict(found) for region, found in fused.performance.items()},
    }
