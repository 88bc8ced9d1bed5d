"""Whether a change between two outlines says something about the tumour, or only about who made them from what.

A change, a response category or a new lesion is said only between outlines of the same making (a panel's consensus, or a person's
hand), each passed by the gate or made or accepted by a person, from the same sequences. The same images under two dates
show why: models that disagree on one of them differ by several hundred per cent where nothing has changed.
"""

from __future__ import annotations

from imaging.brats.assessability import in_words
from imaging.schemas.outline import OutlineSource

__all__ = ["why_not_comparable"]

_BY_HAND = frozenset({"person", "import"})


def _unjudged(outline: OutlineSource, which: str) -> str:
    """Why ``outline`` cannot carry a claim; empty where the gate passed it, or a person made or accepted it."""
    if outline.maker in _BY_HAND or outline.reviewer or outline.band == "issue":
        return ""
    if outline.band is None:
        return f"The models' outline of {which} was not judged by their agreement, and no person has accepted it."
    return f"The models' outline of {which} was held for a person, and no person has accepted it."


def why_not_comparable(current: OutlineSource, prior: OutlineSource) -> str:
    """A whole sentence why the two outlines do not show a change of the tumour; empty where they do."""
    for outline, which in ((current, "this study"), (prior, "the earlier study")):
        if why := _unjudged(outline, which):
            return why
    by_hand = current.maker in _BY_HAND, prior.maker in _BY_HAND
    if by_hand[0] != by_hand[1]:
        person, machine = ("this study", "the earlier one") if by_hand[0] else ("the earlier study", "this one")
        return (
            f"A person outlined {person} and the models {machine}: the difference would be that of the hands. "
            "Outline both by hand, or compare the models' outlines of both."
        )
    if not by_hand[0] and set(current.sequences) != set(prior.sequences):
        return (
            f"The models outlined this study on {in_words(current.sequences)} and the earlier one on "
            f"{in_words(prior.sequences)}: the difference may come from that alone."
        )
    return ""
