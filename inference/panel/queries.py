"""Reading a panel: which one counts for a study, and its summary for reports and pages. No arrays, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.models import PanelRun, PanelState
from inference.schemas.panel import AgreementSummary, ExpertSummary, GateSummary, PanelSummary

if TYPE_CHECKING:
    from imaging.models import Study

__all__ = ["latest_panel", "newest_panel", "panel_summary"]


def latest_panel(study: Study) -> PanelRun | None:
    """The panel over the study's newest volumes: the concluded one, else whatever there is; None without any."""
    panels = (
        PanelRun.objects.filter(study=study)
        .select_related("volume_set")
        .order_by("-volume_set__version", "-started_at")
    )
    return panels.filter(state=PanelState.CONCLUDED).first() or panels.first()


def newest_panel(study: Study) -> PanelRun | None:
    """The panel that was convened last over the newest volumes, whatever became of it."""
    panels = PanelRun.objects.filter(study=study).select_related("volume_set", "study")
    return panels.order_by("-volume_set__version", "-started_at").first()


def panel_summary(panel_run: PanelRun) -> PanelSummary:
    """What a report or a page tells about a panel."""
    agreement, gate = panel_run.agreement, panel_run.gate
    experts = []
    for run in panel_run.expert_runs.select_related("model_version").order_by("expert"):
        version = run.model_version
        numbers = agreement.experts.get(run.expert) if agreement else None
        experts.append(
            ExpertSummary(
                name=run.expert,
                version=version.version if version else None,
                sha256=version.sha256 if version else None,
                architecture=version.architecture if version else None,
                role=run.role,
                state=run.state,
                sequences=run.sequences,
                runtime_s=run.runtime_s,
                device=run.device,
                environment=run.environment,
                dice_vs_consensus=numbers.dice_vs_consensus if numbers else None,
                hd95_mm=numbers.hd95_mm if numbers else None,
                volume_mm3=numbers.volume_mm3 if numbers else None,
                error=run.error,
                notes=run.notes,
                findings=run.findings,
            )
        )
    return PanelSummary(
        panel_run_id=str(panel_run.pk),
        state=panel_run.state,
        experts=tuple(experts),
        fusion=panel_run.fusion,
        agreement=AgreementSummary(
            a=agreement.a if agreement else None,
            region=agreement.region if agreement else None,
            pairwise=agreement.pairwise if agreement else (),
        ),
        gate=GateSummary(
            band=panel_run.band,
            a=gate.a if gate else None,
            region=gate.region if gate else None,
            reasons=gate.reasons if gate else panel_run.reasons,
        ),
        thresholds=panel_run.thresholds,
        demo=panel_run.demo,
    )
