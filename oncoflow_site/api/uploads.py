"""Bringing in images over REST: files by parts, resumable (tus 1.0.0, https://tus.io), or put directly by a signed address.

An upload is a set of files under one declaration. ``POST /api/uploads/`` begins it; files follow, each as a tus resource or by
``POST /api/uploads/presign``; ``POST /api/uploads/ID/complete`` has them filed. Only the account that began it sees it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied
from django.http import Http404, HttpRequest
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, acting_as, record_refusal, record_view
from clinical.access import patients_for
from imaging.intake import upload_job, upload_session
from imaging.models import Upload, UploadFile, UploadState
from oncoflow_site.api.problems import handle
from oncoflow_site.api.studies import Base
from oncoflow_site.api.upload_forms import DeclarationForm, UploadForm
from oncoflow_site.foundation.errors import TransientError, UserVisibleError
from oncoflow_site.foundation.models import Job
from oncoflow_site.foundation.scopes import scope_allows

TUS = "1.0.0"
OFFSET_STREAM = "application/offset+octet-stream"
_STATUS = {
    "offset": HTTPStatus.CONFLICT,
    "completed": HTTPStatus.CONFLICT,
    "incomplete": HTTPStatus.CONFLICT,
    "expired": HTTPStatus.GONE,
    "too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "quota": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "no-space": HTTPStatus.INSUFFICIENT_STORAGE,
    "bad-length": HTTPStatus.BAD_REQUEST,
    "bad-file": HTTPStatus.BAD_REQUEST,
}


class OffsetStreamParser(BaseParser):
    """Leaves the body where it is: the view reads it as it arrives."""

    media_type = OFFSET_STREAM

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        return {}


class LengthRequired(exceptions.APIException):
    status_code = HTTPStatus.LENGTH_REQUIRED
    default_detail = "Content-Length is required."


class _WrongVersion(exceptions.APIException):
    status_code = HTTPStatus.PRECONDITION_FAILED
    default_detail = f"This server speaks tus {TUS}."


class _Unavailable(exceptions.APIException):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    default_detail = "The storage cannot take it now."


def problem(error: Exception, context: Mapping[str, Any]) -> Response | None:
    answer = handle(_Unavailable() if isinstance(error, TransientError) else error, context)
    if answer is not None and isinstance(error, UserVisibleError) and error.code in _STATUS:
        status = _STATUS[error.code]
        answer.status_code = status
        answer.data |= {"status": int(status), "title": status.phrase}
    if answer is not None:
        answer.headers["Tus-Resumable"] = TUS
        answer.headers["Tus-Version"] = TUS
    return answer


class UploadView(Base):
    """Common to all: who may, whose it is, problem details, who acts."""

    parser_classes = [JSONParser, OffsetStreamParser]

    def get_exception_handler(self) -> Any:
        return problem

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method == "OPTIONS":
            return
        if request.headers.get("Tus-Resumable", TUS) != TUS:
            raise _WrongVersion
        token = request.auth
        scopes = getattr(token, "scopes", None)
        allowed = scopes is None or scope_allows(scopes, "ImagingStudy", "c")
        if not upload_session.may_upload(request.user) or not allowed:
            why = "role" if allowed else "scope"
            actor = Actor.user(request.user)
            record_refusal("upload.create", action="C", resource="upload", actor=actor, detail={"why": why})
            raise PermissionDenied("Your role does not allow this.")

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        """What tus clients ask a server first."""
        headers = {
            "Tus-Version": TUS,
            "Tus-Extension": "creation,creation-with-upload,expiration,termination",
            "Tus-Max-Size": str(settings.ONCOFLOW_UPLOAD_MAX_BYTES),
        }
        return Response(status=204, headers=headers)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        answer = super().dispatch(request, *args, **kwargs)
        answer.headers.setdefault("Tus-Resumable", TUS)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    def acting(self, request: Request) -> Any:
        """What is recorded meanwhile was done by the caller."""
        return acting_as(Actor.user(request.user), source="api")

    def upload(self, request: Request, upload_id: uuid.UUID) -> Upload:
        """The caller's upload; somebody else's and none at all look alike."""
        try:
            return upload_session.find(request.user, upload_id)
        except ObjectDoesNotExist:
            actor = Actor.user(request.user)
            record_refusal("upload.view", action="R", resource=f"upload:{upload_id}", actor=actor)
            raise Http404 from None

    def file(self, request: Request, upload_id: uuid.UUID, file_id: uuid.UUID) -> UploadFile:
        """A file of one of the caller's uploads."""
        file = self.upload(request, upload_id).files.select_related("upload__owner").filter(pk=file_id).first()
        if file is None:
            raise Http404
        return file


