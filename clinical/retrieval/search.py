"""Retrieval over one patient's documents.

Whatever store is used, nothing that comes back from it is believed: each passage is cut again from the stored text,
checked against the patient's own documents and against what cleaning takes out today, and dropped where it does not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import transaction

from audit.services import record
from clinical.cleaning import CleanedText, clean
from clinical.documents import read_text
from clinical.models import ClinicalDocument, DocumentState, Patient
from clinical.registry import current_patient, identity_for_cleaning
from clinical.retrieval.passages import Passage, trimmed, windows
from oncoflow_site.foundation.errors import EngineError

__all__ = ["ReadDocument", "forget", "retrieve"]

logger = logging.getLogger(__name__)

# Embedding takes about 30 ms a passage on one core; what does not fit is older than what does, and is said in the log.
MAX_PASSAGES = 1500
MAX_QUERIES = 20


@dataclass(frozen=True)
class ReadDocument:
    """A document with its stored text and what cleaning takes out of it."""

    row: ClinicalDocument
    data: bytes
    cleaned: CleanedText
    spans: tuple[tuple[int, int], ...]

    def citable(self, start: int, end: int) -> bool:
        """Whether these bytes exist, are whole characters, and touch nothing that was taken out."""
        if not 0 <= start < end <= len(self.data) or self.cleaned.overlaps(start, end):
            return False
        try:
            self.data[start:end].decode()
        except UnicodeDecodeError:
            return False
        return True


def _documents(patient: Patient) -> dict[UUID, ReadDocument]:
    """The patient's readable documents, newest first, as many as the limit of passages allows."""
    identity = identity_for_cleaning(patient)
    rows = ClinicalDocument.objects.filter(patient=patient, state=DocumentState.READ, text__isnull=False)
    ordered = sorted(rows.select_related("text"), key=lambda row: row.authored_on or row.created_at, reverse=True)
    out: dict[UUID, ReadDocument] = {}
    count = 0
    for row in ordered:
        data = read_text(row)
        cleaned = clean(data.decode(), identity)
        spans = tuple(windows(data, cleaned.removed))
        count += len(spans)
        if out and count > MAX_PASSAGES:
            logger.warning("%d of %d documents of patient %s are searched", len(out), len(ordered), patient.pk)
            break
        out[row.pk] = ReadDocument(row, data, cleaned, spans[:MAX_PASSAGES])
    return out


def retrieve(patient: Patient, queries: Sequence[str], *, top_k: int = 6) -> list[Passage]:
    """The passages of this patient's documents that answer ``queries`` best, best first, none overlapping another.

    Hybrid: BM25 and sentence embeddings, joined by reciprocal rank fusion, for each query; then over the queries. Loads
    the embedding model on first use (seconds): call it from a worker, not from a web or listener process.

    :param top_k: at most so many passages.
    :raises EngineError: ``ONCOFLOW_RETRIEVAL`` names no known store.
    """
    patient = current_patient(patient)
    wanted = [" ".join(query.split())[:500] for query in queries if query.strip()][:MAX_QUERIES]
    store = str(settings.ONCOFLOW_RETRIEVAL)
    if store not in ("memory", "elasticsearch"):
        raise EngineError(f"ONCOFLOW_RETRIEVAL must be memory or elasticsearch, not {store!r}")
    documents = _documents(patient)
    found: list[Passage] = []
    if wanted and top_k > 0 and any(document.spans for document in documents.values()):
        # Torch and Haystack come in here only.
        from clinical.retrieval.pipeline import search

        hits = search(str(patient.pk), documents, wanted, store=store, depth=max(20, 4 * top_k))
        found = _checked(hits, documents, top_k)
    with transaction.atomic():
        record(
            "document.retrieve",
            action="R",
            resource=f"patient:{patient.pk}",
            patient_id=patient.pk,
            detail={"documents": sorted({str(one.document_id) for one in found}), "passages": len(found)},
        )
    return found


def _not_yet_told(document: ReadDocument, start: int, end: int, told: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The longest part of the bytes that no better passage has told already; None where nothing worth it is left."""
    parts = [(start, end)]
    for low, high in told:
        parts = [
            piece
            for begin, finish in parts
            for piece in ((begin, min(finish, low)), (max(begin, high), finish))
            if piece[0] < piece[1]
        ]
    whole = [piece for part in parts if (piece := trimmed(document.data, *part)) is not None]
    return max(whole, key=lambda piece: piece[1] - piece[0], default=None)


def _checked(
    hits: Sequence[tuple[str, int, int, float]], documents: dict[UUID, ReadDocument], top_k: int
) -> list[Passage]:
    out: list[Passage] = []
    for key, start, end, score in hits:
        document = documents.get(UUID(key))
        if document is None or not document.citable(start, end):
            continue
        rest = _not_yet_told(
            document, start, end, [(one.start, one.end) for one in out if one.document_id == document.row.pk]
        )
        if rest is None:
            continue
        start, end = rest
        out.append(
            Passage(
                document_id=document.row.pk,
                start=start,
                end=end,
                text=document.data[start:end].decode(),
                score=score,
                type_text=document.row.type_text,
                authored_on=document.row.authored_on,
            )
        )
        if len(out) == top_k:
            break
    return out


def forget(patient: Patient) -> None:
    """Remove the patient's passages from a store that keeps them (Elasticsearch). The memory store keeps nothing."""
    if settings.ONCOFLOW_RETRIEVAL == "elasticsearch":
        from clinical.retrieval.pipeline import forget_patient

        forget_patient(str(patient.pk))
