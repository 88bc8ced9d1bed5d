"""Pages of a patient, a study and a document."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST
from rest_framework.exceptions import ParseError

from audit.services import record
from clinical.access import require_patient
from clinical.models import CareAssignment, ClinicalDocument, Patient
from clinical.registry import reveal_identity
from clinical.roles import can
from imaging.deidentification.report import faces_of, readable
from imaging.models import Comparison, Measurement, Segmentation, Study
from imaging.rendering.slices import VIEW_PLANES, slice_count
from imaging.schemas.outline import FusedExpert, FusedOutline, ModelOutline
from imaging.segmentation.label_maps import current_segmentation
from imaging.volumes.load import assessable_of, grid_of, latest_volume_set
from inference.interactive import promptable_expert
from inference.panel.queries import latest_panel, panel_summary
from oncoflow_site.api.steps import current_steps
from oncoflow_site.api.studies import bring_in_outline, default_slices, visible_study
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.web.panels import panel_context
from oncoflow_site.web.plot import Point, volume_plot

REGIONS = (("ET", "Enhancing tumour"), ("TC", "Tumour core"), ("WT", "Whole tumour"))
# The order in which radiologists read them, and the letters at the left, right, top and bottom of each plane's picture.
SEQUENCES = ("T1", "T1c", "T2", "FLAIR")
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


def visible_patient(request: HttpRequest, patient_id: uuid.UUID, event: str) -> Patient:
    """The patient, or 404 after a recorded refusal: an answer that tells a stranger nothing."""
    try:
        return require_patient(request.user, patient_id, event=event)
    except PermissionDenied as error:
        raise Http404 from error


def identity_of(request: HttpRequest, patient: Patient) -> Any:
    """The patient's identity for the heading of a page (recorded), or None where the role sees none."""
    return reveal_identity(patient, purpose="page") if can(request.user, "reveal_identity") else None


def newest_measurements(studies: list[Study]) -> dict[uuid.UUID, Measurement]:
    """The newest measurement of each study; what went before is not read."""
    newest = Measurement.objects.filter(study=OuterRef("study")).order_by("-created_at", "-id")
    rows = Measurement.objects.filter(study__in=studies, pk=Subquery(newest.values("pk")[:1]))
    return {row.study_id: row for row in rows.select_related("segmentation")}


def made_by(segmentations: list[Segmentation]) -> dict[uuid.UUID, str]:
    """For each outline who or what made it, models with their versions: a number is worth little without that."""
    fusions = [one.model for one in segmentations if isinstance(one.model, FusedOutline)]
    named = {one.segmentation for fusion in fusions for one in fusion.experts if one.segmentation}
    models = {str(one.pk): one.model for one in Segmentation.objects.filter(pk__in=named)}

    def expert(one: FusedExpert) -> str:
        made = models.get(one.segmentation or "")
        return f"{one.name} {made.version if isinstance(made, ModelOutline) else ''}".strip()

    found = {}
    for outline in segmentations:
        model = outline.model
        if isinstance(model, FusedOutline):
            roles = [
                ", ".join(expert(one) for one in model.experts if one.role == role) + f" ({doing})"
                for role, doing in (("voter", "voting"), ("adviser", "advising"))
                if any(one.role == role for one in model.experts)
            ]
            chosen = f" chosen by {model.chosen_by}" if model.chosen_by else ""
            found[outline.pk] = f"Consensus by {model.fusion or 'fusion'}{chosen}: {'; '.join(roles)}"
        elif model is not None and model.name:
            found[outline.pk] = f"{model.name} {model.version}".strip()
        else:
            found[outline.pk] = f"{outline.get_kind_display().capitalize()}: {outline.author}"
    return found


@login_required
def patient_page(request: HttpRequest, patient_id: uuid.UUID) -> HttpResponse:
    """Orders, studies, volumes over time, documents, reports and care team of one patient."""
    patient = visible_patient(request, patient_id, "web.patient")
    with transaction.atomic():
        studies = list(Study.objects.filter(patient=patient).select_related("report").order_by("performed_at"))
        measured = newest_measurements(studies)
        makers = made_by([one.segmentation for one in measured.values()])
        rows: list[dict[str, Any]] = [
            {
                "study": study,
                "regions": measured[study.pk].regions if study.pk in measured else None,
                "made_by": makers[measured[study.pk].segmentation_id] if study.pk in measured else "",
            }
            for study in studies
        ]
        points = [
            Point(row["study"].performed_at, {name: row["regions"][name].volume_mm3 for name, _ in REGIONS})
            for row in rows
            if row["regions"]
        ]
        last = measured.get(studies[-1].pk) if studies else None
        context = {
            "patient": patient,
            "identity": identity_of(request, patient),
            "orders": list(patient.orders.order_by("-requested_at")),
            "rows": list(reversed(rows)),
            "plot": volume_plot(points),
            "points": points,
            "regions": REGIONS,
            "comparison": Comparison.objects.filter(measurement=last, prior_study__isnull=False)
            .order_by("-prior_study__performed_at")
            .first()
            if last
            else None,
            "documents": list(ClinicalDocument.objects.filter(patient=patient).order_by("-authored_on")),
            "team": list(CareAssignment.objects.current().filter(patient=patient).select_related("user")),
        }
        record("web.patient", action="R", resource=f"patient:{patient.pk}", patient_id=patient.pk)
        return render(request, "web/patient.html", context)


