"""The content of a draft, from its facts, the narrator's checked sentences and what was not assessed."""

from __future__ import annotations

from collections.abc import Sequence

from reports.content.not_assessed import not_assessed
from reports.content.provenance import disclaimer
from reports.content.schema import ReportContent, ReportFacts, Signature
from reports.narrative.context_window import without_later
from reports.narrative.findings_text import impression
from reports.narrative.quotes import named_in_documents
from reports.narrative.sentences import Narrator, SourceText, check_sentences

__all__ = ["build_content"]


def build_content(facts: ReportFacts, sources: Sequence[SourceText], narrator: Narrator) -> ReportContent:
    """Content of a draft; ``report_id``, ``version`` and ``status`` are filled in when its number is known.

    :param sources: this patient's documents with the passages that retrieval found.
    :raises PermanentError: the narrator wrote a sentence that its sources do not bear out.
    """
    # Whoever gathered them, and whatever narrator writes.
    sources = without_later(sources, facts.study.performed_at)
    sentences = narrator.narrate(facts, sources)
    named = {
        what: quote.origin()[0].lower() + quote.origin()[1:] for what, quote in named_in_documents(sources).items()
    }
    check_sentences(sentences, facts, sources)
    return ReportContent(
        **{name: getattr(facts, name) for name in ReportFacts.model_fields},
        report_id="",
        version=0,
        status="draft",
        language="en",
        narrative=tuple(sentences),
        narrator=narrator.name,
        impression=impression(facts),
        not_assessed=not_assessed(facts, named),
        disclaimer=disclaimer(facts.findings),
        signature=Signature(),
        held_reasons=(),
    )
