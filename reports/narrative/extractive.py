"""The extractive narrator: context in the documents' own words, findings in sentences built from the figures.

It chooses whole sentences from what retrieval found, quotes them byte for byte, and adds nothing but where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.narrative.contradictions import contradiction_sentences
from reports.narrative.findings_text import finding_sentences, limitation_sentences
from reports.narrative.quotes import choose_quotes, quotable_sentences
from reports.narrative.sentences import Sentence, SourceText

__all__ = ["ExtractiveNarrator"]


"""What the documents are asked for."""


class ExtractiveNarrator:
    """See the module. Needs no model and invents nothing."""

    name = "extractive"

    def narrate(self, facts: Mapping[str, Any], sources: Sequence[SourceText]) -> list[Sentence]:
        """Findings, then context by topic, then contradictions between the two, then limitations."""
        quotes = choose_quotes(sources)
        sentences = finding_sentences(facts)
        sentences += [
            Sentence(f"{quote.origin()} states: “{quote.text}”", "context", (quote.citation(),)) for quote in quotes
        ]
        sentences += contradiction_sentences(
            facts, [quote for source in sources for quote in quotable_sentences(source)]
        )
        if not quotes:
            searched = {"kind": "search", "documents": len(sources)}
            sentences.append(
                Sentence("No clinical context was found in the patient's documents.", "limitation", (searched,))
            )
        return sentences + limitation_sentences(facts)
