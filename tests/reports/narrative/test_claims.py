"""What a report claims: whose outline, within which range, what documents name, what the sequences were."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_api.report_out.observations_common import is_loinc, procedure_loinc
from imaging.schemas.acquisition import SequenceAcquisition
from reports.content.not_assessed import not_assessed
from reports.content.provenance import acquisition_text, closing_sentence, disclaimer, makers_text
from reports.content.schema import ReportFacts, ReportStudy
from reports.lifecycle.assemble import build_content
from reports.narrative.extractive import ExtractiveNarrator
from reports.narrative.findings_text import finding_sentences
from reports.narrative.quotes import named_in_documents
from tests.factories.report_content import facts, read, rows, source

LACKING = [
    "corticosteroid dose",
    "clinical status (KPS or NANO)",
    "end of radiotherapy",
    "start of the present treatment",
]


def lacking() -> ReportFacts:
    made = rows()
    made["comparison"]["response"]["missing"] = LACKING
    return read(made)


def told(given: ReportFacts, *notes: str, authored: datetime | None = datetime(2026, 8, 2, tzinfo=UTC)) -> list[str]:
    content = build_content(given, [source("\n\n".join(notes), authored)] if notes else [], ExtractiveNarrator())
    return [one.text for one in content.narrative if one.kind == "limitation"]


def test_what_a_document_names_is_quoted_and_not_called_missing() -> None:
    lines = told(
        lacking(),
        "She takes dexamethasone 4 mg twice daily.",
        "Karnofsky performance status is 80 today.",
        "Radiotherapy with 60 Gy was completed on 3 May 2026.",
    )
    (steroid,) = [one for one in lines if one.startswith("Corticosteroid dose")]
    assert steroid == (
        "Corticosteroid dose: named in the oncology note of 2 August 2026, not confirmed, and not used by the response rules: "
        "“She takes dexamethasone 4 mg twice daily.”"
    )
    assert any("“Karnofsky performance status is 80 today.”" in one for one in lines)
    assert any("“Radiotherapy with 60 Gy was completed on 3 May 2026.”" in one for one in lines)
    assert "Not available to the response rules: start of the present treatment." in lines


@pytest.mark.parametrize(
    ("note", "what"),
    [
        ("Unter Dexamethason 2 mg täglich keine Beschwerden.", "corticosteroid dose"),
        ("No dexamethasone since the spring of this year.", "corticosteroid dose"),  # quoted as the negation that it is
        ("Die Strahlentherapie wurde im Mai abgeschlossen.", "end of radiotherapy"),
        ("Allgemeinzustand unverändert gut, ECOG eins.", "clinical status (KPS or NANO)"),
    ],
)
def test_what_is_named_in_other_words(note: str, what: str) -> None:
    assert named_in_documents([source(note)])[what].text == note


@pytest.mark.parametrize(
    "note",
    [
        "Her mother takes prednisone for asthma.",
        "Der Vater erhielt Dexamethason bei Hirntumor.",
        "Radiotherapy is planned for next week at this hospital.",
        "Family history: sister with glioma, on steroids.",
    ],
)
def test_what_is_not_said_of_the_patient_is_not_named(note: str) -> None:
    assert named_in_documents([source(note)]) == {}


def test_the_newest_document_counts_and_an_undated_one_last() -> None:
    old = source("Takes dexamethasone 8 mg a day.", datetime(2026, 5, 1, tzinfo=UTC))
    new = source("Takes dexamethasone 2 mg a day.", datetime(2026, 7, 1, tzinfo=UTC))
    undated = source("Takes dexamethasone 16 mg a day.", None)
    found = named_in_documents([undated, old, new])["corticosteroid dose"]
    assert found.text == "Takes dexamethasone 2 mg a day."


def test_the_list_of_what_was_not_assessed_says_the_same() -> None:
    items = {
        one.what: one.reason for one in not_assessed(lacking(), {LACKING[0]: "the oncology note of 2 August 2026"})
    }
    assert items[LACKING[0]] == "named in the oncology note of 2 August 2026, not confirmed"
    assert items[LACKING[3]] == "not available to the response rules"


def region(made: dict[str, Any], name: str = "ET") -> dict[str, Any]:
    found: dict[str, Any] = made["findings"]["regions"][name]
    return found


@pytest.mark.parametrize(
    ("volume", "maker", "why"),
    [
        (940.0, "consensus", "lies below that range because the models outline different places"),
        (9000.0, "consensus", "lies above that range because the consensus joins"),
        (940.0, "person", "lies below that range because a person changed the outline"),
        (9000.0, "corrected", "lies above that range because a person changed the outline"),
        (2000.0, "consensus", ""),
    ],
)
def test_a_range_holds_its_value_or_says_why_not(volume: float, maker: str, why: str) -> None:
    made = rows()
    spread = {"low": 1520.0, "high": 4070.0, "experts": 3, "method": "spread of the experts' volumes"}
    region(made).update(volume_mm3=volume, uncertainty_mm3=spread, maker=maker)
    (sentence,) = [one.text for one in finding_sentences(read(made)) if "estimated enhancing tumour" in one.text]
    assert "the single models range from 1.52 ml to 4.07 ml" in sentence
    assert ("that range" in sentence) == bool(why)
    assert why in sentence


def test_who_made_what_is_said_by_region() -> None:
    made = rows()
    region(made, "ET")["maker"], region(made, "TC")["maker"], region(made, "WT")["maker"] = (
        "corrected",
        "corrected",
        "consensus",
    )
    given = read(made)
    sentences = [one.text for one in finding_sentences(given)]
    assert any(
        one.startswith("The models' consensus, corrected by a person, gives an estimated enhancing")
        for one in sentences
    )
    assert any(one.startswith("The models' consensus gives an estimated whole tumour") for one in sentences)
    expected = "ET, TC: the models' consensus, corrected by a person; WT: the models' consensus"
    assert makers_text(given.findings) == expected


def test_a_persons_outline_is_not_called_a_machines_and_a_signed_one_asks_nobody_to_confirm() -> None:
    made = rows()
    for name in ("ET", "TC", "WT"):
        region(made, name)["maker"] = "person"
    findings = read(made).findings
    assert "made by a person" in disclaimer(findings)
    assert "machine" not in closing_sentence(findings, signed=False)
    assert "confirm" not in closing_sentence(findings, signed=True)
    assert "machine-learning models" in disclaimer(facts().findings)


def study(*entries: SequenceAcquisition, modality: str = "MR") -> ReportStudy:
    return facts().study.model_copy(update={"acquisition": entries, "modality": modality})


def seq(sequence: str, contrast: str = "") -> SequenceAcquisition:
    return SequenceAcquisition.model_validate({"sequence": sequence, "contrast": contrast})


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (study(seq("T1"), seq("T1c"), seq("FLAIR")), "24587-8"),
        (study(seq("T1c", "given"), seq("FLAIR")), "24589-4"),
        (study(seq("T1", "not given"), seq("FLAIR", "not given")), "30657-1"),
        (study(seq("T1", "not given"), seq("FLAIR")), "24590-2"),  # silence is no fact
        (study(), "24590-2"),
        (study(seq("T1"), modality="OT"), "24590-2"),
    ],
)
def test_the_procedure_code_follows_the_sequences(given: ReportStudy, code: str) -> None:
    assert procedure_loinc(given)[0] == code


def test_an_order_in_loinc_is_echoed() -> None:
    assert is_loinc("24587-8")
    assert not is_loinc("MRBRAIN")
    assert not is_loinc("70553")


def test_acquisition_is_told_as_the_headers_say() -> None:
    full = SequenceAcquisition(
        sequence="T1c",
        manufacturer="SIEMENS",
        model="Prisma_fit",
        field_t=3.0,
        slice_thickness_mm=1.0,
        contrast="given",
        agent="Gadovist",
    )
    text = acquisition_text(study(full, seq("FLAIR")))
    assert "T1c: SIEMENS Prisma_fit; 3 T; slices of 1 mm; contrast agent given (Gadovist)." in text
    assert "FLAIR: scanner not stated; field not stated; slice thickness not stated; contrast agent not stated." in text
    assert acquisition_text(study()) == ""
