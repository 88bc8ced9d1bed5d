"""Studies, their volumes and outlines, and the PDFs of their reports.

Every answer is limited to the patients that the caller may see, and reading is recorded in the transaction that reads.
"""

from __future__ import annotations

import gzip
import uuid
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit.services import Actor, record, record_refusal, record_view
from clinical.access import patients_for, require_patient
from clinical.models import ClinicalDocument
from clinical.roles import can
from imaging.models import Comparison, Measurement, MrSequence, Segmentation, Study, VolumeSet
from imaging.rendering.slices import VIEW_PLANES, best_slices, render_slice, slice_count
from imaging.segmentation.label_maps import current_segmentation
from imaging.segmentation.manual_import import MAX_BYTES, accept_label_map
from imaging.volumes.load import assessable_of, grid_of, latest_volume_set
from inference.panel.queries import latest_panel, panel_summary
from oncoflow_site.api import slice_cache
from oncoflow_site.api.answers import (
    FindingRow,
    MeasurementAnswer,
    OutlineAnswer,
    PatientPointer,
    ReportPointer,
    ReportVersionAnswer,
    ReportVersionRow,
    SequenceQuality,
    SeriesRow,
    StudyAnswer,
    StudyFlag,
    StudyPage,
    StudyRow,
    StudyStep,
    VolumesAnswer,
)
from oncoflow_site.api.problems import ProblemRenderer, handle
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.models import Job
from oncoflow_site.foundation.schema import plain
from reports.models import Report
from reports.services import load_content, load_pdf

STEPS = {
    "imaging.complete_study": "Waiting for the last images",
    "imaging.deidentify_study": "De-identifying the images",
    "imaging.match_study": "Looking for the order",
    "imaging.prepare_study": "Preparing the volumes",
    "imaging.publish_study": "Offering the images to viewers",
    "inference.convene_panel": "Convening the panel",
    "inference.run_expert": "Expert at work",
    "inference.conclude_panel": "Fusing the outlines",
    "inference.fuse_chosen": "Fusing the outlines anew",
    "imaging.measure_study": "Measuring",
    "imaging.compare_study": "Comparing with earlier studies",
    "imaging.publish_segmentations": "Writing the outline as DICOM",
    "reports.draft": "Drafting the report",
    "reports.release": "Releasing the report",
    "fhir_api.deliver_report": "Queueing the delivery",
    "fhir_api.backfill": "Queueing the delivery",
}


class Base(APIView):
    """Common to all: problem details, and the study or a recorded refusal."""

    renderer_classes = [ProblemRenderer]

    def get_exception_handler(self) -> Any:
        return handle

    def study(self, request: Request | HttpRequest, study_id: uuid.UUID, event: str) -> Study:
        return visible_study(request.user, study_id, event)


def visible_study(user: Any, study_id: uuid.UUID, event: str) -> Study:
    """The study if ``user`` may see its patient. A study that does not exist and one that is not theirs look alike.

    :raises Http404: either of the two; the refusal is recorded.
    """
    study = Study.objects.select_related("patient", "order").filter(pk=study_id).first()
    if study is None:
        raise Http404
    try:
        require_patient(user, study.patient_id, event=event, resource=study.subject)
    except PermissionDenied as error:
        raise Http404 from error
    return study


def bring_in_outline(request: HttpRequest, study: Study) -> Segmentation:
    """Put the uploaded ``file`` in force as a person's segmentation of a study that they may see, for its ``reason``.

    :raises PermissionDenied: their role does not allow it; the refusal is recorded.
    :raises ParseError: no file, or no reason.
    :raises UserVisibleError: it cannot be this study's segmentation.
    """
    user: Any = request.user
    if not can(user, "edit_segmentation"):
        record_refusal(
            "segmentation.person",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            actor=Actor.user(user),
            detail={"why": "role"},
        )
        raise PermissionDenied("Your role does not allow this.")
    sent, reason = request.FILES.get("file"), request.POST.get("reason", "").strip()
    if sent is None or not reason:
        raise exceptions.ParseError("Send 'file' (NIfTI) and 'reason'.")
    # One byte more than is taken tells what is too large without reading all of it.
    return accept_label_map(
        study,
        sent.read(MAX_BYTES + 1),
        author=user.get_username(),
        reason=reason,
        assessed=request.POST.getlist("assessed"),
    )


