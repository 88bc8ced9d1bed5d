"""A person's choice of experts and fusion for one study: fused anew from the stored probabilities, no model runs again.

The choice becomes the panel's consensus, as a new version. It may lower the gate's band and never raises it above the
automatic one: who looks long enough for a fusion under which the experts agree has not made them agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from django.db import transaction

from audit import services as audit
from imaging.brats.regions import REGIONS
from imaging.schemas.outline import GateBand
from imaging.volumes.load import grid_of, latest_volume_set
from inference.events import CONSENSUS_CHOSEN, PANEL_MANUAL
from inference.fusion.agreement import Overlap, measure_agreement
from inference.fusion.arguments import fusion_arguments, island_limits
from inference.fusion.fuse import METHODS, Fused, fuse, masks_of
from inference.fusion.gate import BANDS, decide
from inference.models import (
    FUSION_CHOICE_MACHINE,
    Band,
    ExpertRun,
    ExpertState,
    FusionChoice,
    FusionChoiceState,
    ModelStatus,
    PanelRun,
    PanelState,
)
from inference.panel.consensus import (
    fused_outline,
    keep_consensus,
    panel_agreement,
    probabilities_of,
    write_consensus,
)
from inference.schemas.agreement import ByRegion, FusionMethodResult, PanelAgreement
from inference.schemas.gate import GateDecision
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import PermanentError, UserVisibleError
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import enqueue

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext
    from oncoflow_site.foundation.models import Job

__all__ = ["choose_fusion", "compare_methods", "fuse_chosen", "stricter"]

FUSE_JOB = "inference.fuse_chosen"
STAPLE_NEEDS = 3


def stricter(one: str, other: str) -> GateBand:
    """The less trusting of two bands."""
    return next(band for band in reversed(BANDS) if band in (one, other))


def compare_methods(
    panel: PanelRun, runs: Sequence[ExpertRun], tell: Callable[[float], None] = lambda part: None
) -> dict[str, FusionMethodResult]:
    """Every fusion method over the experts that the panel fused. Volumes are None where the spacing is not known."""
    voters = [run.expert for run in runs if run.role == ModelStatus.VOTER]
    names = voters or [run.expert for run in runs]
    answers = {run.expert: probabilities_of(run) for run in runs}
    masks = {name: masks_of(answer) for name, answer in answers.items()}
    spacing = grid_of(panel.volume_set).spacing_zyx()
    least = island_limits(names, runs, spacing)
    fused: dict[str, Fused] = {}
    found: dict[str, FusionMethodResult] = {}
    for number, method in enumerate(METHODS):
        tell(number / len(METHODS))
        if refused := _cannot(method, names, runs):
            found[method] = FusionMethodResult(why_not=refused)
            continue
        fused[method] = fuse(
            {name: answers[name] for name in names}, **fusion_arguments(method, names, runs), least_voxels=least
        )
        measured = measure_agreement(masks, fused[method].masks, spacing, distances=False)
        volumes = measured.volume_mm3["consensus"]
        found[method] = FusionMethodResult(
            experts=tuple(sorted(names)),
            volume_mm3={
                r: round(volumes[r], 1) if panel.study.spacing_known else None for r in REGIONS if r in volumes
            },
            dice={name: _dice(regions) for name, regions in measured.vs_consensus.items()},
        )
    if panel.fusion in fused:
        used = measure_agreement({m: one.masks for m, one in fused.items()}, fused[panel.fusion].masks, spacing, False)
        for method, regions in used.vs_consensus.items():
            found[method] = found[method].model_copy(update={"dice_vs_consensus": _dice(regions)})
    return found


def _dice(regions: Mapping[str, Overlap]) -> ByRegion:
    return {r: round(regions[r].dice, 4) for r in REGIONS if r in regions}


def _cannot(method: str, names: Sequence[str], runs: Sequence[ExpertRun]) -> str:
    """Why these experts cannot be fused that way; empty where they can."""
    if method == "staple" and len(names) < STAPLE_NEEDS:
        return "STAPLE needs three experts."
    if method == "weighted" and fusion_arguments(method, names, runs)["method"] != method:
        return "Not every expert has a weight: none was evaluated or reviewed."
    return ""


def choose_fusion(
    panel: PanelRun, *, experts: Sequence[str], method: str, who: str, why: str
) -> tuple[FusionChoice, Job]:
    """Record the choice and have it computed. Inside no transaction of the caller's.

    :param experts: names of experts of this panel that answered. :param method: one of `fusion.METHODS`.
    :raises UserVisibleError: anything about the request that cannot be done, with a code.
    """
    runs = [run for run in _done(panel) if run.expert in experts]
    answered = {run.expert for run in runs}
    if panel.state != PanelState.CONCLUDED:
        raise UserVisibleError(
            "This panel has no consensus.", what_to_do="Wait for it, or run it again.", code="no-consensus"
        )
    if latest_volume_set(panel.study) != panel.volume_set:
        raise UserVisibleError(
            "This study was prepared again since.", what_to_do="Wait for its panel.", code="old-panel"
        )
    if not why.strip():
        raise UserVisibleError("Another fusion needs a reason.", what_to_do="Say why.", code="no-reason")
    if method not in METHODS:
        raise UserVisibleError(f"The method is one of {', '.join(METHODS)}.", code="method")
    unknown = sorted(set(experts) - answered)
    if unknown or not answered:
        raise UserVisibleError(
            f"No answer of {', '.join(unknown)} can be fused." if unknown else "No expert was chosen.",
            what_to_do="Choose among the experts that answered.",
            code="experts",
        )
    if refused := _cannot(method, sorted(answered), runs):
        raise UserVisibleError(refused, what_to_do="Choose another method.", code="method")
    study = panel.study
    with transaction.atomic():
        choice = FusionChoice.objects.create(
            panel_run=panel, experts=sorted(answered), method=method, who=who[:150], why=why.strip()[:300]
        )
        job = enqueue(
            FUSE_JOB, subject=study.subject, key=f"fuse:{choice.pk}", kwargs={"choice_id": str(choice.pk)}, priority=30
        )
        audit.record(
            "panel.fuse",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"panel": str(panel.pk), "choice": str(choice.pk), "method": method, "experts": sorted(answered)},
        )
    return choice, job


def fuse_chosen(ctx: JobContext, choice: FusionChoice) -> None:
    """waiting -> done with a consensus version that is the panel's from now on (event consensus.chosen). Safe to repeat."""
    panel = choice.panel_run
    if choice.state != FusionChoiceState.WAITING or panel.state != PanelState.CONCLUDED:
        return
    runs = _done(panel)
    ctx.progress(0.1, "Reading the experts' outlines")
    answers = {run.expert: probabilities_of(run) for run in runs}
    if not set(choice.experts) <= answers.keys():
        raise PermanentError(f"fusion choice {choice.pk}: an expert's answer is gone")
    ctx.progress(0.3, "Fusing the outlines")
    spacing = grid_of(panel.volume_set).spacing_zyx()
    arguments = fusion_arguments(choice.method, choice.experts, runs)
    least = island_limits(choice.experts, runs, spacing)
    fused = fuse({name: answers[name] for name in choice.experts}, **arguments, least_voxels=least)
    ctx.progress(0.5, "Measuring agreement")
    masks = {name: masks_of(answer) for name, answer in answers.items()}
    agreement = measure_agreement(masks, fused.masks, spacing, distances=True)
    # A voter that was left out cannot raise the band any more, but like an adviser it can lower it.
    voters = [run.expert for run in runs if run.role == ModelStatus.VOTER and run.expert in choice.experts]
    decision = decide(agreement, voters, [name for name in answers if name not in voters], panel.thresholds)
    ctx.progress(0.9, "Storing the consensus")
    failpoints.hit("inference.chosen_computed")
    known = panel.study.spacing_known
    _store(ctx, choice, fused, decision, panel_agreement(agreement, decision, fused, spacing_known=known))


