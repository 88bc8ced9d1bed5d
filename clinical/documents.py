"""Clinical documents: received once, read once, kept encrypted."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime

from django.db import IntegrityError, transaction

from audit.services import record
from clinical.events import DOCUMENT_ARRIVED
from clinical.models import ClinicalDocument, Patient
from clinical.registry import current_patient, merged_records
from clinical.vault import blind_index
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import DatedMoment, Precision
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.models import StoredObject

__all__ = ["MAX_DOCUMENT_BYTES", "add_document", "read_original", "read_text", "write_original"]

MAX_DOCUMENT_BYTES = 32 << 20


def write_original(patient: Patient, content: bytes, content_type: str) -> StoredObject:
    """Write a document's bytes, encrypted under the patient's key, before the transaction in which `add_document` keeps it.

    :raises UserVisibleError: empty, or larger than 32 MiB.
    """
    if not content:
        raise UserVisibleError("The document is empty.", what_to_do="Send its content.", code="document-empty")
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UserVisibleError(
            f"The document is larger than {MAX_DOCUMENT_BYTES >> 20} MiB.",
            what_to_do="Send a smaller file.",
            code="document-too-large",
        )
    subject = current_patient(patient).key_subject
    return objects.write(content, subject=subject, kind="document", content_type=_media_type(content_type))


def _media_type(content_type: str) -> str:
    return content_type.strip()[:100] or "application/octet-stream"


def add_document(
    patient: Patient,
    *,
    content: bytes,
    content_type: str,
    type_code: str = "",
    type_text: str = "",
    authored_on: DatedMoment | datetime | None = None,
    source_id: str = "",
    source: str = "",
    original: StoredObject | None = None,
) -> ClinicalDocument:
    """Keep a document and emit ``document.arrived``. The same content under the same ``source_id`` is kept once.

    :param content_type: MIME type, with its charset parameter where the sender gave one.
    :param type_code: LOINC code of the document type. :param authored_on: as exactly as the sender says.
    :param source_id: the sender's id (masterIdentifier, TXA-12); hashed, never stored in clear.
    :param original: what `write_original` has written of ``content``, for a caller that is inside a transaction.
    :raises UserVisibleError: empty, or larger than 32 MiB.
    """
    patient = current_patient(patient)
    authored = DatedMoment(authored_on) if isinstance(authored_on, datetime) else authored_on
    digest = hashlib.sha256(content).hexdigest()

    def index_of(record_id: uuid.UUID) -> str:
        return blind_index("document.source", str(record_id), source_id.strip(), digest)

    index = index_of(patient.pk)
    # It may have come under a record that was merged into this one since.
    records = [patient.pk, *(one.pk for one in merged_records(patient))]
    known = ClinicalDocument.objects.filter(
        source_index__in=[index_of(one) for one in records], patient=patient
    ).first()
    if known is not None:
        return known
    original = original or write_original(patient, content, content_type)
    try:
        with transaction.atomic():
            objects.keep(original)
            document = ClinicalDocument(
                patient=patient,
                type_code=type_code[:20],
                type_text=type_text[:200],
                authored_on=authored.moment if authored else None,
                authored_precision=authored.precision if authored else Precision.TIME,
                content_type=_media_type(content_type),
                source_index=index,
                original=original,
            )
            document.save(force_insert=True)
            record(
                "document.add",
                action="C",
                resource=f"document:{document.pk}",
                patient_id=patient.pk,
                source=source,
                detail={"bytes": len(content), "type_code": document.type_code},
            )
            emit(DOCUMENT_ARRIVED, subject=f"document:{document.pk}", document_id=document.pk)
    except IntegrityError:
        known = ClinicalDocument.objects.filter(source_index=index).first()
        if known is None:
            raise
        return known
    return document


def read_text(document: ClinicalDocument) -> bytes:
    """The extracted text, UTF-8; citations are byte offsets into exactly this.

    :raises UserVisibleError: the document has no readable text (yet).
    """
    if document.text is None:
        raise UserVisibleError(
            "This document has no readable text.",
            what_to_do=document.state_reason or "Wait until it has been read.",
            code="document-not-read",
        )
    return objects.get(document.text)


def read_original(document: ClinicalDocument) -> bytes:
    """The document as it arrived."""
    return objects.get(document.original)
