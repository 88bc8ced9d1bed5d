"""Passages come from one patient's documents, exact to the byte, and never from somebody else's."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.models import AuditRow
from clinical.cleaning import clean
from clinical.documents import add_document, read_text
from clinical.models import ClinicalDocument
from clinical.registry import identities_for_cleaning
from clinical.retrieval import forget, retrieve
from clinical.retrieval.passages import MAX_BYTES, windows
from oncoflow_site.foundation.errors import EngineError, TransientError
from oncoflow_site.foundation.jobs import enqueue, run_job

QUERIES = [
    "Which steroid dose does the patient take?",
    "surgery and extent of resection",
    "MGMT methylation IDH status",
]

LETTER = """Discharge summary. Berta Adler was admitted on 4 May 2024.
Histology: glioblastoma, IDH-wildtype, WHO grade 4. MGMT promoter methylated.
Mrs Adler underwent gross total resection of the left temporal tumour – no new deficit.
Dexamethasone 4 mg twice daily was started; größere Ödeme bestanden nicht.
The weather was fine and visitors brought flowers. She walks her dog every morning.
"""
OTHER = """Discharge summary. Carl Birke was admitted on 4 May 2024.
Histology: oligodendroglioma, IDH-mutant, 1p/19q codeleted. MGMT promoter not methylated.
Mr Birke underwent biopsy only of the right frontal tumour.
Dexamethasone 16 mg daily was started. Carl Birke lives alone.
"""


def put(patient, text: str, source_id: str = "1", **more) -> ClinicalDocument:
    document = add_document(
        patient, content=text.encode(), content_type="text/plain; charset=utf-8", type_text="Letter", source_id=source_id,
        **more,
    )  # fmt: skip
    job = enqueue(
        "clinical.read_document",
        subject=f"document:{document.pk}",
        key=f"t:{document.pk}",
        kwargs={"document_id": str(document.pk)},
    )
    run_job(job.pk)
    document.refresh_from_db()
    assert document.state == "read"
    return document


# --- cutting ---------------------------------------------------------------------------------------


@given(
    st.lists(
        st.sampled_from(
            [
                "Tumour grew.",
                "Größe 12 mm!",
                "Dr. Wu said e.g. no",
                "\n\n",
                "\n- ",
                " ",
                "山" * 250,
                "x" * 700,
                "3.5 mL",
            ]
        ),
        max_size=25,
    ),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 60)), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_windows_are_whole_characters_and_touch_nothing_removed(parts: list[str], holes: list[tuple[int, int]]) -> None:
    text = " ".join(parts)
    data = text.encode()
    spans = []
    for start, length in sorted(holes):
        # Holes, like those of cleaning, lie on characters.
        low = len(text[:start].encode())
        high = len(text[: start + length].encode())
        if low < high and (not spans or spans[-1][1] <= low):
            spans.append((low, high, "name"))
    for start, end in windows(data, spans):
        assert 0 <= start < end <= len(data)
        assert end - start <= MAX_BYTES
        data[start:end].decode()
        assert not any(low < end and start < high for low, high, _ in spans)


def test_abbreviations_and_numbers_end_no_sentence_and_neighbours_share_one() -> None:
    text = b"Dr. Wu saw her. Volume was 3.5 mL. No change. Steroids were stopped. She is well."
    pieces = [text[start:end].decode() for start, end in windows(text)]
    assert pieces == [
        "Dr. Wu saw her. Volume was 3.5 mL. No change.",
        "No change. Steroids were stopped. She is well.",
    ]


# --- retrieval with the real model ------------------------------------------------------------------


def check_exact(patient, passages) -> None:
    identity = identities_for_cleaning(patient)[0]
    for one in passages:
        document = ClinicalDocument.objects.get(pk=one.document_id)
        assert document.patient_id == patient.pk
        data = read_text(document)
        assert data[one.start : one.end].decode() == one.text
        assert not clean(data.decode(), identity).overlaps(one.start, one.end)


@pytest.mark.django_db
def test_the_right_passages_come_first_and_exact(make_patient) -> None:
    patient = make_patient(family="Adler", given="Berta")
    written = datetime(2024, 5, 6, tzinfo=UTC)
    document = put(patient, LETTER, authored_on=written)
    passages = retrieve(patient, ["dexamethasone steroid dose"], top_k=2)
    assert "Dexamethasone 4 mg" in passages[0].text
    assert (passages[0].document_id, passages[0].type_text, passages[0].authored_on) == (document.pk, "Letter", written)
    found = retrieve(patient, QUERIES, top_k=6)
    check_exact(patient, found)
    text = " ".join(one.text for one in found)
    for fact in ("gross total resection", "MGMT promoter methylated", "Dexamethasone 4 mg"):
        assert fact in text
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    row = AuditRow.objects.filter(event="document.retrieve").first()
    assert row is not None
    assert row.detail["documents"] == [str(document.pk)]
    assert "dexamethasone" not in str(row.detail)


@pytest.mark.django_db
def test_one_patients_documents_never_answer_for_another(make_patient) -> None:
    one, other = make_patient(family="Adler", given="Berta"), make_patient(family="Birke", given="Carl")
    put(one, LETTER)
    put(other, OTHER)
    for patient, own, foreign in ((one, "4 mg", "16 mg"), (other, "16 mg", "4 mg twice"), (one, "wildtype", "mutant")):
        text = " ".join(
            passage.text for passage in retrieve(patient, [*QUERIES, "Carl Birke", "Berta Adler"], top_k=50)
        )
        assert own in text
        assert foreign not in text
    assert retrieve(make_patient(), QUERIES) == []


@pytest.mark.django_db
def test_names_are_neither_searched_nor_cited(make_patient) -> None:
    patient = make_patient(family="Adler", given="Berta")
    put(patient, LETTER)
    text = " ".join(one.text for one in retrieve(patient, ["Berta Adler", *QUERIES], top_k=50))
    assert text
    assert "Adler" not in text
    assert "Berta" not in text


@pytest.mark.django_db
def test_what_a_store_returns_is_not_believed(make_patient, monkeypatch: pytest.MonkeyPatch) -> None:
    import clinical.retrieval.pipeline as pipeline

    one, other = make_patient(family="Adler", given="Berta"), make_patient(family="Birke")
    mine, theirs = put(one, LETTER), put(other, OTHER)
    name = LETTER.encode().index(b"Adler")
    stay = LETTER.encode().index(b"underwent gross")
    sliced = LETTER.encode().index("Ö".encode()) + 1
    lies = [
        (str(theirs.pk), 0, 20, 9.0),
        (str(mine.pk), name - 5, name + 20, 8.0),
        (str(mine.pk), sliced, sliced + 10, 7.0),
        (str(mine.pk), stay, 10_000, 6.0),
        (str(mine.pk), -5, 10, 5.0),
        (str(mine.pk), stay, stay + 20, 4.0),
        (str(mine.pk), stay + 5, stay + 15, 3.0),
    ]
    monkeypatch.setattr(pipeline, "search", lambda *args, **kwargs: lies)
    assert [(passage.start, passage.end) for passage in retrieve(one, ["x"])] == [(stay, stay + 20)]


@pytest.mark.django_db
def test_nothing_asked_nothing_loaded(make_patient) -> None:
    patient = make_patient()
    put(patient, LETTER)
    assert retrieve(patient, []) == []
    assert retrieve(patient, ["  "]) == []
    assert retrieve(patient, QUERIES, top_k=0) == []


def test_web_and_listener_processes_load_no_model_by_importing_this_room() -> None:
    code = (
        "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'oncoflow_site.settings'; django.setup(); "
        "import clinical.retrieval, clinical.retrieval.passages, clinical.cleaning, clinical.extraction; "
        "print([name for name in ('torch', 'haystack', 'transformers', 'pypdf') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert "[]" in out.stdout, out.stderr[-500:]


@pytest.mark.django_db
def test_an_unknown_store_is_an_error(make_patient, settings) -> None:
    settings.ONCOFLOW_RETRIEVAL = "somewhere"
    with pytest.raises(EngineError, match="ONCOFLOW_RETRIEVAL"):
        retrieve(make_patient(), QUERIES)


@pytest.mark.django_db
def test_an_absent_elasticsearch_is_a_passing_trouble(make_patient, settings) -> None:
    settings.ONCOFLOW_RETRIEVAL = "elasticsearch"
    settings.ELASTICSEARCH_URL = "http://127.0.0.1:9"
    patient = make_patient()
    put(patient, LETTER)
    with pytest.raises(TransientError, match="Elasticsearch"):
        retrieve(patient, QUERIES)


@pytest.mark.django_db
@pytest.mark.peer("elasticsearch")
def test_elasticsearch_gives_the_same_protection(make_patient, settings, elasticsearch_url: str) -> None:
    settings.ONCOFLOW_RETRIEVAL = "elasticsearch"
    settings.ELASTICSEARCH_URL = elasticsearch_url
    one, other = make_patient(family="Adler", given="Berta"), make_patient(family="Birke", given="Carl")
    put(one, LETTER)
    put(other, OTHER)
    passages = retrieve(one, [*QUERIES, "Carl Birke oligodendroglioma"], top_k=50)
    check_exact(one, passages)
    text = " ".join(passage.text for passage in passages)
    assert "Dexamethasone 4 mg" in text
    assert "16 mg" not in text
    assert "16 mg" in " ".join(passage.text for passage in retrieve(other, QUERIES, top_k=50))
    # A second document joins; a forgotten patient is gone, the other stays.
    put(one, "Dexamethasone was tapered to 2 mg. The patient feels well.", source_id="2")
    assert "tapered" in " ".join(passage.text for passage in retrieve(one, ["dexamethasone taper"], top_k=3))
    from clinical.retrieval.pipeline import _elasticsearch, _for_patient

    forget(one)
    keep = _elasticsearch()
    assert keep.filter_documents(filters=_for_patient(str(one.pk))) == []
    stored = keep.filter_documents(filters=_for_patient(str(other.pk)))
    assert stored
    assert "Birke" not in " ".join(document.content for document in stored)
    forget(other)
