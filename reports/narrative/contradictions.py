"""Where a document says one thing and the images another: both are put side by side, neither is called wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from imaging.longitudinal.rano import SMALL_MM3
from oncoflow_site.foundation.figures import millilitres
from oncoflow_site.foundation.schema import plain
from reports.content.paths import resolve
from reports.content.schema import FindingCitation, NarrativeSentence, ReportFacts

if TYPE_CHECKING:
    from reports.narrative.quotes import Quote

__all__ = ["contradiction_sentences"]

_CLAIMS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "none": r"\bno (?:evidence of |sign of |residual |recurrent |new |abnormal |pathological |remaining )*"
        r"(?:contrast[- ]?)?(?:enhanc|tumou?r|disease|lesion|recurren)|\b(?:complete (?:response|remission)|tumou?r[- ]free)",
        "stable": r"\b(?:stable (?:disease|findings|tumou?r|size)|(?:disease|tumou?r|lesions?) (?:is |are |remains? )*(?:stable|"
        r"unchanged)|no (?:evidence of |sign of )*(?:progress|growth))",
        "progression": r"(?<!no )(?<!no evidence of )(?<!no sign of )\b(?:progressive disease|(?:tumou?r|disease|radiological|"
        r"clear) (?:progress|growth)|increas\w+ (?:in size|tumou?r|enhanc))",
        "response": r"\b(?:partial response|(?:tumou?r|lesion|enhanc\w+)[^.]{0,30}(?:decreas|shrunk|smaller|regress|reduc))",
    }.items()
}
# A statement about size can only be set against the comparison when both are about the same stretch of time.
_WINDOW = timedelta(days=45)


@dataclass(frozen=True)
class _ImagingEvidence:
    text: str
    citations: tuple[FindingCitation, ...]


def _cited(facts: ReportFacts, path: str, shown: str) -> FindingCitation:
    return FindingCitation(path=path, value=plain(resolve(facts, path)), shown=shown)


def _imaging_says(facts: ReportFacts, claim: str) -> _ImagingEvidence | None:
    """What the images say against ``claim``, or None where they do not contradict it."""
    if claim == "none":
        measured = facts.findings.regions.get("ET")
        if measured is None or not measured.volume_mm3 or measured.volume_mm3 < SMALL_MM3:
            return None
        shown = millilitres(measured.volume_mm3)
        return _ImagingEvidence(
            f"{shown} ml of enhancing tumour are outlined on this study",
            (_cited(facts, "findings.regions.ET.volume_mm3", shown),),
        )
    category = facts.comparison.response.category if facts.comparison else None
    against = {"stable": ("PD", "PR", "CR"), "progression": ("PR", "CR"), "response": ("PD",)}[claim]
    if category not in against:
        return None
    words = {
        "PD": "an increase into the category of progressive disease",
        "PR": "a decrease into the category of partial response",
        "CR": "that no enhancing tumour is outlined any more",
    }[category]
    return _ImagingEvidence(f"the volumes show {words}", (_cited(facts, "comparison.response.category", words),))


def _same_time(facts: ReportFacts, authored_on: datetime | None) -> bool:
    return authored_on is not None and abs(facts.study.performed_at - authored_on) <= _WINDOW


def contradiction_sentences(facts: ReportFacts, quotes: Iterable[Quote] | Sequence[Quote]) -> list[NarrativeSentence]:
    """A sentence for each kind of statement that the images do not bear out, quoting the newest document that makes it."""
    found: dict[str, NarrativeSentence] = {}
    newest_first = sorted(
        (quote for quote in quotes if not quote.source.may_be_later and _same_time(facts, quote.source.authored_on)),
        key=lambda quote: (-quote.source.authored_on.timestamp() if quote.source.authored_on else 0.0, quote.start),
    )
    for quote in newest_first:
        for claim, pattern in _CLAIMS.items():
            if claim in found or not pattern.search(quote.text):
                continue
            fact = _imaging_says(facts, claim)
            if fact is None:
                continue
            text = (
                f"{quote.origin()} states: “{quote.text}” On imaging, {fact.text}; the two differ and have not been "
                "reconciled."
            )
            found[claim] = NarrativeSentence(text=text, kind="context", citations=(quote.citation(), *fact.citations))
    return list(found.values())
