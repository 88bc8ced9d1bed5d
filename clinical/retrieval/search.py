"""Retrieval over one patient's documents.

Whatever store is used, nothing that comes back from it is believed: each passage is cut again from the stored text,
checked against the patient's own documents and against what cleaning takes out today, and dropped where it does not fit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from django.conf import settings
from django.db import transaction

from audit.services import record
from clinical.models import Patient
from clinical.registry import current_patient
from clinical.retrieval.documents import ReadDocument, searchable_documents
from clinical.retrieval.passages import Passage, trimmed
from oncoflow_site.foundation.errors import EngineError

__all__ = ["forget", "retrieve"]


MAX_QUERIES = 20


def retrieve(
    patient: Patient, queries: Sequence[str], *, top_k: int = 6, within: Collection[UUID] | None = None
) -> list[Passage]:
    """The passages of this patient's documents that answer ``queries`` best, best first, none overlapping another.

    Hybrid: BM25 and sentence embeddings, joined by reciprocal rank fusion, for each query; then over the queries. Loads
    the embedding model on first use (seconds): call it from a worker, not from a web or listener process.

    :param top_k: at most so many passages. :param within: only of these documents; None: of all.
    :raises EngineError: ``ONCOFLOW_RETRIEVAL`` names no known store.
    """
    patient = current_patient(patient)
    wanted = [" ".join(query.split())[:500] for query in queries if query.strip()][:MAX_QUERIES]
    store = str(settings.ONCOFLOW_RETRIEVAL)
    if store not in ("memory", "elasticsearch"):
        raise EngineError(f"ONCOFLOW_RETRIEVAL must be memory or elasticsearch, not {store!r}")
    documents = searchable_documents(patient)
    allowed = {key: one for key, one in documents.items() if within is None or key in within}
    found: list[Passage] = []
    if wanted and top_k > 0 and any(document.spans for document in allowed.values()):
        # Torch and Haystack come in here only.
        from clinical.retrieval.pipeline import search

        depth = max(20, 4 * top_k)
        if store == "memory":
            hits = search(str(patient.pk), allowed, wanted, store=store, depth=depth)
        else:
            # A store that keeps the passages is given all: what is not among them it takes for withdrawn.
            left_out = sum(len(one.spans) for key, one in documents.items() if key not in allowed)
            hits = search(str(patient.pk), documents, wanted, store=store, depth=depth + min(left_out, 500))
        found = _checked(hits, allowed, top_k)
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