@login_required
def study_page(request: HttpRequest, study_id: uuid.UUID) -> HttpResponse:
    """Images with outlines, the panel, measurements, progress."""
    study = visible_study(request.user, study_id, "web.study")
    with transaction.atomic():
        volume_set = latest_volume_set(study)
        slices = default_slices(study)
        grid = grid_of(volume_set) if volume_set else None
        panel = latest_panel(study)
        measurement = newest_measurements([study]).get(study.pk)
        steps = current_steps(study)
        segmentation = current_segmentation(study)
        available = {one.sequence for one in volume_set.volumes.all()} if volume_set else set()
        lacking = assessable_of(volume_set).not_assessed if volume_set else {}
        context = {
            "study": study,
            "patient": study.patient,
            "identity": identity_of(request, study.patient),
            "series": list(study.series.all()),
            "sequences": [one for one in SEQUENCES if one in available],
            "planes": [
                {
                    "name": plane,
                    "index": slices[plane],
                    "number": slices[plane] + 1,
                    "count": slice_count(grid, plane),
                    "letters": list(zip(("left", "right", "top", "bottom"), LETTERS[plane], strict=True)),
                }
                for plane in VIEW_PLANES
                if grid is not None and plane in slices
            ],
            "segmentation": segmentation,
            "drawn": [
                (key, title) for key, title in REGIONS if not segmentation or key not in segmentation.not_assessed
            ],
            "lacking": [(key, title, lacking[key]) for key, title in REGIONS if key in lacking],
            "segmentation_by": made_by([segmentation])[segmentation.pk] if segmentation else "",
            "measured_by": made_by([measurement.segmentation])[measurement.segmentation_id] if measurement else "",
            "panel": panel_summary(panel) if panel else None,
            **panel_context(request.user, study, panel),
            # The gate judged the panel's consensus: a person's outline is not doubted by it.
            "doubtful": bool(
                panel
                and panel.band in {"hold", "manual"}
                and measurement
                and measurement.segmentation.kind == "consensus"
            ),
            "measurement": measurement,
            "regions": REGIONS,
            "comparisons": list(Comparison.objects.filter(measurement=measurement, prior_study__isnull=False))
            if measurement
            else [],
            "deidentification": {
                "reports": [readable(one) for one in study.deidentification_reports.all()],
                "faces": faces_of(study),
            },
            "steps": steps,
            "under_way": any(step.state in {"waiting", "running"} for step in steps)
            or study.state in {"receiving", "complete", "preparing"},
            "report": getattr(study, "report", None),
            "may_outline": volume_set is not None and can(request.user, "edit_segmentation"),
            "may_refine": volume_set is not None
            and can(request.user, "edit_segmentation")
            and promptable_expert() is not None,
            "grid_zyx": grid.shape_zyx if grid else (),
            "demo": settings.ONCOFLOW_DEMO_MODE,
        }
        record("web.study", action="R", resource=study.subject, patient_id=study.patient_id)
        return render(request, "web/study.html", context)


@login_required
@require_POST
def outline(request: HttpRequest, study_id: uuid.UUID) -> HttpResponse:
    """Put the outline that a person drew elsewhere in force."""
    study = visible_study(request.user, study_id, "segmentation.person")
    try:
        made = bring_in_outline(request, study)
    except ParseError:
        messages.error(request, "Choose a file and say why.")
    except UserVisibleError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Outline version {made.version} is in force; it is being measured.")
    return HttpResponseRedirect(reverse("web:study", args=[study.pk]))


@login_required
def document_page(request: HttpRequest, document_id: uuid.UUID) -> HttpResponse:
    """The stored text of a document, with one span marked where ``?start=&end=`` (byte offsets) name it."""
    document = ClinicalDocument.objects.select_related("patient").filter(pk=document_id).first()
    if document is None:
        raise Http404
    patient = visible_patient(request, document.patient_id, "web.document")
    with transaction.atomic():
        text = objects.get(document.text) if document.text_id else b""  # type: ignore[arg-type]
        start, end = _span(request, len(text))
        context = {
            "document": document,
            "patient": patient,
            "identity": identity_of(request, patient),
            "before": text[:start].decode("utf-8", "replace"),
            "marked": text[start:end].decode("utf-8", "replace"),
            "after": text[end:].decode("utf-8", "replace"),
        }
        record("web.document", action="R", resource=f"document:{document.pk}", patient_id=patient.pk)
        return render(request, "web/document.html", context)


def _span(request: HttpRequest, size: int) -> tuple[int, int]:
    try:
        start, end = int(request.GET.get("start", "0")), int(request.GET.get("end", "0"))
    except ValueError:
        return 0, 0
    return (start, end) if 0 <= start <= end <= size else (0, 0)
