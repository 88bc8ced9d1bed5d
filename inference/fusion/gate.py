"""The gate: what may happen with a panel's consensus.

Three bands, from the most to the least trusted: "issue" (a preliminary report may go out), "hold" (a radiologist looks
first), "manual" (a person has to segment)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imaging.brats.regions import REGIONS, Region
from imaging.schemas.outline import GateBand
from inference.fusion.agreement import Agreement
from inference.schemas.gate import GateDecision
from oncoflow_site.foundation.figures import dice_text, sentence

__all__ = ["BANDS", "DEFAULT_THRESHOLDS", "GateDecision", "decide"]


BANDS: tuple[GateBand, GateBand, GateBand] = ("issue", "hold", "manual")
DEFAULT_THRESHOLDS: Mapping[str, float] = {"issue": 0.90, "hold": 0.75, "adviser_floor": 0.50}
EMPTY_MM3 = 50.0
"""A region counts as empty when neither the consensus nor any voter has more than this: a few stray voxels are no

statement about the patient, and Dice of stray voxels is 0 or 1 by chance. Anything larger that only one voter sees counts.
"""


def decide(
    agreement: Agreement,
    voters: Sequence[str],
    advisers: Sequence[str],
    thresholds: Mapping[str, float] | None = None,
    flags: Sequence[str] = (),
) -> GateDecision:
    """The band of a panel.

    a is the mean over the voters of Dice against the consensus, in the worst region that is not empty. a >= issue:
    "issue"; a >= hold: "hold"; below: "manual". An adviser below adviser_floor in that sense lowers the band by one, once
    however many there are. Where no voter found anything there is no agreement to give (``a`` is None), nor in a region
    that the consensus leaves empty. Fewer than two voters never reach "issue", nor does a panel with `flags` (an expert
    failed, a sequence is missing, the images look unlike the training's) or one that found no tumour; an adviser lowers
    what is left. Without a voter the advisers' outlines are shown and a person has to segment, as without any answer.
    Names in `voters` and `advisers` without a place in `agreement` did not answer and count for nothing.

    The reasons are whole sentences, what decided the band first.
    """
    limits = {**DEFAULT_THRESHOLDS, **(thresholds or {})}
    answered_voters = [v for v in voters if v in agreement.vs_consensus]
    answered_advisers = [v for v in advisers if v in agreement.vs_consensus]
    reasons: list[str] = []
    if not answered_voters and not answered_advisers:
        return GateDecision(band="manual", a=None, region=None, reasons=_sentences("no expert gave an answer", *flags))
    assessed = [r for r in REGIONS if r in agreement.volume_mm3["consensus"]]
    filled = [r for r in assessed if _filled(agreement, r, answered_voters or answered_advisers)]
    a: float | None = None
    region: Region | None = None
    if not answered_voters and not filled:
        band: GateBand = "manual"
        reasons.append(
            "no expert has a vote on these sequences, and no adviser found a tumour: a person's outline is needed"
        )
    elif not answered_voters:
        band = "manual"
        reasons.append(
            "no expert has a vote on these sequences: the advisers' outlines are shown, a person's is asked for"
        )
    else:
        # The consensus holds only regions that every voter answered for.
        scores = {r: float(np.mean([agreement.vs_consensus[v][r].dice for v in answered_voters])) for r in filled}
        if scores:
            lowest = min(scores, key=lambda r: scores[r])
            region, worst = lowest, scores[lowest]
            band = "issue" if worst >= limits["issue"] else "hold" if worst >= limits["hold"] else "manual"
            if agreement.volume_mm3["consensus"][lowest] > EMPTY_MM3:
                a = worst
                reasons.append(f"agreement is {dice_text(a)}, lowest in {region}")
            else:  # a Dice coefficient against nothing says how many voters are empty too, no more
                seeing = [v for v in answered_voters if agreement.volume_mm3[v].get(lowest, 0.0) > EMPTY_MM3]
                reasons.append(
                    f"{len(seeing)} of {len(answered_voters)} voting models outline {lowest} where their consensus has none"
                )
        else:
            band = "hold"
    by_agreement = band
    capped: list[str] = list(flags)
    if answered_voters and len(answered_voters) < 2:
        capped.append("fewer than two experts with a vote answered")
    if answered_voters and not filled:
        capped.append("no voting model found a tumour: there is no agreement to measure")
    if capped and band == "issue":
        band = "hold"
    lowered: list[str] = []
    if answered_voters:
        for name in answered_advisers:
            seen = agreement.vs_consensus[name]
            low = [r for r in filled if r in seen and seen[r].dice < limits["adviser_floor"]]
            if low:
                lowered.append(f"adviser {name} is below {limits['adviser_floor']:.2f} in {', '.join(low)}")
        if lowered:
            band = BANDS[min(BANDS.index(band) + 1, len(BANDS) - 1)]
    # What decided stands first: an adviser or a flag where either lowered what agreement would have allowed.
    if lowered:
        ordered = [*lowered, *capped, *reasons] if by_agreement == "issue" else [*lowered, *reasons, *capped]
    elif by_agreement == "issue" and capped:
        ordered = [*capped, *reasons]
    else:
        ordered = [*reasons, *capped]
    return GateDecision(band=band, a=a, region=region, reasons=_sentences(*ordered))


def _sentences(*reasons: str) -> tuple[str, ...]:
    return tuple(sentence(reason) for reason in reasons)


def _filled(agreement: Agreement, region: str, names: Sequence[str]) -> bool:
    """True when the consensus or one of `names` has more than EMPTY_MM3 of the region."""
    return any(agreement.volume_mm3.get(n, {}).get(region, 0.0) > EMPTY_MM3 for n in ("consensus", *names))
