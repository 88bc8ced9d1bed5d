"""The facts that a report is made from: measurement, comparison, panel, earlier studies."""

from __future__ import annotations

from typing import Literal

from django.conf import settings

from imaging.brats.regions import Region
from imaging.dicomweb.acquired import acquisition_of
from imaging.longitudinal.history import volume_history
from imaging.models import Comparison, Measurement, SegmentationKind
from imaging.schemas.comparison import ComparisonResult, VolumesAt
from imaging.schemas.measurement import RegionMeasurements
from imaging.schemas.outline import OutlineSource
from imaging.volumes.load import assessable_of
from inference.models import PanelRun
from inference.panel.queries import latest_panel, panel_summary
from oncoflow_site.foundation.clock import local
from reports.content.schema import (
    Findings,
    ReducedStudy,
    ReportComparison,
    ReportedOutline,
    ReportFacts,
    ReportStudy,
)

__all__ = ["gather_facts", "main_comparison", "panel_for"]


def panel_for(measurement: Measurement) -> PanelRun | None:
    """The panel whose volumes ``measurement`` stands on; the study's latest where a person outlined without one."""
    panel = (
        PanelRun.objects.filter(volume_set_id=measurement.segmentation.volume_set_id).order_by("-started_at").first()
    )
    return panel or latest_panel(measurement.study)


def main_comparison(measurement: Measurement) -> Comparison | None:
    """The comparison with the most recent earlier study; the baseline row where there is none."""
    rows = list(Comparison.objects.filter(measurement=measurement).select_related("prior_study"))
    with_prior = [row for row in rows if row.prior_study is not None]
    if with_prior:
        return max(with_prior, key=lambda row: (row.prior_study.performed_at, row.created_at))  # type: ignore[union-attr]
    return rows[0] if rows else None


def gather_facts(measurement: Measurement) -> ReportFacts:
    """Everything a draft is made from but the documents."""
    study = measurement.study
    panel = panel_for(measurement)
    summary = panel_summary(panel) if panel else None
    segmentation = measurement.segmentation
    return ReportFacts(
        study=ReportStudy(
            id=str(study.id),
            patient_id=str(study.patient_id),
            pseudonym=study.patient.pseudonym,
            order_id=str(study.order_id) if study.order_id else None,
            procedure=(study.order.procedure_text or study.order.procedure_code) if study.order else "",
            performed_at=local(study.performed_at),
            performed_on_day=study.performed_on_day,
            modality=study.modality,
            spacing_known=study.spacing_known,
            reduced=_reduced(measurement),
            acquisition=acquisition_of(segmentation.volume_set),
        ),
        findings=Findings(
            measurement_id=str(measurement.id),
            segmentation=ReportedOutline(
                id=str(segmentation.id),
                kind=segmentation.kind,
                version=segmentation.version,
                author=segmentation.author if segmentation.kind != SegmentationKind.PERSON else "",
            ),
            regions=measurement.regions,
            lesions=measurement.lesions,
            anatomy=measurement.anatomy,
            parts=_parts(measurement.regions),
        ),
        comparison=_comparison(measurement),
        panel=summary,
        history=_history(measurement),
        demo=bool(settings.ONCOFLOW_DEMO_MODE or (summary and summary.demo)),
    )


def _parts(regions: RegionMeasurements) -> dict[Literal["NCR", "ED"], float | None]:
    """The regions are nested and their labels exclusive, so each part is the difference of two volumes."""

    def between(outer: Region, inner: Region) -> float | None:
        volumes = [regions[name].volume_mm3 if name in regions else None for name in (outer, inner)]
        whole, part = volumes
        return None if whole is None or part is None else round(max(whole - part, 0.0), 3)

    return {"NCR": between("TC", "ET"), "ED": between("WT", "TC")}


def _reduced(measurement: Measurement) -> ReducedStudy | None:
    segmentation = measurement.segmentation
    what = assessable_of(segmentation.volume_set)
    if not what.reduced:
        return None
    return ReducedStudy(sequences=what.sequences, missing=what.missing, reason=what.told(segmentation.not_assessed))


def _comparison(measurement: Measurement) -> ReportComparison | None:
    row = main_comparison(measurement)
    if row is None:
        return None
    prior = row.prior_study
    result = _without_names(row.result)
    return ReportComparison(
        **{name: getattr(result, name) for name in type(result).model_fields if name != "prior_study_id"},
        comparison_id=str(row.id),
        prior_study_id=str(prior.id) if prior else None,
        prior_performed_at=local(prior.performed_at) if prior else None,
    )


def _without_names(result: ComparisonResult) -> ComparisonResult:
    """A report names no account but its signer's: that a person made an outline is said by its maker."""

    def unnamed(source: OutlineSource | None) -> OutlineSource | None:
        return source and source.model_copy(update={"reviewer": ""})

    changes: dict[str, object] = {}
    if (outlines := result.outlines) is not None:
        update = {"current": unnamed(outlines.current), "prior": unnamed(outlines.prior)}
        changes["outlines"] = outlines.model_copy(update=update)
    if (rests_on := result.response.outlines) is not None:
        parts = {name: unnamed(getattr(rests_on, name)) for name in ("current", "baseline", "nadir")}
        changes["response"] = result.response.model_copy(update={"outlines": rests_on.model_copy(update=parts)})
    return result.model_copy(update=changes)


def _history(measurement: Measurement) -> tuple[VolumesAt, ...]:
    """Volumes of this study and of every earlier one, oldest first, as the comparison gathered them."""
    row = main_comparison(measurement)
    kept = row.result.history if row is not None else ()
    return tuple(kept or volume_history(measurement.study, measurement))
