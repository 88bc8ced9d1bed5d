"""What a panel keeps of a fusion: the experts' stored answers, the agreement, the regions left out and why."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, Region, labels_inner_wins
from imaging.models import Segmentation, SegmentationKind
from imaging.schemas.outline import FusedExpert, FusedOutline, GateBand
from imaging.segmentation.label_maps import WrittenLabels, save_segmentation, write_labels
from imaging.segmentation.probability_maps import decode_probability, encode_probability
from imaging.volumes.load import assessable_of
from inference.fusion.agreement import Agreement, Overlap
from inference.fusion.fuse import Fused
from inference.models import ExpertRun, PanelRun
from inference.schemas.agreement import ByRegion, ExpertAgreement, PairAgreement, PanelAgreement
from inference.schemas.gate import GateDecision
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.models import StoredObject

__all__ = [
    "WrittenConsensus",
    "fused_outline",
    "keep_consensus",
    "left_out",
    "panel_agreement",
    "probabilities_of",
    "write_consensus",
]


Probabilities = dict[str, NDArray[np.float16]]


def left_out(panel: PanelRun, fused: Fused) -> dict[Region, str]:
    """Region -> why a consensus says nothing about it: the sequences do not show it, or no fused expert could tell."""
    why = assessable_of(panel.volume_set).not_assessed
    otherwise = "No expert that was fused can assess it from the sequences that are there."
    return {region: why.get(region, otherwise) for region in REGIONS if region not in fused.masks}


@dataclass(frozen=True)
class WrittenConsensus:
    """A consensus whose bytes are stored and that no row names yet."""

    labels: WrittenLabels
    disagreement: StoredObject


def write_consensus(panel: PanelRun, fused: Fused) -> WrittenConsensus:
    """Store the label map, probabilities and disagreement of a fusion, automatic or chosen. Outside of any transaction."""
    study = panel.study
    plain = io.BytesIO()
    np.save(plain, fused.disagreement)
    difference = gzip.compress(plain.getvalue(), compresslevel=1, mtime=0)
    labels = write_labels(
        study,
        panel.volume_set,
        labels_inner_wins(fused.masks),
        probability=encode_probability(fused.probability),
        not_assessed=left_out(panel, fused),
    )
    stored = objects.write(difference, subject=study.key_subject, kind="disagreement", content_type="application/gzip")
    return WrittenConsensus(labels, stored)


def keep_consensus(
    panel: PanelRun,
    written: WrittenConsensus,
    *,
    author: str,
    model: FusedOutline,
    reason: str,
    parent: Segmentation | None = None,
) -> Segmentation:
    """The consensus as the study's next outline: the one kind of row of every fusion. Inside the caller's transaction."""
    objects.keep(written.disagreement)
    return save_segmentation(
        panel.study,
        written.labels,
        kind=SegmentationKind.CONSENSUS,
        author=author,
        model=model,
        parent=parent,
        reason=reason,
    )


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


def panel_agreement(
    agreement: Agreement, decision: GateDecision, fused: Fused, *, spacing_known: bool
) -> PanelAgreement:
    """What `PanelRun.agreement` keeps; millimetres are None where the spacing is not known."""

    def kept(values: Mapping[str, float | None], *, millimetres: bool = False) -> ByRegion:
        unknown = millimetres and not spacing_known
        return {
            region: None if (value := values[region]) is None or unknown else round(float(value), 4)
            for region in REGIONS
            if region in values
        }

    def overlaps(regions: Mapping[str, Overlap], *names: str) -> tuple[ByRegion, ByRegion, ByRegion]:
        """Dice, IoU, HD95 of two outlines; None where both are empty: that both found nothing is no overlap."""
        both_empty = {r for r in regions if not any(agreement.volume_mm3[name].get(r) for name in names)}
        return (
            kept({region: None if region in both_empty else one.dice for region, one in regions.items()}),
            kept({region: None if region in both_empty else one.iou for region, one in regions.items()}),
            kept(
                {region: None if region in both_empty else one.hd95_mm for region, one in regions.items()},
                millimetres=True,
            ),
        )

    experts = {}
    for name, regions in agreement.vs_consensus.items():
        dice, iou, hd95 = overlaps(regions, name, "consensus")
        experts[name] = ExpertAgreement(
            dice_vs_consensus=dice,
            iou_vs_consensus=iou,
            hd95_mm=hd95,
            volume_mm3=kept(agreement.volume_mm3[name], millimetres=True),
        )
    pairs = []
    for pair, regions in agreement.pairwise.items():
        dice, _, hd95 = overlaps(regions, *pair)
        pairs.append(PairAgreement(experts=pair, dice=dice, hd95_mm=hd95))
    return PanelAgreement(
        a=decision.rounded().a,
        region=decision.region,
        pairwise=tuple(pairs),
        experts=experts,
        volume_spread=kept(agreement.volume_spread),
        consensus_mm3=kept(agreement.volume_mm3["consensus"], millimetres=True),
        staple={region: fused.performance[region] for region in REGIONS if region in fused.performance},
    )
