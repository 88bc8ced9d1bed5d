"""Sentences, citations, and the refusal of numbers without a source."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.figures import dice_text, millilitres, percent, round_half_up
from oncoflow_site.foundation.schema import plain
from reports.content.schema import (
    DocumentCitation,
    FindingCitation,
    NarrativeSentence,
    canonical_json,
    draft_key,
    parse_content,
    with_status,
)
from reports.lifecycle.assemble import build_content
from reports.narrative.extractive import ExtractiveNarrator
from reports.narrative.findings_text import impression
from reports.narrative.quotes import split_sentences
from reports.narrative.sentences import UnsupportedNumber, check_sentence, check_sentences
from tests.factories.report_content import facts, read, rows, source

NARRATOR = ExtractiveNarrator()


def texts(sentences: list[NarrativeSentence]) -> str:
    return "\n".join(sentence.text for sentence in sentences)


def test_every_sentence_has_a_source_and_passes_the_check() -> None:
    given_facts, sources = facts(), [source()]
    sentences = NARRATOR.narrate(given_facts, sources)
    check_sentences(sentences, given_facts, sources)
    assert all(sentence.citations for sentence in sentences)
    assert {sentence.kind for sentence in sentences} == {"finding", "context", "limitation"}


def test_figures_are_those_of_the_findings() -> None:
    text = texts(NARRATOR.narrate(facts(), []))
    assert "enhancing tumour (ET) volume of 12.3 ml" in text
    assert "increased by 43 % (from 8.63 ml to 12.3 ml)" in text
    assert "decreased by 4.2 %" in text
    assert "Lesion L2, seen on the earlier study, is no longer outlined" in text
    assert "No clinical context was found" in text


def test_citations_equal_the_stored_bytes() -> None:
    document = source()
    for sentence in NARRATOR.narrate(facts(), [document]):
        for citation in sentence.citations:
            if isinstance(citation, DocumentCitation):
                assert document.text[citation.start : citation.end].decode() == citation.text
                assert f"“{citation.text}”" in sentence.text


def test_what_lies_outside_the_passages_is_not_cited() -> None:
    document = source()
    start = document.text.index(b"Dexamethasone")
    end = start + len(b"Dexamethasone was reduced to 2 mg daily.")
    narrow = replace(document, passages=((start, end, 1.0),))
    cited = [c for s in NARRATOR.narrate(facts(), [narrow]) for c in s.citations if c.kind == "document"]
    assert [(c.start, c.end) for c in cited] == [(start, end)]


def test_contradiction_is_stated_neutrally_with_both_sources() -> None:
    found = [s for s in NARRATOR.narrate(facts(), [source()]) if "two differ" in s.text]
    assert len(found) == 1
    assert "showed stable disease" in found[0].text
    assert {citation.kind for citation in found[0].citations} == {"document", "finding"}
    assert "have not been reconciled" in found[0].text


@pytest.mark.parametrize(
    ("text", "category", "contradicts"),
    [
        ("MRI shows no enhancing tumour.", "PD", True),
        ("There is no residual enhancement after surgery.", "PD", True),
        ("Clear progression: tumour growth.", "PR", True),
        ("Clear progression: tumour growth.", "PD", False),
        ("Stable disease.", "SD", False),
        ("No evidence of progression.", "PD", True),
        ("The tumour decreased in size.", "PD", True),
        ("He has no new symptoms.", "PD", False),
    ],
)
def test_contradictions(text: str, category: str, contradicts: bool) -> None:
    made = rows()
    made["comparison"]["response"]["category"] = category
    sentences = NARRATOR.narrate(read(made), [source(f"{text} Seen in clinic.", datetime(2026, 8, 10, tzinfo=UTC))])
    assert any("two differ" in sentence.text for sentence in sentences) is contradicts


def test_an_old_document_contradicts_nothing() -> None:
    old = source("Stable disease of the tumour.", datetime(2025, 1, 10, tzinfo=UTC))
    undated = source("Stable disease of the tumour.", None)
    for one in (old, undated):
        assert "two differ" not in texts(NARRATOR.narrate(facts(), [one]))


def cite(path: str, value: Any, shown: str) -> FindingCitation:
    return FindingCitation(path=path, value=value, shown=shown)


def sentence_of(text: str, kind: Any, citations: tuple[Any, ...]) -> NarrativeSentence:
    return NarrativeSentence(text=text, kind=kind, citations=citations)


ET = "findings.regions.ET.volume_mm3"


@pytest.mark.parametrize(
    ("text", "citations"),
    [
        ("The tumour measures 13 ml.", (cite(ET, 12345.6, "12.3"),)),
        ("The tumour measures 12.3 ml and 4 cm.", (cite(ET, 12345.6, "12.3"),)),
        ("The tumour measures 112.3 ml.", (cite(ET, 12345.6, "12.3"),)),
        ("Seen on 3 May.", (cite("demo", True, "demo"),)),
    ],
)
def test_a_number_without_source_is_refused(text: str, citations: tuple) -> None:
    with pytest.raises(UnsupportedNumber):
        check_sentence(sentence_of(text, "finding", citations), facts(), {})


def test_a_sentence_without_source_is_refused() -> None:
    with pytest.raises(PermanentError, match="cites no source"):
        check_sentence(sentence_of("All is well.", "finding", ()), facts(), {})


def test_a_finding_that_is_not_there_is_refused() -> None:
    with pytest.raises(PermanentError, match="not what the narrative cites"):
        check_sentence(sentence_of("It measures 9.9 ml.", "finding", (cite(ET, 9900.0, "9.9"),)), facts(), {})


@pytest.mark.parametrize(
    "change", [{"start": 15}, {"end": 95}, {"text": "Diagnosis: Glioma."}, {"document_id": "other"}]
)
def test_a_false_quotation_is_refused(change: dict) -> None:
    document = source()
    sentence = next(s for s in NARRATOR.narrate(facts(), [document]) if s.kind == "context")
    bad = sentence_of(sentence.text, "context", (sentence.citations[0].model_copy(update=change),))
    with pytest.raises(PermanentError):
        check_sentence(bad, facts(), {document.document_id: document})


def test_words_in_quotation_marks_must_be_cited() -> None:
    document = source()
    sentence = next(s for s in NARRATOR.narrate(facts(), [document]) if s.kind == "context")
    bad = sentence_of(sentence.text + " Also “no tumour”.", "context", sentence.citations)
    with pytest.raises(PermanentError, match="quotes words"):
        check_sentence(bad, facts(), {document.document_id: document})


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_sentences_are_slices_of_the_bytes(text: str) -> None:
    data = text.encode("utf-8", "ignore")
    last = 0
    for start, end, sentence in split_sentences(data):
        assert data[start:end].decode() == sentence
        assert start >= last
        last = end


def test_not_assessed_is_said_and_never_a_number() -> None:
    made = rows()
    for region in ("ET", "TC", "WT"):
        made["findings"]["regions"][region].update(volume_mm3=None, longest_axial_diameter_mm=None, uncertainty_mm3={})
        made["findings"]["regions"][region]["reason"] = "the voxel size is not known"
    made["findings"]["lesions"], made["comparison"] = [], None
    made["study"]["spacing_known"] = False
    content = build_content(read(made), [], NARRATOR)
    text = json.dumps(plain(content.narrative))
    assert "not assessed" in text
    assert "-1" not in text
    assert {"ET volume", "TC volume", "WT volume"} <= {item.what for item in content.not_assessed}
    assert "Volumes were not assessed" in content.impression


def test_baseline_and_gone() -> None:
    baseline = facts(
        comparison={"prior_study_id": None, "regions": {}, "lesions": [], "response": {"category": "not assessed"}}
    )
    assert "No earlier study is known to this service" in impression(baseline)
    build_content(baseline, [], NARRATOR)
    gone = rows()
    for part, key in (
        (gone["findings"]["regions"]["ET"], "volume_mm3"),
        (gone["comparison"]["regions"]["ET"], "current_mm3"),
    ):
        part[key] = 0.0
    gone["comparison"]["regions"]["ET"]["change_percent"] = -100.0
    text = texts(NARRATOR.narrate(read(gone), []))
    assert "the enhancing tumour (8.63 ml then) is no longer outlined" in text
    assert "No enhancing tumour (ET) was outlined" in text


def test_canonical_json_round_trip_and_key() -> None:
    content = build_content(facts(), [source()], NARRATOR)
    data = canonical_json(content)
    assert parse_content(data) == content
    assert canonical_json(parse_content(data)) == data
    key = draft_key(facts(), [("a", "1"), ("b", "2")], "extractive")
    assert key == draft_key(facts(), [("b", "2"), ("a", "1")], "extractive")
    assert key != draft_key(facts(), [("a", "1")], "extractive")
    with pytest.raises(TypeError):
        with_status(content, stauts="final")  # type: ignore[call-arg]
    with pytest.raises(PermanentError):
        parse_content(b'{"schema": 99}')


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (millilitres(12345.6), "12.3"),
        (millilitres(9994.9), "9.99"),
        (millilitres(9996.0), "10.0"),
        (millilitres(60.0), "0.06"),
        (percent(-42.5), "43"),
        (percent(4.24), "4.2"),
        (dice_text(0.8999), "0.89"),
        (dice_text(0.9), "0.90"),
        (round_half_up(-0.004, 2), "0.00"),
        (round_half_up(2.675, 2), "2.68"),
    ],
)
def test_rounding(shown: str, expected: str) -> None:
    assert shown == expected
