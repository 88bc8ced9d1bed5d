"""The patient's documents that a narrative may cite, with the passages that retrieval returned."""

from __future__ import annotations

import uuid

from clinical.cleaning import CleanedText, clean
from clinical.models import ClinicalDocument, Patient
from clinical.models.documents import DocumentState
from clinical.registry import current_patient, identities_for_cleaning
from clinical.retrieval import read_text, retrieve
from imaging.models import Study
from oncoflow_site.foundation.clock import Precision
from reports.narrative.context_window import end_of_context
from reports.narrative.quotes import split_sentences
from reports.narrative.sentences import SourceText

__all__ = ["QUERIES", "context_documents", "gather_sources", "readable_documents", "widened"]


QUERIES: tuple[str, ...] = (
    "diagnosis of the brain tumour, histology and WHO grade",
    "surgery: resection or biopsy of the tumour and its extent",
    "radiotherapy: dose, fractions, start and end",
    "chemotherapy and other drugs against the tumour, cycles",
    "corticosteroids: dexamethasone dose and changes",
    "clinical status: Karnofsky, neurological deficits, seizures",
    "molecular markers: IDH, MGMT, 1p/19q, EGFR, TERT",
)
_TOP_K = 24


def readable_documents(patient: Patient) -> list[ClinicalDocument]:
    """This patient's documents whose text has been read, in a fixed order."""
    rows = ClinicalDocument.objects.filter(patient=current_patient(patient), state=DocumentState.READ)
    return list(rows.order_by("id"))


def context_documents(study: Study) -> list[ClinicalDocument]:
    """The readable documents that a report of ``study`` may rest on: none written later than ``ONCOFLOW_CONTEXT_DAYS`` days
    after it. An undated one is among them, and quoted as undated.

    Of a document of which only the year or month is known, its beginning counts: it is left out where it is surely later.
    """
    last = end_of_context(study.performed_at)
    return [one for one in readable_documents(study.patient) if one.authored_on is None or one.authored_on <= last]


def gather_sources(study: Study) -> list[SourceText]:
    """The context documents that retrieval found something in, with the passages; newest first.

    Loads the embedding model: for workers only. A passage that does not equal the stored bytes at its offsets is left out:
    it could not be cited.
    """
    patient = study.patient
    documents = {row.id: row for row in context_documents(study)}
    if not documents:
        return []
    spans: dict[uuid.UUID, list[tuple[int, int, float]]] = {}
    texts: dict[uuid.UUID, bytes] = {}
    for passage in retrieve(patient, QUERIES, top_k=_TOP_K, within=documents.keys()):
        key = uuid.UUID(str(passage.document_id))
        if key not in documents:
            continue
        if key not in texts:
            texts[key] = read_text(documents[key])
        if texts[key][passage.start : passage.end] == passage.text.encode("utf-8"):
            spans.setdefault(key, []).append((passage.start, passage.end, float(passage.score)))
    identities = identities_for_cleaning(patient)
    sources = [
        SourceText(
            document_id=str(key),
            text=texts[key],
            text_sha256=documents[key].text_sha256,
            type_text=documents[key].type_text,
            authored_on=documents[key].authored_on,
            authored_precision=Precision(documents[key].authored_precision),
            passages=widened(texts[key], found, clean(texts[key].decode("utf-8"), *identities)),
        )
        for key, found in spans.items()
    ]
    return sorted(
        sources,
        key=lambda one: (-(one.authored_on.timestamp() if one.authored_on else 0.0), one.document_id),
    )


def widened(
    text: bytes, spans: list[tuple[int, int, float]], cleaned: CleanedText
) -> tuple[tuple[int, int, float], ...]:
    """The passages found, each with the sentence before and after it; (start, end, score), in order, none overlapping.

    Retrieval drops a passage that overlaps a better one, so what it leaves out is often the very next sentence. A sentence that
    touches what cleaning takes out stays out. Passages that then meet become one, with the better score.
    """
    sentences = [(start, end) for start, end, _ in split_sentences(text)]
    wide = list(spans)
    for start, end, score in spans:
        before = [one for one in sentences if one[0] < start][-1:]
        after = [one for one in sentences if one[1] > end][:1]
        wide += [(first, last, score) for first, last in before + after if not cleaned.overlaps(first, last)]
    out: list[tuple[int, int, float]] = []
    for start, end, score in sorted(wide):
        # Only white space may lie between: anything else was neither found nor looked at by the cleaning above.
        if out and (start <= out[-1][1] or not text[out[-1][1] : start].strip()):
            first, last, best = out[-1]
            out[-1] = (first, max(end, last), max(score, best))
        else:
            out.append((start, end, score))
    return tuple(out)
