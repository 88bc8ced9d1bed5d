"""Background work of this room."""

from __future__ import annotations

from clinical.access import sync_permission
from clinical.models import CareAssignment
from clinical.notices import write_notice
from clinical.reading import give_up, read_one
from oncoflow_site.foundation.jobs import JobContext, job

__all__ = ["end_assignment", "read_document", "tell_staff"]


@job("clinical.read_document", max_attempts=4, on_dead=give_up)
def read_document(ctx: JobContext, *, document_id: str) -> None:
    """Before: the document is ``received``. After: it is ``read``, with its text and ``document.read``, or
    ``unreadable`` with a reason that people see. A document in another state is left alone."""
    read_one(ctx, document_id)


@job("clinical.tell_staff")
def tell_staff(ctx: JobContext, *, kind: str = "", subject: str = "") -> None:
    """Before: something happened that a person should hear about. After: one notice about it on the dashboard.

    The event that this job follows says what and about what; a caller that enqueues it directly says so itself.
    """
    event = ctx.job.event
    with ctx.commit():
        write_notice(
            kind or (event.kind if event else ""),
            subject or (event.subject if event else ctx.job.subject),
            payload=event.payload if event else {},
        )


@job("clinical.end_assignment")
def end_assignment(ctx: JobContext, *, assignment_id: str) -> None:
    """Before: an assignment has reached its end. After: guardian's row is gone, unless another assignment stands."""
    assignment = CareAssignment.objects.filter(pk=assignment_id).select_related("user", "patient").first()
    if assignment is None:
        return
    with ctx.commit():
        sync_permission(assignment.user, assignment.patient)
