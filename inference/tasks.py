"""Background entry points of the inference room. Each re-reads its rows, checks their state and may run twice.

The conclusion and the supervisor's client need neither torch nor a GPU, but their jobs stand in the gpu queue: one panel
at a time, and nothing else waits behind it.
"""

from __future__ import annotations

from imaging.models import Segmentation, Study
from inference.models import ExpertRun, FusionChoice, PanelRun
from oncoflow_site.foundation.jobs import JobContext, job
from oncoflow_site.foundation.models import Job

# What does the work is imported when it is done: most processes know these jobs by name only, and start sooner.

__all__ = [
    "conclude_panel",
    "convene_panel",
    "evaluate_against_review",
    "evaluate_panel",
    "fuse_chosen",
    "run_expert",
]


def convening_failed(job: Job, *, study_id: str) -> None:
    """See `inference.panel.convene.give_up`."""
    from inference.panel import convene

    convene.give_up(job, study_id=study_id)


@job("inference.convene_panel", queue="default", on_dead=convening_failed)
def convene_panel(ctx: JobContext, *, study_id: str, after: str = "") -> None:
    """Before: study ready. After: a panel with one waiting run for each expert, each with its job.

    ``after``: the cancelled or failed panel that is to be run again.
    """
    from inference.panel import convene

    convene.convene(ctx, Study.objects.select_related("order", "patient").get(pk=study_id), after=after)


def panel_of(panel_run_id: str) -> str:
    """Lock of what a panel has concluded. Its experts need none: they run side by side."""
    return f"panel:{panel_run_id}"


def panel_of_choice(choice_id: str) -> str:
    """The same for a choice of its fusion."""
    return panel_of(str(FusionChoice.objects.values_list("panel_run_id", flat=True).get(pk=choice_id)))


def expert_failed(job: Job, *, expert_run_id: str) -> None:
    """See `inference.panel.run_expert.give_up`."""
    from inference.panel import run_expert

    run_expert.give_up(job, expert_run_id=expert_run_id)


def conclusion_failed(job: Job, *, panel_run_id: str) -> None:
    """See `inference.panel.conclude.give_up`."""
    from inference.panel import conclude

    conclude.give_up(job, panel_run_id=panel_run_id)


def choice_failed(job: Job, *, choice_id: str) -> None:
    """See `inference.panel.choose_fusion.give_up`."""
    from inference.panel import choose_fusion

    choose_fusion.give_up(job, choice_id=choice_id)


@job(
    "inference.run_expert",
    queue="gpu",
    max_attempts=8,
    lease_s=60,
    progress_deadline_s=900,
    on_dead=expert_failed,
)
def run_expert(ctx: JobContext, *, expert_run_id: str) -> None:
    """Before: waiting. After: done with a segmentation, or failed with a reason."""
    runs = ExpertRun.objects.select_related("panel_run__study__patient", "panel_run__volume_set", "model_version")
    from inference.panel import run_expert

    run_expert.run_expert(ctx, runs.get(pk=expert_run_id))


@job("inference.conclude_panel", queue="gpu", lease_s=120, locks=panel_of, on_dead=conclusion_failed)
def conclude_panel(ctx: JobContext, *, panel_run_id: str) -> None:
    """Before: every expert has ended, or the panel's time is up. After: concluded (event panel.concluded) or failed."""
    panels = PanelRun.objects.select_related("study__patient", "volume_set")
    from inference.panel import conclude

    conclude.conclude(ctx, panels.get(pk=panel_run_id))


@job("inference.fuse_chosen", queue="gpu", lease_s=120, locks=panel_of_choice, on_dead=choice_failed)
def fuse_chosen(ctx: JobContext, *, choice_id: str) -> None:
    """Before: a choice that waits. After: its consensus is the panel's (event consensus.chosen)."""
    choices = FusionChoice.objects.select_related("panel_run__study__patient", "panel_run__volume_set")
    from inference.panel import choose_fusion

    choose_fusion.fuse_chosen(ctx, choices.get(pk=choice_id))


@job("inference.evaluate_panel", queue="gpu", lease_s=120)
def evaluate_panel(ctx: JobContext, *, panel_run_id: str) -> None:
    """Before: a concluded panel. After: a row for each expert and region against the consensus; all fusions compared."""
    panels = PanelRun.objects.select_related("study__patient", "volume_set", "consensus")
    from inference.quality import case_evaluation

    case_evaluation.evaluate_panel(ctx, panels.get(pk=panel_run_id))


@job("inference.evaluate_against_review", queue="gpu", lease_s=120)
def evaluate_against_review(ctx: JobContext, *, segmentation_id: str) -> None:
    """Before: a person's outline in force. After: a row for each expert and region against it; voters are looked at."""
    outlines = Segmentation.objects.select_related("study", "volume_set", "labels")
    from inference.quality import case_evaluation

    case_evaluation.evaluate_against_review(ctx, outlines.get(pk=segmentation_id))
