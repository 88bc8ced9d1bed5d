"""Reading a panel: which one counts for a study, and its summary for reports and pages. No arrays, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.models import PanelRun, PanelState

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


def panel_summary(panel_run: PanelRun) -> dict[str, Any]:
    """What a report or a page tells about a panel (JSON-able).

    Keys: ``state``; ``experts`` (name, version, sha256, architecture, role, state, sequences (what it was given, where some
    are missing), runtime_s, device, environment, dice_vs_consensus and volume_mm3 per region, error, notes, findings; None
    where not computed); ``fusion``; ``agreement`` (a, region, pairwise); ``gate`` (band, a, region, reasons);
    ``thresholds``; ``demo``. Volumes are None where the spacing is not known. A finding is ``text``,
    ``confidence`` and ``slice_z``: what an expert said in words, verified by nobody.
    """
    per_expert: dict[str, Any] = panel_run.agreement.get("experts", {})
    experts = []
    for run in panel_run.expert_runs.select_related("model_version").order_by("expert"):
        version = run.model_version
        numbers = per_expert.get(run.expert, {})
        experts.append(
            {
                "name": run.expert,
                "version": version.version if version else None,
                "sha256": version.sha256 if version else None,
                "architecture": version.architecture if version else None,
                "role": run.role,
                "state": run.state,
                "sequences": list(run.sequences),
                "runtime_s": run.runtime_s,
                "device": run.device,
                "environment": dict(run.environment),
                "dice_vs_consensus": numbers.get("dice_vs_consensus"),
                "hd95_mm": numbers.get("hd95_mm"),
                "volume_mm3": numbers.get("volume_mm3"),
                "error": run.error,
                "notes": list(run.notes),
                "findings": list(run.findings),
            }
        )
    agreement = panel_run.agreement
    gate = panel_run.gate
    return {
        "panel_run_id": str(panel_run.pk),
        "state": panel_run.state,
        "experts": experts,
        "fusion": panel_run.fusion,
        "agreement": {
            "a": agreement.get("a"),
            "region": agreement.get("region"),
            "pairwise": agreement.get("pairwise", []),
        },
        "gate": {
            "band": panel_run.band,
            "a": gate.get("a"),
            "region": gate.get("region"),
            "reasons": list(gate.get("reasons", panel_run.reasons)),
        },
        "thresholds": dict(panel_run.thresholds),
        "demo": panel_run.demo,
    }
