"""What a narrator is, and the check that no number reaches the reader without a source.

A narrator turns facts and passages into sentences; each carries its sources (`reports.content.schema.NarrativeSentence`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oncoflow_site.foundation.clock import DatedMoment, Precision
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.schema import plain
from reports.content.paths import resolve
from reports.content.schema import DocumentCitation, FindingCitation, NarrativeSentence, ReportFacts

__all__ = ["Narrator", "SourceText", "UnsupportedNumber", "check_sentence", "check_sentences", "has_number"]

QUOTATION_MARKS = ("“", "”")
# Digits that are part of a name and no quantity: sequences, the criteria's version, the lesions' own names.
_NAMES = re.compile(r"\b(?:T1c?|T2|RANO 2\.0|L\d+|\dD)\b")
_NUMBER = re.compile(r"\d")


class UnsupportedNumber(PermanentError):
    """A sentence holds a number that is neither in the findings nor in a cited source."""


@dataclass(frozen=True)
class SourceText:
    """One document's stored text and the passages that retrieval found in it.

    :param passages: (start, end, score) in byte offsets; spans that may be cited.
    :param may_be_later: its date does not tell that it was written before the study.
    """

    document_id: str
    text: bytes
    text_sha256: str
    type_text: str
    authored_on: datetime | None
    passages: tuple[tuple[int, int, float], ...]
    authored_precision: Precision = Precision.TIME
    may_be_later: bool = False

    @property
    def authored(self) -> DatedMoment | None:
        """When the document was written, as exactly as its sender said."""
        return DatedMoment(self.authored_on, self.authored_precision) if self.authored_on else None


def has_number(text: str) -> bool:
    """Whether a text holds a digit that is not part of a name (T1, T2, L3)."""
    return bool(_NUMBER.search(_NAMES.sub(" ", text)))


class Narrator(Protocol):
    """Anything that writes the narrative. Whatever it writes must pass `check_sentences`."""

    name: str

    def narrate(self, facts: ReportFacts, sources: Sequence[SourceText]) -> list[NarrativeSentence]:
        """Sentences about ``facts`` (the report's content as it stands) and ``sources`` (this patient's documents)."""
        ...


def check_sentences(sentences: Sequence[NarrativeSentence], facts: ReportFacts, sources: Sequence[SourceText]) -> None:
    """Check every sentence; raises as `check_sentence` does."""
    texts = {source.document_id: source for source in sources}
    for sentence in sentences:
        check_sentence(sentence, facts, texts)


def check_sentence(sentence: NarrativeSentence, facts: ReportFacts, texts: Mapping[str, SourceText]) -> None:
    """Refuse a sentence without a source, with a number of its own, or with a quotation that is not one.

    :param texts: the documents that may be cited, by id.
    :raises UnsupportedNumber: a digit remains when quotations and the figures cited are taken away.
    :raises PermanentError: no citation; a citation that does not equal the stored bytes; a quotation nobody wrote; a
        finding that is not in the facts, or is not what is shown.
    """
    if not sentence.citations:
        raise PermanentError("a sentence of the narrative cites no source")
    rest = sentence.text
    quoted = []
    for citation in sentence.citations:
        if isinstance(citation, DocumentCitation):
            quoted.append(_checked_quotation(citation, texts))
            if citation.authored_text:
                rest = rest.replace(citation.authored_text, " ")
        elif isinstance(citation, FindingCitation):
            if plain(resolve(facts, citation.path)) != citation.value:
                raise PermanentError(f"the finding {citation.path} is not what the narrative cites")
            # Only the whole figure is taken away: "1" must not eat the first digit of "12".
            rest = re.sub(rf"(?<![\d.,]){re.escape(citation.shown)}(?![\d])", " ", rest, count=1)
    opened, closed = QUOTATION_MARKS
    for part in re.findall(f"{opened}(.*?){closed}", sentence.text, flags=re.DOTALL):
        if part not in quoted:
            raise PermanentError("the narrative quotes words that no citation holds")
        rest = rest.replace(f"{opened}{part}{closed}", " ")
    if has_number(rest):
        raise UnsupportedNumber("a number in the narrative is neither in the findings nor in a cited source")


def _checked_quotation(citation: DocumentCitation, texts: Mapping[str, SourceText]) -> str:
    source = texts.get(citation.document_id)
    if source is None:
        raise PermanentError("the narrative cites a document that was not retrieved for this patient")
    start, end = citation.start, citation.end
    stored = source.text[start:end]
    if not 0 <= start < end <= len(source.text) or stored != citation.text.encode("utf-8"):
        raise PermanentError("a citation does not equal the stored text of its document")
    if citation.text_sha256 != source.text_sha256:
        raise PermanentError("a citation names another text than the one stored")
    if not any(first <= start and end <= last for first, last, _ in source.passages):
        raise PermanentError("a citation lies outside the passages that may be cited")
    return citation.text
