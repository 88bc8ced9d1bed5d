"""Errors of the REST interface as problem details (RFC 9457, ``application/problem+json``)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework.exceptions import APIException
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import exception_handler

from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.request_id import current_request_id


class ProblemRenderer(JSONRenderer):
    """JSON, labelled as problem details where the answer is an error."""

    def get_media(self, status: int) -> str:
        return "application/problem+json" if status >= 400 else "application/json"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        response = (renderer_context or {}).get("response")
        if response is not None and response.status_code >= 400:
            response.headers["Content-Type"] = "application/problem+json"
        return bytes(super().render(data, accepted_media_type, renderer_context))


def handle(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Any error of a view as problem details; None lets Django answer 500 for what nobody foresaw."""
    if isinstance(error, UserVisibleError):
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), error.code)
    answered = exception_handler(error, dict(context))
    if answered is None:
        return None
    detail = ""
    if isinstance(error, APIException) and isinstance(error.detail, str):
        detail = str(error.detail)
    elif isinstance(error, (Http404, PermissionDenied)):
        detail = "It does not exist, or you may not see it."
    problem = _problem(HTTPStatus(answered.status_code), detail)
    for name, value in answered.headers.items():
        if name.lower() in {"www-authenticate", "retry-after"}:
            problem.headers[name] = value
    return problem


def _problem(status: HTTPStatus, detail: str, code: str = "") -> Response:
    body = {
        "type": f"urn:oncoflow:problem:{code}" if code else "about:blank",
        "title": status.phrase,
        "status": int(status),
    }
    if detail:
        body["detail"] = detail
    body["instance"] = f"urn:oncoflow:request:{current_request_id() or 'unknown'}"
    return Response(body, status=int(status), content_type="application/problem+json")