def study_row(study: Study) -> StudyRow:
    """A study in a list: pseudonym and state, no identity."""
    report = getattr(study, "report", None)
    findings = tuple(
        FindingRow(code=one.code, severity=one.severity, message=one.message, raised_at=one.raised_at)
        for one in study.open_findings
    )
    return StudyRow(
        id=str(study.id),
        patient=PatientPointer(id=str(study.patient_id), pseudonym=study.patient.pseudonym),
        order=str(study.order_id) if study.order_id else None,
        modality=study.modality,
        state=study.state,
        flag=StudyFlag(code=findings[0].code, message=findings[0].message) if findings else None,
        findings=findings,
        performed_at=study.performed_at,
        performed_on_day=study.performed_on_day,
        unsolicited=study.unsolicited,
        report=ReportPointer(id=str(report.id), state=report.state) if report else None,
    )


def study_steps(study: Study) -> tuple[StudyStep, ...]:
    """The jobs of a study in the order they began, for a progress display."""
    subjects = [study.subject]
    report = Report.objects.filter(study=study).first()
    if report:
        subjects.append(report.subject)
    rows = Job.objects.filter(subject__in=subjects, kind__in=STEPS).exclude(state="cancelled")
    return tuple(
        StudyStep(
            id=str(row.id),
            kind=row.kind,
            title=STEPS[row.kind],
            state=row.state,
            progress=row.progress,
            text=row.progress_text,
            started_at=row.started_at,
            finished_at=row.finished_at,
            seconds=StudyStep.duration(row.started_at, row.finished_at),
            error=row.error,
        )
        for row in rows.order_by("created_at", "id")
    )


class StudyCursor(CursorPagination):
    """Pages by a place in the order, so that a study that arrives meanwhile moves nothing."""

    page_size, max_page_size = 100, 500
    page_size_query_param = "limit"
    ordering = ("-performed_at", "-id")


class StudyList(Base):
    """Studies of the caller's patients, newest first."""

    @extend_schema(
        responses={200: StudyPage},
        parameters=[
            OpenApiParameter("patient", OpenApiTypes.UUID),
            OpenApiParameter("state", OpenApiTypes.STR),
            OpenApiParameter("limit", OpenApiTypes.INT, description="Studies on a page, at most 500."),
            OpenApiParameter("cursor", OpenApiTypes.STR, description="Of a page's `next`."),
        ],
    )
    def get(self, request: Request) -> Response:
        studies = (
            Study.objects.filter(patient__in=patients_for(request.user))
            .select_related("patient", "report")
            .prefetch_related("findings")
        )
        patient = request.query_params.get("patient")
        if patient:
            try:
                studies = studies.filter(patient_id=uuid.UUID(patient))
            except ValueError as error:
                raise exceptions.ParseError("'patient' must be a UUID.") from error
        if state := request.query_params.get("state"):
            studies = studies.filter(state=state)
        cursor = StudyCursor()
        with transaction.atomic():
            rows = [study_row(study) for study in cursor.paginate_queryset(studies, request, view=self) or ()]
            record(
                "study.list", action="R", resource="study", detail={"count": len(rows)}, actor=Actor.user(request.user)
            )
        return Response(plain(StudyPage(studies=tuple(rows), next=cursor.get_next_link())))


class StudyDetail(Base):
    """All that is known of one study, without identity."""

    @extend_schema(responses={200: StudyAnswer})
    def get(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "study.view")
        with transaction.atomic():
            body = _study_answer(study)
            record(
                "study.view",
                action="R",
                resource=study.subject,
                patient_id=study.patient_id,
                actor=Actor.user(request.user),
            )
        return Response(plain(body))


