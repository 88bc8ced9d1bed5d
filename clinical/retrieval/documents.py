"""The patient's readable documents as retrieval sees them: stored text, what cleaning takes out, windows of passages."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from clinical.cleaning import CleanedText, clean
from clinical.documents import read_text
from clinical.models import ClinicalDocument, DocumentState, Patient
from clinical.registry import identities_for_cleaning
from clinical.retrieval.passages import windows

__all__ = ["ReadDocument"]


logger = logging.getLogger(__name__)


# Embedding takes about 30 ms a passage on one core; what does not fit is older than what does, and is said in the log.
MAX_PASSAGES = 1500


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


def searchable_documents(patient: Patient) -> dict[UUID, ReadDocument]:
    """The patient's readable documents, newest first, as many as the limit of passages allows."""
    identities = identities_for_cleaning(patient)
    rows = ClinicalDocument.objects.filter(patient=patient, state=DocumentState.READ, text__isnull=False)
    ordered = sorted(rows.select_related("text"), key=lambda row: row.authored_on or row.created_at, reverse=True)
    out: dict[UUID, ReadDocument] = {}
    count = 0
    for row in ordered:
        data = read_text(row)
        cleaned = clean(data.decode(), *identities)
        spans = tuple(windows(data, cleaned.removed))
        count += len(spans)
        if out and count > MAX_PASSAGES:
            logger.warning("%d of %d documents of patient %s are searched", len(out), len(ordered), patient.pk)
            break
        out[row.pk] = ReadDocument(row, data, cleaned, spans[:MAX_PASSAGES])
    return out
