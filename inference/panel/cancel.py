"""Stopping a panel, and running it again: a person's decision, on record, and visible on the study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from audit import services as audit
from inference.events import PANEL_CANCELLED
from inference.models import EXPERT_MACHINE, PANEL_MACHINE, ExpertRun, PanelRun
from inference.panel.convene import ENDED_WITHOUT_A_RESULT
from oncoflow_site.foundation import jobs
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.models import Job

if TYPE_CHECKING:
    from imaging.models import Study

__all__ = ["cancel_panel", "run_again"]


def cancel_panel(panel: PanelRun, *, who: str, why: str) -> PanelRun:
    """waiting or running -> cancelled, with its experts; nothing of it counts. Their jobs end, and a running one lets go
    of its request, upon which the supervisor drops it.

    :param who: user name. :param why: in that person's words, free of identity; required.
    :raises UserVisibleError: no reason given, or the panel is over already (code ``panel-over``).
    """
    if not why.strip():
        raise UserVisibleError("To stop a panel a reason is needed.", what_to_do="Say why.", code="no-reason")
    study = panel.study
    reason = f"Stopped by {who}: {why.strip()[:300]}"
    with transaction.atomic():
        rows = PanelRun.objects.filter(pk=panel.pk)
        if not PANEL_MACHINE.apply(rows, "cancel", reasons=[reason], concluded_at=now()):
            raise UserVisibleError("This panel is over and cannot be stopped.", code="panel-over")
        runs = ExpertRun.objects.filter(panel_run=panel)
        EXPERT_MACHINE.apply(runs, "cancel", error="The panel was stopped.", finished_at=now())
        keys = [f"expert:{run.pk}" for run in runs]
        keys += [f"panel:{panel.pk}:conclude", f"panel:{panel.pk}:deadline"]
        for job_id in Job.objects.filter(idempotency_key__in=keys).values_list("pk", flat=True):
            jobs.cancel(job_id)
        emit(PANEL_CANCELLED, subject=study.subject, study_id=str(study.pk), panel_run_id=str(panel.pk))
        audit.record(
            "panel.cancel",
            action="U",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"panel": str(panel.pk)},
        )
    panel.refresh_from_db()
    return panel


def run_again(study: Study, panel: PanelRun) -> Job:
    """Have another panel convened over the volumes of a cancelled or failed one. Asking twice gives the same job.

    :raises UserVisibleError: the panel neither was cancelled nor failed (code ``panel-counts``).
    """
    if panel.state not in ENDED_WITHOUT_A_RESULT or panel.study_id != study.pk:
        raise UserVisibleError(
            "Only a panel that was stopped or failed can be run again.",
            what_to_do="Choose experts and fusion anew instead.",
            code="panel-counts",
        )
    with transaction.atomic():
        job = jobs.enqueue(
            "inference.convene_panel",
            subject=study.subject,
            key=f"panel:{panel.pk}:again",
            kwargs={"study_id": str(study.pk), "after": str(panel.pk)},
        )
        audit.record(
            "panel.again",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"panel": str(panel.pk)},
        )
    return job