def _study_answer(study: Study) -> StudyAnswer:
    panel = latest_panel(study)
    measurement = Measurement.objects.filter(study=study).order_by("-created_at", "-id").first()
    compared = Comparison.objects.filter(measurement=measurement) if measurement else Comparison.objects.none()
    volume_set = latest_volume_set(study)
    row = study_row(study)
    return StudyAnswer(
        **{name: getattr(row, name) for name in StudyRow.model_fields},
        series=tuple(
            SeriesRow(
                sequence=one.sequence,
                confidence=one.sequence_confidence,
                reason=one.sequence_reason,
                description=one.description,
                instances=one.count,
            )
            for one in study.series.annotate(count=Count("instances"))
        ),
        volumes=_volumes_answer(volume_set) if volume_set else None,
        segmentations=tuple(
            OutlineAnswer(
                id=str(one.id),
                kind=one.kind,
                version=one.version,
                author=one.author,
                model=one.model,
                not_assessed=one.not_assessed,
                created_at=one.created_at,
            )
            for one in study.segmentations.order_by("version")
        ),
        panel=panel_summary(panel) if panel else None,
        measurement=MeasurementAnswer(
            id=str(measurement.id),
            segmentation=str(measurement.segmentation_id),
            regions=measurement.regions,
            lesions=measurement.lesions,
            anatomy=measurement.anatomy,
        )
        if measurement
        else None,
        comparisons=tuple(one.result for one in compared),
        report_versions=tuple(
            ReportVersionRow(
                number=one.number,
                status=one.status,
                signature_kind=one.signature_kind,
                pdf_sha256=one.pdf_sha256,
                band=one.band,
            )
            for one in (study.report.versions.order_by("number") if hasattr(study, "report") else ())
        ),
        steps=study_steps(study),
    )


def _volumes_answer(volume_set: VolumeSet) -> VolumesAnswer:
    return VolumesAnswer(
        version=volume_set.version,
        shape=volume_set.shape,
        spacing_mm=volume_set.spacing,
        sequences={one.sequence: SequenceQuality(quality=one.quality) for one in volume_set.volumes.all()},
        not_assessed=assessable_of(volume_set).not_assessed,
    )


class VolumeFile(Base):
    """One de-identified volume as NIfTI (gzip), RAS, on the study's reference grid."""

    @extend_schema(responses={(200, "application/gzip"): OpenApiTypes.BINARY})
    def get(self, request: Request, study_id: uuid.UUID, sequence: str) -> HttpResponse:
        study = self.study(request, study_id, "volume.read")
        volume_set = latest_volume_set(study)
        volume = volume_set.volumes.filter(sequence=sequence).first() if volume_set else None
        if volume is None:
            raise Http404
        return self._file(request, study, "volume.read", objects.get(volume.object), f"{study.id}-{sequence}.nii.gz")

    def _file(self, request: Request, study: Study, event: str, data: bytes, name: str) -> HttpResponse:
        with transaction.atomic():
            record(
                event, action="R", resource=study.subject, patient_id=study.patient_id, actor=Actor.user(request.user)
            )
        body = data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 1)
        return HttpResponse(
            body,
            content_type="application/gzip",
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store, private"},
        )


class SegmentationFile(VolumeFile):
    """One label map as NIfTI (gzip): 0 background, 1 NCR, 2 ED, 3 ET."""

    @extend_schema(responses={(200, "application/gzip"): OpenApiTypes.BINARY})
    def get(self, request: Request, study_id: uuid.UUID, segmentation_id: uuid.UUID) -> HttpResponse:  # type: ignore[override]
        study = self.study(request, study_id, "segmentation.read")
        segmentation = Segmentation.objects.filter(pk=segmentation_id, study=study).first()
        if segmentation is None:
            raise Http404
        data = objects.get(segmentation.labels)
        return self._file(request, study, "segmentation.read", data, f"{study.id}-{segmentation.version}.nii.gz")


