"""The content of a draft, from its facts, the narrator's checked sentences and what was not assessed."""

from __future__ import annotations

from collections.abc import Sequence

from reports.content.not_assessed import not_assessed
from reports.content.schema import DISCLAIMER, ReportContent, ReportFacts, Signature
from reports.narrative.findings_text import impression
from reports.narrative.sentences import Narrator, SourceText, check_sentences

__all__ = ["build_content"]


def build_content(facts: ReportFacts, sources: Sequence[SourceText], narrator: Narrator) -> ReportContent:
    """Content of a draft; ``report_id``, ``version`` and ``status`` are filled in when its number is known.

    :param sources: this patient's documents with the passages that retrieval found.
    :raises PermanentError: the narrator wrote a sentence that its sources do not bear out.
    """
    sentences = narrator.narrate(facts, sources)
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
        not_assessed=not_assessed(facts),
        disclaimer=DISCLAIMER,
        signature=Signature(),
        held_reasons=(),
    )
