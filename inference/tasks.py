"""Background entry points of the inference room. Each re-reads its rows, checks their state and may run twice.

The conclusion and the supervisor's client need neither torch nor a GPU, but their jobs stand in the gpu queue: one panel
at a time, and nothing else waits behind it.
"""

from __future__ import annotations

from imaging.models import Study
from inference.models import ExpertRun, PanelRun
from oncoflow_site.foundation.jobs import JobContext, job

# What does the work is imported when it is done: most processes know these jobs by name only, and start sooner.

__all__ = ["conclude_panel", "convene_panel", "run_expert"]


@job("inference.convene_panel", queue="default")
def convene_panel(ctx: JobContext, *, study_id: str) -> None:
    """Before: study ready. After: a panel with one waiting run for each expert, each with its job."""
    from inference import convening

    convening.convene(ctx, Study.objects.get(pk=study_id))


@job("inference.run_expert", queue="gpu", max_attempts=8, lease_s=60, progress_deadline_s=900)
def run_expert(ctx: JobContext, *, expert_run_id: str) -> None:
    """Before: waiting. After: done with a segmentation, or failed with a reason."""
    runs = ExpertRun.objects.select_related("panel_run__study__patient", "panel_run__volume_set", "model_version")
    from inference import running

    running.run_expert(ctx, runs.get(pk=expert_run_id))


@job("inference.conclude_panel", queue="gpu", lease_s=120)
def conclude_panel(ctx: JobContext, *, panel_run_id: str) -> None:
    """Before: every expert has ended, or the panel's time is up. After: concluded (event panel.concluded) or failed."""
    panels = PanelRun.objects.select_related("study__patient", "volume_set")
    from inference import concluding

    concluding.conclude(ctx, panels.get(pk=panel_run_id))
