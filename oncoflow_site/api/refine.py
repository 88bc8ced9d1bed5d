"""Refining an outline: a person's points or box answered with a mask, and a person's outline put in force."""

from __future__ import annotations

import uuid
from typing import Any

from django.core.exceptions import PermissionDenied
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, acting_as, record_refusal, record_view
from clinical.roles import can
from imaging.models import Segmentation, Study
from imaging.segmentation.corrections import save_corrections
from imaging.segmentation.run_length import encode_runs
from imaging.volumes.load import grid_of, latest_volume_set
from inference.experts.errors import ExpertError, InvalidVolumes, MissingSequence
from inference.interactive import refine
from inference.supervisor.client import ExpertTimeout, ExpertUnavailable
from oncoflow_site.api.answers import OutlineStored
from oncoflow_site.api.refine_forms import CorrectionsForm, PromptForm, RefinedForm, first_error
from oncoflow_site.api.studies import Base, bring_in_outline
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.schema import plain

__all__ = ["Refine", "Segmentations"]


class Busy(exceptions.APIException):
    """503: the expert cannot be reached now."""

    status_code = 503
    default_detail = "The expert cannot answer now. Try again in a moment."


class Slow(exceptions.APIException):
    """504: the expert did not answer in time."""

    status_code = 504
    default_detail = "The expert did not answer in time."


def may_correct(request: Any, study: Study, event: str) -> None:
    """:raises PermissionDenied: the role does not correct outlines; the refusal is recorded."""
    if not can(request.user, "edit_segmentation"):
        record_refusal(
            event,
            action="E" if event == "study.refine" else "C",
            resource=study.subject,
            patient_id=study.patient_id,
            actor=Actor.user(request.user),
            detail={"why": "role"},
        )
        raise PermissionDenied("Your role does not allow this.")


class Refine(Base):
    """Points or a box on a study answered with a mask in interactive time. Nothing is stored."""

    parser_classes = [JSONParser]

    @extend_schema(request=PromptForm, responses={200: RefinedForm, 204: None})
    def post(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "study.refine")
        may_correct(request, study, "study.refine")
        form = PromptForm(data=request.data)
        if not form.is_valid():
            raise UserVisibleError(first_error(form.errors), code="prompt")
        prompt = PromptForm.prompt(form.validated_data)
        record_view("study.refine", resource=study.subject, patient_id=study.patient_id, actor=Actor.user(request.user))
        try:
            volume_set, refined = refine(study, prompt)
        except ExpertTimeout as error:
            raise Slow from error
        except ExpertUnavailable as error:
            raise Busy from error
        except (MissingSequence, InvalidVolumes) as error:
            raise UserVisibleError(f"The expert cannot answer on this study: {error}.", code="expert") from None
        except ExpertError as error:
            raise Busy(f"The expert failed: {error}") from error
        if refined is None:
            return Response(status=204)
        return Response(
            {
                "volume_set": str(volume_set.pk),
                "region": refined.region,
                "mask": {
                    "origin": list(refined.origin),
                    "shape": list(refined.mask.shape),
                    "runs": encode_runs(refined.mask),
                },
                "grid": list(grid_of(volume_set).shape_zyx),
                "voxels": int(refined.mask.sum()),
                "model": vars(refined.model),
                "runtime_s": round(refined.runtime_s, 4),
                "device": refined.device,
                "notes": list(refined.notes),
            }
        )


class Segmentations(Base):
    """A person's segmentation comes in: for a study the gate sent back, or as a correction.

    As a file it is a whole label map (NIfTI); as JSON it is corrections of a parent, such as `refine` answers. Either way it
    is the study's next version, in force; nothing is overwritten.
    """

    parser_classes = [MultiPartParser, JSONParser]

    @extend_schema(
        request={
            "multipart/form-data": {
                "type": "object",
                "required": ["file", "reason"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "NIfTI: 0, 1 NCR, 2 ED, 3 ET"},
                    "reason": {"type": "string", "maxLength": 300},
                    "assessed": {
                        "type": "array",
                        "items": {"type": "string", "enum": ["ET", "TC", "WT"]},
                        "description": "Where sequences are missing: regions that were looked for though none is outlined",
                    },
                },
            },
            "application/json": CorrectionsForm,
        },
        responses={201: OutlineStored},
    )
    def post(self, request: Request, study_id: uuid.UUID) -> Response:
        study = self.study(request, study_id, "segmentation.person")
        with acting_as(Actor.user(request.user), source="api"):
            by_json = request.content_type.startswith("application/json")
            made = save_from_form(request, study) if by_json else bring_in_outline(request, study)
        stored = OutlineStored(
            id=str(made.id),
            version=made.version,
            kind=made.kind,
            parent=str(made.parent_id) if made.parent_id else None,
            not_assessed=made.not_assessed,
        )
        return Response(plain(stored), status=201)


def save_from_form(request: Request, study: Study) -> Segmentation:
    """Put the corrections of a JSON request in force. :raises PermissionDenied: :raises UserVisibleError:"""
    may_correct(request, study, "segmentation.person")
    form = CorrectionsForm(data=request.data)
    if not form.is_valid():
        raise UserVisibleError(first_error(form.errors), code="corrections")
    data = form.validated_data
    volume_set = latest_volume_set(study)
    if volume_set is None:
        raise UserVisibleError("This study has no volumes yet.", code="no-volumes")
    parent = None
    if data["parent"] is not None:
        parent = Segmentation.objects.filter(pk=data["parent"], study=study).first()
        if parent is None:
            raise UserVisibleError("The study has no outline of that id.", code="parent")
    return save_corrections(
        study,
        parent,
        CorrectionsForm.unpacked(data, grid_of(volume_set).shape_zyx),
        author=request.user.get_username(),
        reason=data["reason"],
        seen=None if "seen" not in data else str(data["seen"] or ""),
    )