def upload_state(upload: Upload) -> dict[str, Any]:
    """What its owner may know of an upload."""
    visible = list(upload.studies.filter(patient__in=patients_for(upload.owner)).values_list("pk", flat=True))
    job = Job.objects.filter(pk=upload.job).first() if upload.job else None
    files = upload.files.all() if upload.state in (UploadState.RECEIVED, UploadState.FAILED) else ()
    for one in files:
        one.upload = upload
    return {
        "id": str(upload.pk),
        "state": upload.state,
        "code": upload.code,
        "counts": upload.counts,
        "notes": upload_job.notes_of(upload),
        "studies": [str(one) for one in visible],
        "studies_of_other_patients": upload.studies.count() - len(visible),
        "job": str(upload.job) if upload.job else None,
        "progress": job.progress if job else None,
        "files": [
            {
                "id": str(one.pk),
                "name": upload_session.file_name(one),
                "fingerprint": one.fingerprint,
                "size": one.size,
                "offset": one.offset,
                "signed": one.signed,
                "url": None if one.signed else reverse("api:upload-file", args=[upload.pk, one.pk]),
            }
            for one in files
        ],
        "created_at": upload.created_at.isoformat(),
        "expires_at": upload.expires_at.isoformat(),
    }


class Uploads(UploadView):
    """Begin an upload, or list one's own."""

    @extend_schema(responses={200: UploadForm(many=True)}, operation_id="uploads_list")
    def get(self, request: Request) -> Response:
        user: Any = request.user
        rows = Upload.objects.filter(owner=user).select_related("owner")[:50]
        record_view("upload.view", resource="upload", actor=Actor.user(request.user))
        return Response([upload_state(one) | {"files": []} for one in rows])

    @extend_schema(request=DeclarationForm, responses={201: UploadForm}, operation_id="uploads_create")
    def post(self, request: Request) -> Response:
        with self.acting(request):
            upload = upload_session.create(request.user, DeclarationForm.declared(request.data))
        place = reverse("api:upload", args=[upload.pk])
        return Response(upload_state(upload), status=201, headers={"Location": place})


class UploadDetail(UploadView):
    """State of an upload; withdraw it."""

    @extend_schema(responses={200: UploadForm})
    def get(self, request: Request, upload_id: uuid.UUID) -> Response:
        upload = self.upload(request, upload_id)
        record_view("upload.view", resource=upload.subject, actor=Actor.user(request.user))
        return Response(upload_state(upload))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, upload_id: uuid.UUID) -> Response:
        upload = self.upload(request, upload_id)
        with self.acting(request):
            upload_job.withdraw(upload)
        return Response(status=204)


class Complete(UploadView):
    """All files are there: have them filed. Repeating it changes nothing; a better declaration helps one that failed."""

    @extend_schema(request=DeclarationForm, responses={202: UploadForm})
    def post(self, request: Request, upload_id: uuid.UUID) -> Response:
        upload = self.upload(request, upload_id)
        declared = DeclarationForm.declared(request.data) if request.data else None
        with self.acting(request):
            upload_job.complete(upload, declared)
        return Response(upload_state(upload), status=202)
