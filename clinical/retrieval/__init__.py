"""Passages from one patient's documents, each citable by byte offsets. Importing this loads no model."""

from clinical.documents import read_text
from clinical.retrieval.passages import Passage
from clinical.retrieval.search import forget, retrieve

__all__ = ["Passage", "forget", "read_text", "retrieve"]
