"""Convening a panel: one run for each configured expert over the study's newest volumes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings

from audit import services as audit
from imaging.models import Study, StudyState
from imaging.volumes import latest_volume_set
from inference.models import ExpertRun, ModelStatus, PanelRun
from inference.registry import panel_specs, register_panel
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import enqueue

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["convene", "enqueue_conclusion", "overall_deadline"]

RUN_JOB = "inference.run_expert"
CONCLUDE_JOB = "inference.conclude_panel"


def overall_deadline(experts: int) -> timedelta:
    """How long a panel may take until it is concluded without those who have not answered: they run one by one."""
    return timedelta(seconds=float(settings.ONCOFLOW_EXPERT_DEADLINE_S) * max(1, experts) + 300.0)


def convene(ctx: JobContext, study: Study) -> None:
    """Make the panel of the study's newest volumes and its expert runs, each with a job on the gpu queue.

    Does nothing when the study is not ready (a late instance came in) or its panel exists already.
    """
    volume_set = latest_volume_set(study)
    if study.state != StudyState.READY or volume_set is None:
        return
    versions = register_panel()
    with ctx.commit(done=True):
        panel, created = PanelRun.objects.get_or_create(
            volume_set=volume_set,
            defaults={"study": study, "thresholds": dict(settings.ONCOFLOW_GATE)},
        )
        if not created:
            return
        runs = []
        for spec in panel_specs():
            version = versions.get(str(spec["name"]))
            if version is not None and version.status == ModelStatus.DISABLED:
                continue
            run = ExpertRun.objects.create(
                panel_run=panel,
                expert=str(spec["name"]),
                model_version=version,
                role=version.status if version else ModelStatus.ADVISER,
            )
            runs.append(run)
            enqueue(
                RUN_JOB,
                subject=study.subject,
                key=f"expert:{run.pk}",
                kwargs={"expert_run_id": str(run.pk)},
            )
        failpoints.hit("inference.convene_commit")
        # Concludes also when an expert's job is lost for good: nobody waits for a panel for ever.
        enqueue(
            CONCLUDE_JOB,
            subject=study.subject,
            key=f"panel:{panel.pk}:deadline",
            kwargs={"panel_run_id": str(panel.pk)},
            run_after=now() + overall_deadline(len(runs)),
        )
        if not runs:
            enqueue_conclusion(panel)
        audit.record(
            "panel.convene",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"panel": str(panel.pk), "experts": [run.expert for run in runs]},
            source="worker",
        )


def enqueue_conclusion(panel: PanelRun) -> None:
    """Have the panel concluded, once, however many experts ask for it. Inside a transaction."""
    enqueue(
        CONCLUDE_JOB,
        subject=f"study:{panel.study_id}",
        key=f"panel:{panel.pk}:conclude",
        kwargs={"panel_run_id": str(panel.pk)},
        priority=1,
    )
