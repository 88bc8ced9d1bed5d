"""The bytes of an upload over REST: tus resources (https://tus.io, protocol 1.0.0), and signed addresses for a direct PUT."""

from __future__ import annotations

import base64
import binascii
import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, acting_as
from imaging.intake import upload_session
from imaging.models import UploadFile
from oncoflow_site.api.studies import Base
from oncoflow_site.api.upload_forms import DeclarationForm, PresignedForm, PresignForm
from oncoflow_site.api.uploads import OFFSET_STREAM, TUS, LengthRequired, OffsetStreamParser, UploadView, problem
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError

_SALT = "oncoflow.upload.put"


def metadata(header: str) -> dict[str, str]:
    """The pairs of ``Upload-Metadata`` (tus 1.0.0, creation). :raises ParseError:"""
    found: dict[str, str] = {}
    for pair in filter(None, (one.strip() for one in header.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise exceptions.ParseError("Upload-Metadata is not Base64 of UTF-8.") from None
    return found


def _number(request: Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise exceptions.ParseError(f"{header} must be a number.")
    return int(text)


_TUS_HEADERS = [
    OpenApiParameter("Tus-Resumable", OpenApiTypes.STR, OpenApiParameter.HEADER, enum=[TUS]),
]


class Files(UploadView):
    """Announce a file of an upload (tus: creation), perhaps with its first bytes (creation-with-upload)."""

    @extend_schema(
        operation_id="uploads_files_create",
        request={OFFSET_STREAM: OpenApiTypes.BINARY},
        parameters=[
            *_TUS_HEADERS,
            OpenApiParameter("Upload-Length", OpenApiTypes.INT, OpenApiParameter.HEADER, required=True),
            OpenApiParameter(
                "Upload-Metadata",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="filename, sha256 (64 hexadecimal digits) and fingerprint, each value in Base64",
            ),
        ],
        responses={201: OpenApiResponse(description="Location and Upload-Offset of the file")},
    )
    def post(self, request: Request, upload_id: uuid.UUID) -> Response:
        upload = self.upload(request, upload_id)
        told = metadata(request.headers.get("Upload-Metadata", ""))
        size = _number(request, "Upload-Length")
        brought = _content_length(request) if request.content_type == OFFSET_STREAM else 0
        if brought > size:
            raise UserVisibleError("That is more than was declared.", code="too-large")
        file = upload_session.add_file(
            upload,
            name=told.get("filename", ""),
            size=size,
            sha256=told.get("sha256", "").lower(),
            fingerprint=told.get("fingerprint", ""),
        )
        offset = file.offset
        if brought and offset == 0:
            offset = upload_session.append(file, 0, request._request, brought)
        place = reverse("api:upload-file", args=[upload.pk, file.pk])
        return Response(status=201, headers={"Location": place, **_offset_headers(file, offset)})


def _content_length(request: Request) -> int:
    if not request.headers.get("Content-Length"):
        raise LengthRequired
    return _number(request, "Content-Length")


def _offset_headers(file: UploadFile, offset: int) -> dict[str, str]:
    expires = file.upload.expires_at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    return {"Upload-Offset": str(offset), "Upload-Length": str(file.size), "Upload-Expires": expires}


class FileDetail(UploadView):
    """One file as a tus resource: how far it is (HEAD), and more of it (PATCH)."""

    def head(self, request: Request, upload_id: uuid.UUID, file_id: uuid.UUID) -> Response:
        file = self.file(request, upload_id, file_id)
        return Response(headers=_offset_headers(file, file.offset))

    @extend_schema(
        request={OFFSET_STREAM: OpenApiTypes.BINARY},
        parameters=[
            *_TUS_HEADERS,
            OpenApiParameter("Upload-Offset", OpenApiTypes.INT, OpenApiParameter.HEADER, required=True),
        ],
        responses={
            204: OpenApiResponse(description="Upload-Offset: what is durable now"),
            409: OpenApiResponse(description="Another offset is next: ask with HEAD"),
        },
    )
    def patch(self, request: Request, upload_id: uuid.UUID, file_id: uuid.UUID) -> Response:
        if request.content_type != OFFSET_STREAM:
            raise exceptions.UnsupportedMediaType(request.content_type)
        file = self.file(request, upload_id, file_id)
        length = _content_length(request)
        offset = upload_session.append(file, _number(request, "Upload-Offset"), request._request, length)
        return Response(status=204, headers=_offset_headers(file, offset))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, upload_id: uuid.UUID, file_id: uuid.UUID) -> Response:
        file = self.file(request, upload_id, file_id)
        upload_session.remove_file(file)
        return Response(status=204)


class Presign(UploadView):
    """An address to which one file can be put directly: of the object store where there is one, else of this service."""

    @extend_schema(request=PresignForm, responses={201: PresignedForm})
    def post(self, request: Request) -> Response:
        wanted = PresignForm.valid(request.data)
        with self.acting(request):
            if wanted.get("upload"):
                upload = self.upload(request, wanted["upload"])
            else:
                upload = upload_session.create(request.user, DeclarationForm.of(wanted.get("declaration")))
            file = upload_session.add_file(
                upload, name=wanted["name"], size=wanted["size"], sha256=wanted["sha256"].lower(), signed=True
            )
            signed = upload_session.sign(file)
        if signed is None:
            url, headers, expires_at = self._own_address(request, file)
        else:
            url, headers, expires_at = signed.url, dict(signed.headers), signed.expires_at
        body = {
            "id": str(upload.pk),
            "file": str(file.pk),
            "method": "PUT",
            "url": url,
            "headers": headers,
            "expires_at": expires_at.isoformat(),
            "max_bytes": file.size,
        }
        return Response(body, status=201)

    def _own_address(self, request: Request, file: UploadFile) -> tuple[str, dict[str, str], Any]:
        token = signing.TimestampSigner(salt=_SALT).sign_object(str(file.pk))
        url = request.build_absolute_uri(reverse("api:upload-put", args=[token]))
        expires_at = now() + timedelta(seconds=int(settings.ONCOFLOW_PRESIGN_SECONDS))
        return url, {"Content-Type": "application/octet-stream"}, expires_at


class AnyBytes(OffsetStreamParser):
    """A body of whatever type."""

    media_type = "*/*"


class SignedPut(Base):
    """Takes one file by its signed address, as an object store would. The address alone allows it."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    parser_classes = [AnyBytes]

    def get_exception_handler(self) -> Any:
        return problem

    @extend_schema(
        auth=[],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={
            200: OpenApiResponse(description="All of it is durable"),
            403: OpenApiResponse(description="Expired"),
        },
    )
    def put(self, request: Request, token: str) -> Response:
        try:
            key = signing.TimestampSigner(salt=_SALT).unsign_object(
                token, max_age=int(settings.ONCOFLOW_PRESIGN_SECONDS)
            )
            file = UploadFile.objects.select_related("upload__owner").get(pk=uuid.UUID(key), signed=True)
        except (signing.BadSignature, UploadFile.DoesNotExist, ValueError):
            raise PermissionDenied from None
        if not request.headers.get("Content-Length"):
            raise LengthRequired
        with acting_as(Actor.user(file.upload.owner), source="api"):
            etag = upload_session.put_whole(file, request._request, _number(request, "Content-Length"))
        return Response(status=200, headers={"ETag": f'"{etag}"'})
