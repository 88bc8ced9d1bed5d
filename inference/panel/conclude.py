"""Concluding a panel: fusion, agreement, gate; the consensus becomes a Segmentation and the band decides what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from django.conf import settings

from audit import services as audit
from imaging.volumes.load import assessable_of, load_volumes
from inference.domain_shift import distribution
from inference.events import PANEL_CONCLUDED, PANEL_MANUAL
from inference.fusion.agreement import Agreement, measure_agreement
from inference.fusion.arguments import fusion_arguments, island_limits
from inference.fusion.fuse import Fused, fuse, masks_of
from inference.fusion.gate import decide
from inference.models import (
    EXPERT_MACHINE,
    PANEL_MACHINE,
    Band,
    ExpertRun,
    ExpertState,
    ModelStatus,
    PanelRun,
)
from inference.panel.consensus import (
    fused_outline,
    keep_consensus,
    panel_agreement,
    probabilities_of,
    write_consensus,
)
from inference.panel.convene import overall_deadline, still_to_conclude
from inference.panel.volume_checks import checks_of
from inference.schemas.checks import CheckedVolumes
from inference.schemas.gate import GateDecision
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.models import JobState

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext
    from oncoflow_site.foundation.models import Job

__all__ = ["conclude", "give_up"]


def conclude(ctx: JobContext, panel: PanelRun) -> None:
    """running -> concluded with a consensus (event panel.concluded, and panel.manual in the lowest band), or failed.

    Returns when experts are still at work and the panel's time is not up, or when it is over already.
    """
    if panel.state in PANEL_MACHINE.terminal:
        return
    runs = list(panel.expert_runs.select_related("segmentation__probability", "model_version").order_by("expert"))
    unfinished = [run for run in runs if run.state not in EXPERT_MACHINE.terminal]
    if unfinished and panel.started_at + overall_deadline(len(runs)) > now():
        return
    done = [run for run in runs if run.state == ExpertState.DONE]
    if not done:
        _fail(ctx, panel, runs, unfinished)
        return
    ctx.progress(0.1, "Reading the experts' outlines")
    answers = {run.expert: probabilities_of(run) for run in done}
    loaded = load_volumes(panel.study, volume_set=panel.volume_set)
    spacing = loaded.grid.spacing_zyx()
    voters = [run.expert for run in done if run.role == ModelStatus.VOTER]
    advisers = [run.expert for run in done if run.role != ModelStatus.VOTER]
    ctx.progress(0.3, "Fusing the outlines")
    fused = fuse(
        {name: answers[name] for name in voters or advisers},
        **fusion_arguments(str(settings.ONCOFLOW_FUSION), voters or advisers, done),
        least_voxels=island_limits(voters or advisers, done, spacing),
    )
    ctx.progress(0.5, "Measuring agreement")
    agreement = measure_agreement(
        {name: masks_of(answer) for name, answer in answers.items()}, fused.masks, spacing, distances=True
    )
    what = assessable_of(panel.volume_set)
    checks = checks_of(ctx, panel.volume_set, loaded)
    flags = [
        *([what.short] if what.reduced else []),
        *(_no_answer(run) for run in runs if run not in done),
        *checks.flags,
        *_unlike([run for run in done if run.expert in (voters or advisers)], checks),
    ]
    thresholds = {name: float(value) for name, value in settings.ONCOFLOW_GATE.items()}
    decision = decide(agreement, voters, advisers, thresholds, flags)
    ctx.progress(0.9, "Storing the consensus")
    failpoints.hit("inference.concluded_computed")
    _store(ctx, panel, done, unfinished, fused, agreement, decision, thresholds, loaded.spacing_known)


def _no_answer(run: ExpertRun) -> str:
    if run.state == ExpertState.NOT_RUN:
        return f"expert {run.expert} was not run: {run.error}"
    return f"expert {run.expert} gave no answer: {run.error or 'not in time'}"


def _unlike(runs: list[ExpertRun], checks: CheckedVolumes) -> list[str]:
    """A sentence for each different distribution of the models whose consensus this is that the study lies outside of."""
    if checks.features is None:
        return []
    known = {
        run.expert: one
        for run in runs
        if run.model_version and (one := distribution.from_json(run.model_version.distribution)) is not None
    }
    values = np.asarray(checks.features, np.float64)
    found: dict[str, list[str]] = {}
    for expert, one in known.items():
        judged = one.judge(checks.sequences, values)
        if judged is not None and judged.outside:
            found.setdefault(judged.sentence(), []).append(expert)
    return [f"{', '.join(names)}: {told}" for told, names in found.items()]


def _store(
    ctx: JobContext,
    panel: PanelRun,
    done: list[ExpertRun],
    unfinished: list[ExpertRun],
    fused: Fused,
    agreement: Agreement,
    decision: GateDecision,
    thresholds: dict[str, float],
    spacing_known: bool,
) -> None:
    study = panel.study
    written = write_consensus(panel, fused)
    with ctx.commit(done=True):
        _end_unfinished(unfinished)
        consensus = keep_consensus(
            panel,
            written,
            author="panel",
            model=fused_outline(fused, done, decision.band),
            reason=f"consensus of panel {panel.pk}",
        )
        moved = PANEL_MACHINE.apply(
            PanelRun.objects.filter(pk=panel.pk),
            "conclude",
            fusion=fused.method,
            agreement=panel_agreement(agreement, decision, fused, spacing_known=spacing_known),
            gate=decision.rounded(),
            band=Band(decision.band),
            consensus=consensus,
            disagreement=written.disagreement,
            thresholds=thresholds,
            reasons=decision.reasons,
            demo=any(run.model_version.demo_only for run in done if run.model_version is not None),
            concluded_at=now(),
        )
        if not moved:
            raise PermanentError(f"panel {panel.pk} was concluded by somebody else")
        emit(PANEL_CONCLUDED, subject=study.subject, study_id=str(study.pk), panel_run_id=str(panel.pk))
        if decision.band == Band.MANUAL:
            emit(PANEL_MANUAL, subject=study.subject, study_id=str(study.pk), panel_run_id=str(panel.pk))
        audit.record(
            "panel.conclude",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"panel": str(panel.pk), "band": decision.band, "segmentation": str(consensus.pk)},
            source="worker",
        )
        failpoints.hit("inference.conclude_commit")


def _fail(ctx: JobContext, panel: PanelRun, runs: list[ExpertRun], unfinished: list[ExpertRun]) -> None:
    """No expert answered: the panel has failed and a person has to outline the tumour."""
    reason = "No expert gave an answer: a person's segmentation is required."
    not_run = [_no_answer(run) for run in runs if run.state == ExpertState.NOT_RUN]
    with ctx.commit(done=True):
        _end_unfinished(unfinished)
        _fail_panel(panel, (reason, *not_run))


def give_up(job: Job, *, panel_run_id: str) -> None:
    """The job that concludes it ended for good: the panel has failed. A person outlines the tumour, or has it run again."""
    panel = PanelRun.objects.select_related("study").get(pk=panel_run_id)
    if job.state == JobState.CANCELLED and still_to_conclude(panel).exclude(pk=job.pk).exists():
        return
    _end_unfinished(list(panel.expert_runs.all()))
    _fail_panel(panel, ("The panel could not be concluded: a person's segmentation is required, or it is run again.",))


def _fail_panel(panel: PanelRun, reasons: tuple[str, ...]) -> None:
    """waiting or running -> failed (event panel.manual); nothing where it is over already. Inside a transaction."""
    study = panel.study
    gate = GateDecision(band="manual", a=None, region=None, reasons=reasons)
    rows = PanelRun.objects.filter(pk=panel.pk)
    if not PANEL_MACHINE.apply(rows, "fail", band=Band.MANUAL, gate=gate, reasons=reasons, concluded_at=now()):
        return
    emit(PANEL_MANUAL, subject=study.subject, study_id=str(study.pk), panel_run_id=str(panel.pk))
    audit.record(
        "panel.fail",
        action="U",
        resource=study.subject,
        patient_id=study.patient_id,
        outcome=8,
        detail={"panel": str(panel.pk)},
        source="worker",
    )


def _end_unfinished(unfinished: list[ExpertRun]) -> None:
    rows = ExpertRun.objects.filter(pk__in=[run.pk for run in unfinished])
    EXPERT_MACHINE.apply(rows, "fail", error="The expert did not answer in time.", finished_at=now())
