"""Convening a panel: one run for each configured expert over the study's newest volumes.

Where sequences are missing the panel is reduced: each expert is given what it can run with, and one that cannot is not run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db.models import QuerySet

from audit import services as audit
from clinical.models import OrderPriority
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.findings import clear_findings, raise_finding
from imaging.models import FindingSeverity, Study, StudyState
from imaging.volumes.load import latest_volume_set
from inference.experts.common.input_requirements import NotRunnable, plan
from inference.models import ExpertRun, ExpertState, ModelStatus, ModelVersion, PanelRun, PanelState
from inference.registry.models import panel_specs, panel_versions
from inference.registry.standing import role_on
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.models import Job, JobState

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["convene", "enqueue_conclusion", "give_up", "job_priority", "overall_deadline"]

NO_PANEL = "no-panel"
NO_PANEL_MESSAGE = (
    "No panel of models could be convened over this study. Those who run the service see why; a person can outline the "
    "tumour, or the study is prepared again."
)
RUN_JOB = "inference.run_expert"
CONCLUDE_JOB = "inference.conclude_panel"
ENDED_WITHOUT_A_RESULT = (PanelState.CANCELLED, PanelState.FAILED)
_PRIORITY = {OrderPriority.STAT: 20, OrderPriority.ASAP: 10}


def job_priority(study: Study) -> int:
    """Priority of the study's jobs on the gpu queue, by its order: STAT 20, ASAP 10, else 0. Higher runs earlier."""
    return _PRIORITY.get(OrderPriority(study.order.priority), 0) if study.order else 0


def overall_deadline(experts: int) -> timedelta:
    """How long a panel may take until it is concluded without those who have not answered: they run one by one."""
    return timedelta(seconds=float(settings.ONCOFLOW_EXPERT_DEADLINE_S) * max(1, experts) + 300.0)


def convene(ctx: JobContext, study: Study, *, after: str = "") -> None:
    """Make the panel of the study's newest volumes and its expert runs, each with a job on the gpu queue.

    Does nothing when the study is not ready (a late instance came in) or its panel exists already.

    :param after: id of a cancelled or failed panel of these volumes that a person wants run again.
    """
    volume_set = latest_volume_set(study)
    if study.state != StudyState.READY or volume_set is None:
        return
    versions = panel_versions()
    present = list(volume_set.volumes.values_list("sequence", flat=True))
    priority = job_priority(study)
    with ctx.commit(done=True):
        Study.objects.select_for_update().get(pk=study.pk)
        last = PanelRun.objects.filter(volume_set=volume_set).order_by("-started_at", "-id").first()
        if last is not None and not (str(last.pk) == after and last.state in ENDED_WITHOUT_A_RESULT):
            return
        panel = PanelRun.objects.create(volume_set=volume_set, study=study, thresholds=dict(settings.ONCOFLOW_GATE))
        runs = []
        for spec in panel_specs():
            version = versions.get(str(spec["name"]))
            if version is not None and version.status == ModelStatus.DISABLED:
                continue
            run = _expert_run(panel, spec, version, present)
            if run.state == ExpertState.NOT_RUN:
                continue
            runs.append(run)
            enqueue(
                RUN_JOB,
                subject=study.subject,
                key=f"expert:{run.pk}",
                kwargs={"expert_run_id": str(run.pk)},
                priority=priority,
            )
        clear_findings(study, NO_PANEL, by="panel")
        failpoints.hit("inference.convene_commit")
        # Concludes also when an expert's job is lost for good: nobody waits for a panel for ever.
        enqueue(
            CONCLUDE_JOB,
            subject=study.subject,
            key=f"panel:{panel.pk}:deadline",
            kwargs={"panel_run_id": str(panel.pk)},
            run_after=now() + overall_deadline(len(runs)),
            priority=priority + 1,
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


def give_up(job: Job, *, study_id: str) -> None:
    """The job that convenes it ended for good: the study says that no model looked at it."""
    study = Study.objects.get(pk=study_id)
    volume_set = latest_volume_set(study)
    if study.state == StudyState.READY and not PanelRun.objects.filter(volume_set=volume_set).exists():
        raise_finding(study, NO_PANEL, NO_PANEL_MESSAGE, severity=FindingSeverity.WARNING, by="panel")


def _expert_run(
    panel: PanelRun, spec: Mapping[str, Any], version: ModelVersion | None, present: Collection[str]
) -> ExpertRun:
    """The expert's part: waiting for its turn with what it is given, or not run, with what it needs."""
    run = {"panel_run": panel, "expert": str(spec["name"]), "model_version": version}
    try:
        planned = plan(present, str(spec["kind"]), version.evaluation if version else {}, spec.get("needs"))
    except NotRunnable as error:
        return ExpertRun.objects.create(
            **run, state=ExpertState.NOT_RUN, error=str(error)[:500], finished_at=now(), role=ModelStatus.ADVISER
        )
    whole = set(planned.sequences) == set(PANEL_SEQUENCES)
    return ExpertRun.objects.create(
        **run,
        sequences=[] if whole else list(planned.sequences),
        role=role_on(version, planned.sequences) if version is not None else ModelStatus.ADVISER,
    )


def still_to_conclude(panel: PanelRun) -> QuerySet[Job]:
    """Jobs that will conclude the panel: the one that its last expert asked for, and the reminder of its deadline."""
    keys = [f"panel:{panel.pk}:conclude", f"panel:{panel.pk}:deadline"]
    return Job.objects.filter(idempotency_key__in=keys, state__in=(JobState.WAITING, JobState.RUNNING))


def enqueue_conclusion(panel: PanelRun) -> None:
    """Have the panel concluded, once, however many experts ask for it. Inside a transaction."""
    enqueue(
        CONCLUDE_JOB,
        subject=f"study:{panel.study_id}",
        key=f"panel:{panel.pk}:conclude",
        kwargs={"panel_run_id": str(panel.pk)},
        # Before the experts of equally urgent studies: what is nearly done is finished first.
        priority=job_priority(panel.study) + 1,
    )
