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
from oncoflow_site.foundation.models import Job

__all__ = ["give_up", "read_one"]


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
    stored = None
    if not reason:
        stored = objects.write(
            text, subject=document.original.subject, kind="document-text", content_type="text/plain; charset=utf-8"
        )
    with ctx.commit():
        held = ClinicalDocument.objects.select_for_update().get(pk=document.pk)
        if held.state != DocumentState.RECEIVED:
            return
        if stored is None:
            DOCUMENT_MACHINE.advance(held, "refuse", state_reason=reason[:300])
        else:
            objects.keep(stored)
            DOCUMENT_MACHINE.advance(held, "read", state_reason="", text=stored, text_sha256=stored.sha256)
        _record(document, DocumentState.READ if stored else DocumentState.UNREADABLE, len(text))
        if stored is not None:
            emit(DOCUMENT_READ, subject=f"document:{document.pk}", document_id=document.pk)


def give_up(job: Job, *, document_id: str) -> None:
    """The job that reads it ended for good: the document is unreadable until a person has it read again."""
    rows = ClinicalDocument.objects.filter(pk=document_id)
    if DOCUMENT_MACHINE.apply(rows, "refuse", state_reason="The attempt to read it failed."):
        _record(rows.get(), DocumentState.UNREADABLE, 0)


def _record(document: ClinicalDocument, state: DocumentState, size: int) -> None:
    record(
        "document.extract",
        action="U",
        resource=f"document:{document.pk}",
        patient_id=document.patient_id,
        actor=Actor.system("worker"),
        outcome=0 if state == DocumentState.READ else 4,
        source="worker",
        detail={"state": str(state), "bytes": size},
    )