def _store(
    ctx: JobContext, choice: FusionChoice, fused: Fused, decision: GateDecision, agreement: PanelAgreement
) -> None:
    written = write_consensus(choice.panel_run, fused)
    with ctx.commit(done=True):
        panel = PanelRun.objects.select_for_update().get(pk=choice.panel_run_id)
        study = panel.study
        automatic = _automatic(panel)
        band = stricter(automatic.band, decision.band)
        chose = f"{choice.who} chose {fused.method} of {', '.join(choice.experts)}."
        reasons = (*decision.reasons, chose)
        if band != decision.band:
            earlier = automatic.gate.reasons if automatic.gate else ()
            reasons = ("A chosen fusion is trusted no more than the automatic one.", *earlier, *reasons)
        made = keep_consensus(
            panel,
            written,
            author=choice.who,
            model=fused_outline(
                fused, [run for run in _done(panel) if run.expert in choice.experts], band, chosen_by=choice.who
            ),
            parent=automatic.segmentation,
            reason=choice.why,
        )
        gate = decision.rounded().model_copy(update={"band": band, "reasons": reasons})
        FUSION_CHOICE_MACHINE.advance(
            choice,
            "finish",
            segmentation=made,
            agreement=agreement,
            gate=gate,
            band=Band(band),
            done_at=now(),
        )
        was_manual = panel.band == Band.MANUAL
        PanelRun.objects.filter(pk=panel.pk).update(
            fusion=fused.method,
            agreement=agreement,
            gate=gate,
            band=Band(band),
            reasons=reasons,
            consensus=made,
            disagreement=written.disagreement,
        )
        ids = {"study_id": str(study.pk), "panel_run_id": str(panel.pk)}
        emit(CONSENSUS_CHOSEN, subject=study.subject, segmentation_id=str(made.pk), **ids)
        if band == Band.MANUAL and not was_manual:
            emit(PANEL_MANUAL, subject=study.subject, **ids)
        audit.record(
            "panel.fused",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"panel": str(panel.pk), "choice": str(choice.pk), "band": band, "segmentation": str(made.pk)},
            source="worker",
        )
        failpoints.hit("inference.chosen_commit")


