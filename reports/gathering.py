"""Reading what a report is made from: measurement, comparison, panel, earlier studies, documents."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings

from clinical.cleaning import CleanedText, clean
from clinical.models import ClinicalDocument, Patient
from clinical.models.documents import DocumentState
from clinical.registry import current_patient, identity_for_cleaning
from clinical.retrieval import read_text, retrieve
from imaging.models import Comparison, Measurement, SegmentationKind, Study
from imaging.volumes import assessable_of
from inference.models import PanelRun
from inference.panel import latest_panel, panel_summary
from reports.extractive import QUERIES, split_sentences
from reports.narrative import SourceText

__all__ = ["gather_facts", "gather_sources", "main_comparison", "panel_for", "readable_documents", "widened"]

_HISTORY_REGIONS = ("ET", "TC", "WT")
_TOP_K = 24


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


def gather_facts(measurement: Measurement) -> dict[str, Any]:
    """``study``, ``findings``, ``comparison``, ``panel``, ``history`` and ``demo`` of `reports.content`."""
    study = measurement.study
    panel = panel_for(measurement)
    summary = panel_summary(panel) if panel else None
    segmentation = measurement.segmentation
    return {
        "study": {
            "id": str(study.id),
            "patient_id": str(study.patient_id),
            "pseudonym": study.patient.pseudonym,
            "order_id": str(study.order_id) if study.order_id else None,
            "procedure": (study.order.procedure_text or study.order.procedure_code) if study.order else "",
            "performed_at": study.performed_at.isoformat(),
            "modality": study.modality,
            "spacing_known": study.spacing_known,
            **_reduced(measurement),
        },
        "findings": {
            "measurement_id": str(measurement.id),
            "segmentation": {
                "id": str(segmentation.id),
                "kind": segmentation.kind,
                "version": segmentation.version,
                "author": segmentation.author if segmentation.kind != SegmentationKind.PERSON else "",
            },
            "regions": measurement.regions,
            "lesions": measurement.lesions,
            "anatomy": measurement.anatomy,
        },
        "comparison": _comparison(measurement),
        "panel": summary,
        "history": _history(measurement),
        "demo": bool(settings.ONCOFLOW_DEMO_MODE or (summary or {}).get("demo")),
    }


def _reduced(measurement: Measurement) -> dict[str, Any]:
    """``reduced`` of a study with missing sequences: what it has, what it lacks, and what follows, in words."""
    segmentation = measurement.segmentation
    what = assessable_of(segmentation.volume_set)
    if not what.reduced:
        return {}
    return {
        "reduced": {
            "sequences": list(what.sequences),
            "missing": list(what.missing),
            "reason": what.told(segmentation.not_assessed),
        }
    }


def _comparison(measurement: Measurement) -> dict[str, Any] | None:
    row = main_comparison(measurement)
    if row is None:
        return None
    prior = row.prior_study
    return {
        **row.result,
        "comparison_id": str(row.id),
        "prior_study_id": str(prior.id) if prior else None,
        "prior_performed_at": prior.performed_at.isoformat() if prior else None,
    }


def _history(measurement: Measurement) -> list[dict[str, Any]]:
    """Volumes in mm3 of this study and of every earlier one, oldest first; None where not assessed."""
    study = measurement.study
    used = {
        row.prior_study_id: row.prior_measurement
        for row in Comparison.objects.filter(measurement=measurement).select_related("prior_measurement")
        if row.prior_measurement is not None
    }
    earlier = Study.objects.filter(patient_id=study.patient_id, performed_at__lt=study.performed_at).exclude(
        pk=study.pk
    )
    rows: list[tuple[Study, Measurement]] = []
    for one in earlier:
        found = used.get(one.id) or one.measurements.order_by("-created_at", "-id").first()
        if found is not None:
            rows.append((one, found))
    rows.append((study, measurement))
    rows.sort(key=lambda row: row[0].performed_at)
    return [
        {
            "study_id": str(one.id),
            "performed_at": one.performed_at.isoformat(),
            **{region: (found.regions.get(region) or {}).get("volume_mm3") for region in _HISTORY_REGIONS},
        }
        for one, found in rows
    ]


def readable_documents(patient: Patient) -> list[ClinicalDocument]:
    """This patient's documents whose text has been read, in a fixed order."""
    rows = ClinicalDocument.objects.filter(patient=current_patient(patient), state=DocumentState.READ)
    return list(rows.order_by("id"))


def gather_sources(patient: Patient) -> list[SourceText]:
    """The documents that retrieval found something in, with the passages; newest first.

    Loads the embedding model: for workers only. A passage that does not equal the stored bytes at its offsets is left out:
    it could not be cited.
    """
    documents = {row.id: row for row in readable_documents(patient)}
    if not documents:
        return []
    spans: dict[uuid.UUID, list[tuple[int, int, float]]] = {}
    texts: dict[uuid.UUID, bytes] = {}
    for passage in retrieve(patient, QUERIES, top_k=_TOP_K):
        key = uuid.UUID(str(passage.document_id))
        if key not in documents:
            continue
        if key not in texts:
            texts[key] = read_text(documents[key])
        if texts[key][passage.start : passage.end] == passage.text.encode("utf-8"):
            spans.setdefault(key, []).append((passage.start, passage.end, float(passage.score)))
    identity = identity_for_cleaning(patient)
    sources = [
        SourceText(
            document_id=str(key),
            text=texts[key],
            text_sha256=documents[key].text_sha256,
            type_text=documents[key].type_text,
            authored_on=documents[key].authored_on,
            passages=widened(texts[key], found, clean(texts[key].decode("utf-8"), identity)),
        )
        for key, found in spans.items()
    ]
    return sorted(
        sources,
        key=lambda one: (-(one.authored_on.timestamp() if one.authored_on else 0.0), one.document_id),
    )


def widened(
    text: bytes, spans: list[tuple[int, int, float]], cleaned: CleanedText
) -> tuple[tuple[int, int, float], ...]:
    """The passages found, each with the sentence before and after it; (start, end, score), in order, none overlapping.

    Retrieval drops a passage that overlaps a better one, so what it leaves out is often the very next sentence. A sentence that
    touches what cleaning takes out stays out. Passages that then meet become one, with the better score.
    """
    sentences = [(start, end) for start, end, _ in split_sentences(text)]
    wide = list(spans)
    for start, end, score in spans:
        before = [one for one in sentences if one[0] < start][-1:]
        after = [one for one in sentences if one[1] > end][:1]
        wide += [(first, last, score) for first, last in before + after if not cleaned.overlaps(first, last)]
    out: list[tuple[int, int, float]] = []
    for start, end, score in sorted(wide):
        # Only white space may lie between: anything else was neither found nor looked at by the cleaning above.
        if out and (start <= out[-1][1] or not text[out[-1][1] : start].strip()):
            first, last, best = out[-1]
            out[-1] = (first, max(end, last), max(score, best))
        else:
            out.append((start, end, score))
    return tuple(out)
