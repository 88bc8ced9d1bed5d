"""The step from a received document to its stored text."""

from __future__ import annotations

from audit.actors import Actor
from audit.services import record
from clinical.documents import read_original
from clinical.events import DOCUMENT_READ
from clinical.extraction import UnreadableError, extract
from clinical.models import ClinicalDocument, DocumentState
from clinical.models.documents import DOCUMENT_MACHINE
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import JobContext

__all__ = ["read_one"]


def read_one(ctx: JobContext, document_id: str) -> None:
    """Extract the text of a ``received`` document and store it; see `clinical.tasks.read_document`."""
    document = ClinicalDocument.objects.select_related("patient", "original").filter(pk=document_id).first()
    if document is None or document.state != DocumentState.RECEIVED:
        return
    ctx.progress(0.1, "reading the document")
    text, reason = b"", ""
    try:
        text = extract(read_original(document), document.content_type).encode()
    except UnreadableError as error:
        reason = str(error)
    with ctx.commit():
        held = ClinicalDocument.objects.select_for_update().get(pk=document.pk)
        if held.state != DocumentState.RECEIVED:
            return
        if reason:
            held.state = DOCUMENT_MACHINE.next(held.state, "refuse")
            held.state_reason = reason[:300]
        else:
            held.state = DOCUMENT_MACHINE.next(held.state, "read")
            held.state_reason = ""
            held.text = objects.put(
                text, subject=document.original.subject, kind="document-text", content_type="text/plain; charset=utf-8"
            )
            held.text_sha256 = held.text.sha256
        held.save()
        record(
            "document.extract",
            action="U",
            resource=f"document:{held.pk}",
            patient_id=held.patient_id,
            actor=Actor.system("worker"),
            outcome=4 if reason else 0,
            source="worker",
            detail={"state": held.state, "bytes": len(text)},
        )
        if not reason:
            emit(DOCUMENT_READ, subject=f"document:{held.pk}", document_id=held.pk)
