"""Evaluation rows: every expert and the consensus against the consensus, and against a person's outline once there is one.

Each row is one outline, one reference and one region, on the grid of one volume set. A reference is never compared with
outlines of other volumes: after a late series there is another panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from audit import services as audit
from imaging.brats.regions import REGIONS, Region, region_masks
from imaging.models import Segmentation, SegmentationKind
from imaging.segmentation.label_maps import assessed_regions, load_labels
from imaging.volumes.load import assessable_of, grid_of
from inference.fusion.agreement import overlap
from inference.models import CaseEvaluation, ExpertRun, ExpertState, PanelRun, PanelState, ReferenceKind
from inference.panel.choose_fusion import compare_methods
from inference.quality.drift import propose_demotion
from inference.schemas.agreement import NOTHING

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["CONSENSUS", "evaluate_against_review", "evaluate_panel"]

CONSENSUS = "consensus"


def evaluate_panel(ctx: JobContext, panel: PanelRun) -> None:
    """Rows of every expert against the panel's consensus, from what its conclusion measured; and the comparison of all
    fusion methods. Does nothing for a panel without a consensus. Safe to run twice."""
    if panel.state != PanelState.CONCLUDED or panel.consensus is None:
        return
    runs = _done(panel)
    ctx.progress(0.1, "Comparing the ways to fuse")
    methods = panel.methods or compare_methods(panel, runs, lambda part: ctx.progress(0.1 + 0.8 * part, "Fusing"))
    agreement = panel.agreement
    # Old panels did not keep the consensus's own volumes; then the row says that it does not know.
    reference = agreement.consensus_mm3 if agreement else {}
    with ctx.commit(done=True):
        if not panel.methods:
            PanelRun.objects.filter(pk=panel.pk).update(methods=methods)
        for run in runs:
            own = agreement.of(run.expert) if agreement else NOTHING
            for region in REGIONS:
                dice, iou = own.dice_vs_consensus.get(region), own.iou_vs_consensus.get(region)
                if dice is None or iou is None:
                    continue  # this expert did not answer for the region
                _write(
                    panel,
                    run.expert,
                    run,
                    run.segmentation,
                    panel.consensus,
                    ReferenceKind.CONSENSUS,
                    region,
                    {
                        "dice": dice,
                        "iou": iou,
                        "hd95_mm": own.hd95_mm.get(region),
                        "volume_mm3": own.volume_mm3.get(region),
                        "reference_mm3": reference.get(region),
                    },
                )
        _record(panel, ReferenceKind.CONSENSUS, str(panel.consensus_id))


def evaluate_against_review(ctx: JobContext, reference: Segmentation) -> None:
    """Rows of every expert and of the consensus against a person's or an imported outline; then every voter among them is
    looked at (`watching`). Does nothing where no panel saw the same volumes. Safe to run twice."""
    if reference.kind not in (SegmentationKind.PERSON, SegmentationKind.IMPORT):
        return
    panel = PanelRun.objects.filter(volume_set=reference.volume_set, state=PanelState.CONCLUDED).first()
    if panel is None:
        return
    truth = region_masks(load_labels(reference))
    grid, known = grid_of(reference.volume_set), panel.study.spacing_known
    spacing = grid.spacing_zyx()
    voxel = grid.voxel_volume_mm3()
    runs = _done(panel)
    outlines: list[tuple[str, ExpertRun | None, Segmentation]] = [
        (run.expert, run, run.segmentation) for run in runs if run.segmentation is not None
    ]
    if panel.consensus is not None:
        outlines.append((CONSENSUS, None, panel.consensus))
    measured: list[tuple[str, ExpertRun | None, Segmentation, Region, dict[str, float | None]]] = []
    compared = panel.agreement.experts if panel.agreement else {}
    answered = {
        name: {region for region, dice in own.dice_vs_consensus.items() if dice is not None}
        for name, own in compared.items()
    }
    answered[CONSENSUS] = set(assessed_regions(panel.consensus)) if panel.consensus else set()
    for number, (name, run, outline) in enumerate(outlines):
        ctx.progress(number / len(outlines), f"Comparing {name} with the reviewed outline")
        masks = region_masks(load_labels(outline))
        for region in REGIONS:
            if region not in answered.get(name, ()) or region in reference.not_assessed:
                continue  # not assessed by one of the two, as where a sequence is missing
            found = overlap(masks[region], truth[region], spacing)
            millimetres: dict[str, float | None] = {
                "hd95_mm": found.hd95_mm,
                "volume_mm3": float(masks[region].sum()) * voxel,
                "reference_mm3": float(truth[region].sum()) * voxel,
            }
            numbers: dict[str, float | None] = {"dice": found.dice, "iou": found.iou}
            numbers |= millimetres if known else dict.fromkeys(millimetres)
            measured.append((name, run, outline, region, numbers))
    with ctx.commit(done=True):
        for name, run, outline, region, row in measured:
            _write(panel, name, run, outline, reference, ReferenceKind.REVIEWED, region, row)
        _record(panel, ReferenceKind.REVIEWED, str(reference.pk))
        for model in {run.model_version for run in runs if run.model_version is not None}:
            propose_demotion(model)


def _done(panel: PanelRun) -> list[ExpertRun]:
    runs = panel.expert_runs.filter(state=ExpertState.DONE).order_by("expert")
    return list(runs.select_related("model_version", "segmentation__probability", "segmentation__labels"))


def _write(
    panel: PanelRun,
    name: str,
    run: ExpertRun | None,
    outline: Segmentation | None,
    reference: Segmentation,
    kind: str,
    region: str,
    numbers: Mapping[str, float | None],
) -> None:
    if outline is None:
        return
    CaseEvaluation.objects.get_or_create(
        segmentation=outline,
        reference=reference,
        region=region,
        defaults={
            "study_id": panel.study_id,
            "panel_run": panel,
            "expert": name,
            "model_version": run.model_version if run else None,
            "reference_kind": kind,
            "runtime_s": run.runtime_s if run else None,
            "reduced": assessable_of(panel.volume_set).reduced,
            **numbers,
        },
    )


def _record(panel: PanelRun, kind: str, reference: str) -> None:
    audit.record(
        "panel.evaluate",
        action="C",
        resource=panel.study.subject,
        patient_id=panel.study.patient_id,
        detail={"panel": str(panel.pk), "against": kind, "segmentation": reference},
        source="worker",
    )