class SlicePicture(Base):
    """One slice as PNG, in radiological convention, with outlines where ``overlay`` names a segmentation or ``current``."""

    @extend_schema(
        responses={(200, "image/png"): OpenApiTypes.BINARY},
        parameters=[OpenApiParameter("sequence", OpenApiTypes.STR), OpenApiParameter("overlay", OpenApiTypes.STR)],
    )
    def get(self, request: Request, study_id: uuid.UUID, plane: str, index: int) -> HttpResponse:
        study = self.study(request, study_id, "study.slices")
        sequence = request.query_params.get("sequence", "T1c")
        volume_set = latest_volume_set(study)
        if plane not in VIEW_PLANES or sequence not in MrSequence.values or volume_set is None:
            raise Http404
        volume = volume_set.volumes.filter(sequence=sequence).select_related("object").first()
        if volume is None:
            raise Http404
        grid = grid_of(volume_set)
        if index >= slice_count(grid, plane):
            raise Http404
        overlay = request.query_params.get("overlay", "")
        segmentation = None
        if overlay == "current":
            segmentation = current_segmentation(study)
        elif overlay:
            try:
                segmentation = Segmentation.objects.filter(pk=uuid.UUID(overlay), study=study).first()
            except ValueError as error:
                raise exceptions.ParseError("'overlay' must be 'current' or a UUID.") from error
        fits = segmentation is not None and segmentation.volume_set_id == volume_set.id
        labels = slice_cache.labels_of(segmentation) if segmentation is not None and fits else None
        grey = slice_cache.grey_of(volume)
        record_view("study.slices", resource=study.subject, patient_id=study.patient_id, actor=Actor.user(request.user))
        picture = render_slice(grey, grid, plane, index, labels, window=slice_cache.WINDOW)
        return HttpResponse(picture, content_type="image/png", headers={"Cache-Control": "private, max-age=300"})


class ReportPdf(Base):
    """The PDF of one version of a report: the exact bytes that were signed and delivered."""

    @extend_schema(responses={(200, "application/pdf"): OpenApiTypes.BINARY})
    def get(self, request: Request, report_id: uuid.UUID, number: int) -> HttpResponse:
        report = Report.objects.select_related("study").filter(pk=report_id).first()
        if report is None:
            raise Http404
        study = self.study(request, report.study_id, "report.read")
        version = report.versions.filter(number=number).first()
        if version is None or version.pdf_id is None:
            raise Http404
        data = load_pdf(version)
        with transaction.atomic():
            record(
                "report.read",
                action="R",
                resource=report.subject,
                patient_id=study.patient_id,
                actor=Actor.user(request.user),
                detail={"version": number},
            )
        return HttpResponse(
            data,
            content_type="application/pdf",
            headers={"Content-Disposition": f'inline; filename="report-{report.id}-v{number}.pdf"'},
        )


class ReportVersionContent(Base):
    """The content of one version of a report as JSON: findings, comparison, panel, narrative with its citations."""

    @extend_schema(responses={200: ReportVersionAnswer})
    def get(self, request: Request, report_id: uuid.UUID, number: int) -> Response:
        report = Report.objects.select_related("study").filter(pk=report_id).first()
        if report is None:
            raise Http404
        study = self.study(request, report.study_id, "report.read")
        version = report.versions.filter(number=number).first()
        if version is None:
            raise Http404
        content = load_content(version)
        with transaction.atomic():
            record(
                "report.read",
                action="R",
                resource=report.subject,
                patient_id=study.patient_id,
                actor=Actor.user(request.user),
                detail={"version": number},
            )
        return Response(plain(ReportVersionAnswer.of(content)))


class DocumentText(Base):
    """The stored text of a clinical document, byte for byte: what a citation's offsets point into."""

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request, document_id: uuid.UUID) -> HttpResponse:
        document = ClinicalDocument.objects.filter(pk=document_id).first()
        if document is None or document.text_id is None:
            raise Http404
        try:
            require_patient(
                request.user, document.patient_id, event="document.text", resource=f"document:{document.id}"
            )
        except PermissionDenied as error:
            raise Http404 from error
        data = objects.get(document.text)  # type: ignore[arg-type]
        with transaction.atomic():
            record(
                "document.text",
                action="R",
                resource=f"document:{document.id}",
                patient_id=document.patient_id,
                actor=Actor.user(request.user),
            )
        return HttpResponse(
            data, content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store, private"}
        )


def default_slices(study: Study) -> dict[str, int]:
    """For each plane the slice that shows most of the tumour, else the middle one; empty without volumes."""
    volume_set = latest_volume_set(study)
    if volume_set is None:
        return {}
    segmentation = current_segmentation(study)
    if segmentation is not None and segmentation.volume_set_id == volume_set.id:
        return {str(plane): int(index) for plane, index in best_slices(slice_cache.labels_of(segmentation)).items()}
    grid = grid_of(volume_set)
    return {plane: slice_count(grid, plane) // 2 for plane in VIEW_PLANES}
