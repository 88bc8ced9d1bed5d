"""When a study is complete: when as many instances are here as were announced, where somebody announced a number (a PACS
that we asked for an earlier study); after a quiet period without a new instance otherwise (DICOM itself does not say).

One job a study and generation watches. It is created in the transaction that stores the first instance, so that no kill
can lose it; while instances keep arriving it arms its own successor.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F

from audit import services as audit
from clinical import services as clinical
from clinical.models import OrderStatus
from imaging.events import STUDY_COMPLETE, STUDY_REOPENED
from imaging.models import InstanceState, Study
from imaging.states import STUDY_MACHINE, StudyState
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import enqueue

__all__ = ["arm", "complete", "complete_if_all_here", "complete_if_quiet", "touch"]

COMPLETE_JOB = "imaging.complete_study"


def quiet_period() -> timedelta:
    """How long a study must be quiet."""
    return timedelta(seconds=float(settings.ONCOFLOW_STUDY_QUIET_SECONDS))


def arm(study_id: uuid.UUID, generation: int, *, since: datetime | None = None) -> None:
    """Have the study looked at a quiet period after ``since`` (default: now, for the first instance of a generation).

    Inside the caller's transaction; idempotent by its key.
    """
    enqueue(
        COMPLETE_JOB,
        subject=f"study:{study_id}",
        key=f"complete:{study_id}:{generation}:{since.isoformat() if since else 'first'}",
        kwargs={"study_id": str(study_id)},
        run_after=(since or now()) + quiet_period(),
    )


def touch(study_id: uuid.UUID) -> bool:
    """Note that a new instance was stored (inside its transaction).

    :returns: True when that reopened the study: a late instance is visible as event study.reopened.
    """
    moment = now()
    if STUDY_MACHINE.apply(Study.objects.filter(pk=study_id), "receive", last_received_at=moment):
        return False
    study = Study.objects.get(pk=study_id)
    STUDY_MACHINE.advance(study, "reopen", last_received_at=moment, generation=F("generation") + 1)
    if study.order is not None and study.order.status == OrderStatus.COMPLETED:
        clinical.advance_order(study.order, "reopen")  # what was signed did not know this image
    arm(study_id, study.generation)
    emit(STUDY_REOPENED, subject=study.subject, study_id=str(study_id))
    audit.record("study.reopen", action="U", resource=study.subject, patient_id=study.patient_id, source="dicom")
    return True


def complete(study: Study) -> bool:
    """Close the study for receiving now (its sender said that this is all). Returns False when it was closed already."""
    with transaction.atomic():
        still = Study.objects.filter(pk=study.pk, last_received_at=study.last_received_at)
        if not STUDY_MACHINE.apply(still, "quiet"):
            return False
        study.refresh_from_db(fields=["state"])
        kept = study.instances.exclude(state=InstanceState.QUARANTINED).count()
        emit(STUDY_COMPLETE, subject=study.subject, study_id=str(study.pk))
        audit.record(
            "study.complete",
            action="U",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"instances": kept, "quarantined": study.instances.count() - kept},
            source="worker",
        )
    return True


def complete_if_all_here(study: Study) -> bool:
    """Close the study at the very instance that makes it as many as expected. Inside that instance's transaction.

    One more than expected reopens it like any late instance, and then the quiet period decides.
    """
    if study.expected_instances is None or study.instances.count() != study.expected_instances:
        return False
    study.refresh_from_db(fields=["state", "last_received_at"])
    return study.state == StudyState.RECEIVING and complete(study)


def complete_if_quiet(study: Study) -> bool:
    """Close a study that has been quiet for long enough, or look again later. Inside the caller's transaction.

    :returns: True when it was closed by this call.
    """
    if study.state != StudyState.RECEIVING:
        return False
    if study.last_received_at + quiet_period() > now():
        arm(study.pk, study.generation, since=study.last_received_at)
        return False
    return complete(study)
