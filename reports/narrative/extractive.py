"""The extractive narrator: context in the documents' own words, findings in sentences built from the figures.

It chooses whole sentences from what retrieval found, quotes them byte for byte, and adds nothing but where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.content.schema import NarrativeSentence, ReportFacts, SearchCitation
from reports.narrative.contradictions import contradiction_sentences
from reports.narrative.findings_text import finding_sentences, limitation_sentences
from reports.narrative.quotes import choose_quotes, named_in_documents, quotable_sentences
from reports.narrative.sentences import SourceText

__all__ = ["ExtractiveNarrator"]


"""What the documents are asked for."""


class ExtractiveNarrator:
    """See the module. Needs no model and invents nothing."""

    name = "extractive"

    def narrate(self, facts: ReportFacts, sources: Sequence[SourceText]) -> list[NarrativeSentence]:
        """Findings, then context by topic, then contradictions between the two, then limitations."""
        quotes = choose_quotes(sources)
        sentences = finding_sentences(facts)
        sentences += [
            NarrativeSentence(
                text=f"{quote.origin()} states: “{quote.text}”", kind="context", citations=(quote.citation(),)
            )
            for quote in quotes
        ]
        sentences += contradiction_sentences(
            facts, [quote for source in sources for quote in quotable_sentences(source)]
        )
        if not quotes:
            sentences.append(
                NarrativeSentence(
                    text="No clinical context was found in the patient's documents.",
                    kind="limitation",
                    citations=(SearchCitation(documents=len(sources)),),
                )
            )
        return sentences + limitation_sentences(facts, named_in_documents(sources))