def give_up(job: Job, *, choice_id: str) -> None:
    """The job that computes it ended for good: the choice has failed, the panel keeps the consensus that it has."""
    FUSION_CHOICE_MACHINE.apply(
        FusionChoice.objects.filter(pk=choice_id), "fail", error=job.error[:500] or "It was stopped.", done_at=now()
    )


def _automatic(panel: PanelRun) -> FusionChoice:
    """What the panel concluded by itself, kept before the first choice of a person takes its place."""
    made, _ = FusionChoice.objects.get_or_create(
        panel_run=panel,
        automatic=True,
        defaults={
            "experts": sorted(run.expert for run in _fused_by_itself(panel)),
            "method": panel.fusion,
            "who": "panel",
            "why": "automatic",
            "state": FusionChoiceState.DONE,
            "segmentation": panel.consensus,
            "agreement": panel.agreement,
            "gate": panel.gate,
            "band": panel.band,
            "at": panel.concluded_at or now(),
            "done_at": panel.concluded_at or now(),
        },
    )
    return made


def _fused_by_itself(panel: PanelRun) -> list[ExpertRun]:
    runs = _done(panel)
    return [run for run in runs if run.role == ModelStatus.VOTER] or runs


def _done(panel: PanelRun) -> list[ExpertRun]:
    runs = panel.expert_runs.filter(state=ExpertState.DONE).order_by("expert")
    return list(runs.select_related("model_version", "segmentation__probability"))
