"""The content of a draft, from its facts, the narrator's checked sentences and what was not assessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.content.not_assessed import not_assessed
from reports.content.schema import DISCLAIMER, SCHEMA
from reports.narrative.findings_text import impression
from reports.narrative.sentences import Narrator, SourceText, check_sentences

__all__ = ["build_content"]


def build_content(facts: Mapping[str, Any], sources: Sequence[SourceText], narrator: Narrator) -> dict[str, Any]:
    """Content of a draft; ``report_id``, ``version`` and ``status`` are filled in when its number is known.

    :param facts: ``study``, ``findings``, ``comparison``, ``panel``, ``history``, ``demo`` as `reports.content.gather` reads them.
    :param sources: this patient's documents with the passages that retrieval found.
    :raises PermanentError: the narrator wrote a sentence that its sources do not bear out.
    """
    sentences = narrator.narrate(facts, sources)
    check_sentences(sentences, facts, sources)
    return {
        "schema": SCHEMA,
        "report_id": "",
        "version": 0,
        "status": "draft",
        "language": "en",
        **facts,
        "narrative": [sentence.to_json() for sentence in sentences],
        "narrator": narrator.name,
        "impression": impression(facts),
        "not_assessed": not_assessed(facts),
        "disclaimer": DISCLAIMER,
        "signature": {"kind": "none"},
        "held_reasons": [],
    }
