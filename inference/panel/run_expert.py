"""One expert's part: the volumes go to the supervisor, the answer becomes a Segmentation, or the run says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from django.conf import settings
from django.db.models import QuerySet
from numpy.typing import NDArray

from audit import services as audit
from clinical.orders import cleaned_reason
from imaging.brats.assessability import assessable
from imaging.brats.regions import labels_inner_wins
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.models import SegmentationKind
from imaging.schemas.outline import ModelOutline
from imaging.segmentation.label_maps import save_segmentation, write_labels
from imaging.segmentation.probability_maps import encode_probability
from imaging.volumes.load import grid_of, load_volumes
from inference.experts.contract import ExpertOutput, Volumes, VolumesOnDemand
from inference.experts.errors import ExpertError
from inference.models import EXPERT_MACHINE, PANEL_MACHINE, ExpertRun, ModelVersion, PanelRun
from inference.panel.convene import enqueue_conclusion, job_priority
from inference.registry.standing import role_on
from inference.schemas.panel import ExpertRemark
from inference.supervisor.client import ExpertUnavailable, SupervisorClient, read_key
from oncoflow_site.foundation import failpoints
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import LostLease, PermanentError, TransientError, UserVisibleError, safe_error_text

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext
    from oncoflow_site.foundation.models import Job

__all__ = ["fail_run", "give_up", "run_expert"]


def run_expert(ctx: JobContext, run: ExpertRun) -> None:
    """waiting -> done with a segmentation, or failed with a reason; the last one to end has the panel concluded.

    :raises TransientError: the supervisor cannot be reached; tried again until the attempts are used up.
    """
    if run.state in EXPERT_MACHINE.terminal:
        with ctx.commit(done=True):
            _conclude_if_last(run)
        return
    with ctx.commit():
        if not EXPERT_MACHINE.apply(_row(run), "start", started_at=now()):
            raise _over(run)
        run.refresh_from_db()
        PANEL_MACHINE.apply(PanelRun.objects.filter(pk=run.panel_run_id), "start")
    try:
        output = _ask(ctx, run)
        failpoints.hit("inference.expert_answered")
        ctx.progress(0.95, "Storing the outline")
        _store(ctx, run, output)
    except LostLease:
        raise
    except ExpertUnavailable as error:
        if ctx.job.attempts < ctx.job.max_attempts:
            raise TransientError(f"the inference supervisor is not available: {error}") from error
        fail_run(ctx, run, f"The expert could not be reached: {error}")
    except (ExpertError, PermanentError, UserVisibleError) as error:
        fail_run(ctx, run, str(error))
    except Exception as error:
        if ctx.job.attempts < ctx.job.max_attempts:
            raise
        fail_run(ctx, run, f"The expert's run failed: {safe_error_text(error)}")


def fail_run(ctx: JobContext, run: ExpertRun, reason: str) -> None:
    """End the run without an answer; the panel goes on with the others."""
    with ctx.commit(done=True):
        if not EXPERT_MACHINE.apply(_row(run), "fail", error=reason[:500], finished_at=now()):
            raise _over(run)
        run.refresh_from_db()
        _record_failure(run)
        _conclude_if_last(run)


def _ask(ctx: JobContext, run: ExpertRun) -> ExpertOutput:
    panel = run.panel_run
    given = run.sequences or PANEL_SEQUENCES
    there = set(panel.volume_set.volumes.values_list("sequence", flat=True))
    missing = [name for name in given if name not in there]
    if missing:
        raise PermanentError(f"the volumes lack {', '.join(missing)}")

    def load() -> Volumes:
        loaded = load_volumes(panel.study, volume_set=panel.volume_set)
        images = {name: loaded.images[name] for name in given}
        return Volumes(images, loaded.grid.spacing_zyx(), loaded.brain_mask)

    grid = grid_of(panel.volume_set)
    reason = cleaned_reason(panel.study.order) if panel.study.order else ""
    volumes = VolumesOnDemand(tuple(given), grid.spacing_zyx(), grid.shape_zyx, load, reason)
    client = SupervisorClient(settings.ONCOFLOW_SUPERVISOR_ADDRESS, read_key(settings.ONCOFLOW_SUPERVISOR_KEY))
    ctx.progress(0.05, f"{run.expert} is waiting for its turn")
    return client.run(
        run.expert,
        volumes,
        key=str(panel.volume_set_id),
        priority=job_priority(panel.study),
        deadline_s=float(settings.ONCOFLOW_EXPERT_DEADLINE_S),
        on_progress=lambda fraction, text: ctx.progress(0.05 + 0.9 * fraction, f"{run.expert}: {text}"),
    )


def _store(ctx: JobContext, run: ExpertRun, output: ExpertOutput) -> None:
    panel = run.panel_run
    # A network answers for every region; what its sequences do not show is not kept, so that nothing can be made of it.
    shown = assessable(run.sequences or PANEL_SEQUENCES)
    probabilities: dict[str, NDArray[np.float16]] = {region: output.probabilities[region] for region in shown.regions}
    labels = labels_inner_wins({region: found >= 0.5 for region, found in probabilities.items()})
    probability = encode_probability(probabilities)
    version = ModelVersion.objects.filter(name=output.model.name, sha256=output.model.sha256).first()
    notes = list(output.notes)
    if run.model_version is not None and version != run.model_version:
        notes.append("Answered with other weights than those registered when the panel was convened.")
    written = write_labels(
        panel.study, panel.volume_set, labels, probability=probability, not_assessed=shown.not_assessed
    )
    with ctx.commit(done=True):
        segmentation = save_segmentation(
            panel.study,
            written,
            kind=SegmentationKind.EXPERT,
            author=run.expert,
            model=ModelOutline(
                name=output.model.name,
                version=output.model.version,
                sha256=output.model.sha256,
                architecture=output.model.architecture,
            ),
            reason=f"expert of panel {panel.pk}",
        )
        fields = {
            "segmentation": segmentation,
            "runtime_s": round(float(output.runtime_s), 3),
            "device": output.device[:100],
            "notes": tuple(notes),
            "environment": dict(output.environment),
            "findings": tuple(
                ExpertRemark(text=one.text, confidence=one.confidence, slice_z=one.slice_z) for one in output.findings
            ),
            "error": "",
            "finished_at": now(),
        }
        if version is not None:
            # The vote goes with the weights that answered, not with those that were expected to.
            fields |= {"model_version": version, "role": role_on(version, run.sequences or PANEL_SEQUENCES)}
        if not EXPERT_MACHINE.apply(_row(run), "finish", **fields):
            raise _over(run)
        run.refresh_from_db()
        audit.record(
            "expert.finish",
            action="C",
            resource=f"study:{panel.study_id}",
            patient_id=panel.study.patient_id,
            detail={"expert": run.expert, "segmentation": str(segmentation.pk)},
            source="worker",
        )
        failpoints.hit("inference.expert_commit")
        _conclude_if_last(run)


def _row(run: ExpertRun) -> QuerySet[ExpertRun]:
    return ExpertRun.objects.filter(pk=run.pk)


def _over(run: ExpertRun) -> LostLease:
    """Somebody else has ended the run."""
    return LostLease(f"expert run {run.pk} has ended already")


def give_up(job: Job, *, expert_run_id: str) -> None:
    """The job that runs it ended for good: the expert gives no answer, and the panel goes on with the others."""
    run = ExpertRun.objects.select_related("panel_run__study").get(pk=expert_run_id)
    if EXPERT_MACHINE.apply(_row(run), "fail", error="The expert's run failed for good.", finished_at=now()):
        _record_failure(run)
        _conclude_if_last(run)


def _record_failure(run: ExpertRun) -> None:
    audit.record(
        "expert.fail",
        action="U",
        resource=f"study:{run.panel_run.study_id}",
        patient_id=run.panel_run.study.patient_id,
        outcome=8,
        detail={"expert": run.expert, "panel": str(run.panel_run_id)},
        source="worker",
    )


def _conclude_if_last(run: ExpertRun) -> None:
    # The lock makes two experts that end at once see each other; without it each could take the other for running.
    panel = PanelRun.objects.select_for_update().get(pk=run.panel_run_id)
    if not panel.expert_runs.exclude(state__in=EXPERT_MACHINE.terminal).exists():
        enqueue_conclusion(panel)
