"""Which tumour regions can be told from which sequences. One table, in one place; plain values, no Django.

Enhancing tumour and tumour core are told by contrast-enhanced T1; the whole tumour, with its oedema, by FLAIR or T2. T1 before
contrast alone shows none of them well enough to outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imaging.brats.regions import REGIONS, Region
from imaging.brats.sequences import SEQUENCE_NAMES

__all__ = ["Assessable", "assessable", "in_words", "left_unassessed", "listed"]


# (sequences of which one must be there, regions it shows, what is said where none is there).
_TABLE: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("T1c",), ("ET", "TC"), "without a contrast-enhanced T1 series enhancing tumour and tumour core cannot be told"),
    (("FLAIR", "T2"), ("WT",), "without a FLAIR or T2 series the extent of the whole tumour cannot be told"),
)


@dataclass(frozen=True)
class Assessable:
    """What a set of sequences allows.

    :param sequences: those that are there, in their usual order. :param missing: the others.
    :param regions: those that can be assessed, innermost first.
    :param not_assessed: region -> a sentence that says why not.
    """

    sequences: tuple[str, ...]
    missing: tuple[str, ...]
    regions: tuple[Region, ...]
    not_assessed: dict[Region, str]

    @property
    def reduced(self) -> bool:
        """Whether a sequence is missing."""
        return bool(self.missing)

    @property
    def reason(self) -> str:
        """Sentences for people: what is missing and what follows from it. Empty where nothing is missing."""
        return self.told(self.not_assessed)

    @property
    def short(self) -> str:
        """The same in one clause, as a reason of the gate."""
        return f"no {in_words(self.missing, 'and no')} series: a reduced result is always held" if self.missing else ""

    def told(self, not_assessed: Iterable[str]) -> str:
        """As `reason`, for an outline that says nothing about these regions: a person may have assessed more."""
        if not self.missing:
            return ""
        left_out = tuple(not_assessed)
        said = [f"This study has no {in_words(self.missing, 'and no')} series."]
        if not self.regions:
            what = in_words(self.sequences) or "what there is"
            return f"{said[0]} No region of a tumour can be told from {what} alone, so it was not segmented."
        said.append(f"It is assessed from {in_words(self.sequences)} alone and always held for review.")
        if left_out:
            said.append(f"Not assessed: {listed(left_out)}.")
        return " ".join(said)


def assessable(present: Iterable[str]) -> Assessable:
    """What can be assessed from the sequences ``present`` (names of `SEQUENCE_NAMES`; others do not count)."""
    there = set(present)
    regions: set[str] = set()
    reasons: dict[str, str] = {}
    for any_of, shown, otherwise in _TABLE:
        if there & set(any_of):
            regions.update(shown)
        else:
            reasons |= dict.fromkeys(shown, f"{otherwise[0].upper()}{otherwise[1:]}.")
    return Assessable(
        tuple(name for name in SEQUENCE_NAMES if name in there),
        tuple(name for name in SEQUENCE_NAMES if name not in there),
        tuple(region for region in REGIONS if region in regions),
        {region: reasons[region] for region in REGIONS if region in reasons},
    )


def left_unassessed(
    possible: Assessable, drawn: Iterable[int], said: Iterable[str] = (), before: Mapping[Region, str] | None = None
) -> dict[Region, str]:
    """Region -> why it is not assessed, of a person's outline.

    What the sequences do not show is assessed all the same where a person outlined it, or said that they looked: a person
    has eyes, and other images. What they left out stays not assessed.

    :param drawn: labels in the outline (1 NCR, 2 ED, 3 ET). :param said: regions that the person says they assessed.
    :param before: what the outline that was corrected had left unassessed: nothing else is.
    """
    labels = set(drawn)
    assessed = set(said)
    assessed |= {"WT"} if 2 in labels else set()
    assessed |= {"TC"} if labels & {1, 3} else set()
    assessed |= {"ET"} if 3 in labels else set()
    candidates = possible.not_assessed if before is None else before
    return {region: why for region, why in candidates.items() if region not in assessed}


def in_words(sequences: Sequence[str], last: str = "and") -> str:
    """``contrast-enhanced T1 and FLAIR``."""
    return listed([SEQUENCE_NAMES[name] for name in sequences], last)


def listed(words: Sequence[str], last: str = "and") -> str:
    """``a, b and c``; with ``and no`` also ``a, no b and no c``."""
    if len(words) < 2:
        return "".join(words)
    between = last.removeprefix("and").strip()
    return f"{f', {between} '.replace('  ', ' ').join(words[:-1])} {last} {words[-1]}"
