"""Sentences that only look like a statement, dates that do not tell, drafts of before: variants of what a report claims."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from oncoflow_site.foundation.clock import Precision
from reports.content.provenance import vouched_impression
from reports.lifecycle.assemble import build_content
from reports.narrative.extractive import ExtractiveNarrator
from reports.narrative.quotes import named_in_documents
from reports.narrative.sentences import SourceText
from tests.factories.report_content import facts, read, rows, source

STEROIDS, STATUS, RADIOTHERAPY = "corticosteroid dose", "clinical status (KPS or NANO)", "end of radiotherapy"


@pytest.mark.parametrize(
    ("note", "what"),
    [
        ("Radiotherapy of the glioblastoma is planned at this hospital.", RADIOTHERAPY),
        ("Rt arm is weaker than on the last visit here.", RADIOTHERAPY),
        ("Irradiation through two lateral fields is planned here.", RADIOTHERAPY),
        ("Takes a non-steroidal drug for the knee daily.", STEROIDS),
        ("Nonsteroidal drugs are not tolerated by him.", STEROIDS),
        ("A letter was sent to the department of neurology.", STATUS),
        ("Sa mère prend de la prednisone tous les jours.", STEROIDS),
        ("Su padre tomaba dexametasona por un tumor cerebral.", STEROIDS),
        ("La sorella assume desametasone per un tumore.", STEROIDS),
        ("Zijn vader gebruikte dexamethason voor een hersentumor.", STEROIDS),
        ("A mãe dela toma dexametasona todos os dias.", STEROIDS),
    ],
)
def test_what_only_looks_like_a_statement_is_not_named(note: str, what: str) -> None:
    assert what not in named_in_documents([source(note)])


@pytest.mark.parametrize(
    ("note", "what"),
    [
        ("One grand mal seizure while on dexamethasone 4 mg.", STEROIDS),
        ("Große Resektionshöhle, weiter Dexamethason 4 mg am Tag.", STEROIDS),
        ("Grossly unchanged, dexamethasone 2 mg a day goes on.", STEROIDS),
        ("Her daughter reports that she takes dexamethasone 4 mg.", STEROIDS),
        ("Accompanied by her husband, she takes dexamethasone 4 mg.", STEROIDS),
        ("Sous dexaméthasone 4 mg, son état reste bon.", STEROIDS),
        ("Los síntomas son leves con dexametasona 4 mg.", STEROIDS),
        ("In terapia con desametasone 4 mg al giorno.", STEROIDS),
        ("La radiothérapie a été terminée le 3 mai.", RADIOTHERAPY),
        ("La radioterapia finalizó el 3 de mayo.", RADIOTHERAPY),
        ("La radioterapia è stata conclusa il 3 maggio.", RADIOTHERAPY),
        ("De radiotherapie werd op 3 mei afgerond.", RADIOTHERAPY),
        ("A radioterapia foi concluída a 3 de maio.", RADIOTHERAPY),
        ("État général conservé, pas de nouveau déficit.", STATUS),
        ("Buen estado general, sin déficit nuevo.", STATUS),
        ("Neurological examination without a new deficit.", STATUS),
    ],
)
def test_what_is_said_of_the_patient_is_named_in_other_languages_too(note: str, what: str) -> None:
    assert named_in_documents([source(note)])[what].text == note


AUGUST = datetime(2026, 8, 1, tzinfo=UTC)  # the study is of 14 August
NOTE = "Stable disease of the tumour. Dexamethasone was reduced to 2 mg daily."


def narrative(authored: datetime | None, precision: Precision) -> str:
    document: SourceText = replace(source(NOTE, authored), authored_precision=precision)
    return "\n".join(one.text for one in build_content(facts(), [document], ExtractiveNarrator()).narrative)


@pytest.mark.parametrize(
    ("authored", "precision", "unsure"),
    [
        (AUGUST, Precision.MONTH, True),
        (datetime(2026, 1, 1, tzinfo=UTC), Precision.YEAR, True),
        (datetime(2026, 7, 1, tzinfo=UTC), Precision.MONTH, False),
        (datetime(2026, 8, 13, tzinfo=UTC), Precision.DAY, False),
        (datetime(2025, 1, 1, tzinfo=UTC), Precision.YEAR, False),
        (None, Precision.TIME, True),
    ],
)
def test_a_date_that_does_not_tell_says_so_and_contradicts_nothing(
    authored: datetime | None, precision: Precision, unsure: bool
) -> None:
    text = narrative(authored, precision)
    assert "Dexamethasone was reduced" in text
    assert ("(perhaps written after this study)" in text) is unsure
    if unsure:
        assert "two differ" not in text


def test_whoever_gathered_it_a_document_from_after_the_study_is_not_quoted() -> None:
    assert "Dexamethasone" not in narrative(datetime(2026, 10, 3, tzinfo=UTC), Precision.DAY)


def test_a_draft_of_before_is_signed_without_asking_for_confirmation() -> None:
    made = rows()
    made["findings"]["segmentation"]["kind"] = "person"
    for one in made["findings"]["regions"].values():
        one["maker"] = "person"
    content = build_content(read(made), [], ExtractiveNarrator())
    old = "Tumour is outlined. These are machine measurements for a radiologist to confirm, not a diagnosis."
    signed = vouched_impression(content.model_copy(update={"impression": old}))
    assert signed.startswith("Tumour is outlined. ")
    assert "machine" not in signed
    assert "to confirm" not in signed
