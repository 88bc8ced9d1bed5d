"""Errors and answers of the FHIR door. Diagnostics never quote what the client sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoDenied
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from fhir_api.r4.resources.resource import Resource
from oncoflow_site.foundation.errors import TransientError, UserVisibleError, safe_error_text

__all__ = ["CONTENT_TYPE", "FhirError", "answer", "exception_handler", "outcome"]

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/fhir+json; fhirVersion=4.0; charset=utf-8"

# HTTP status -> FHIR issue-type, where the error itself does not say.
_ISSUE = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    409: "conflict",
    412: "multiple-matches",
    413: "too-long",
    415: "not-supported",
    422: "processing",
    429: "throttled",
    503: "transient",
}


class FhirError(Exception):
    """Becomes an OperationOutcome.

    :param status: HTTP status. :param code: FHIR issue-type. :param text: free of identity.
    :param expression: FHIRPath of the element concerned.
    """

    def __init__(self, status: int, text: str, *, code: str = "", expression: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.code = code or _ISSUE.get(status, "processing")
        self.expression = expression


def outcome(code: str, text: str, expression: str = "", severity: str = "error") -> Resource:
    """An OperationOutcome with one issue."""
    issue: Resource = {"severity": severity, "code": code, "diagnostics": text}
    if expression:
        issue["expression"] = [expression]
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def answer(resource: Resource | bytes, status: int = 200, **headers: str) -> HttpResponse:
    """An HTTP response; keyword names become header names (``_`` for ``-``)."""
    body = resource if isinstance(resource, bytes) else json.dumps(resource, ensure_ascii=False).encode()
    response = HttpResponse(body, status=status, content_type=CONTENT_TYPE)
    response.headers["Cache-Control"] = "no-store"
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Every error of a FHIR view as an OperationOutcome."""
    headers: dict[str, str] = {}
    if isinstance(error, FhirError):
        return answer(outcome(error.code, str(error), error.expression), error.status)
    if isinstance(error, UserVisibleError):
        return answer(outcome("business-rule", str(error)), 422)
    if isinstance(error, (DjangoDenied, exceptions.PermissionDenied)):
        return answer(outcome("forbidden", "This is not permitted."), 403)
    if isinstance(error, (Http404, exceptions.NotFound)):
        return answer(outcome("not-found", "There is no such resource."), 404)
    if isinstance(error, RequestDataTooBig):
        return answer(outcome("too-long", "The body is too large."), 413)
    if isinstance(error, TransientError):
        return answer(outcome("transient", "Not possible at the moment; please try again."), 503)
    if isinstance(error, exceptions.APIException):
        status = int(error.status_code)
        if getattr(error, "auth_header", None):
            headers["WWW_Authenticate"] = str(error.auth_header)  # type: ignore[attr-defined]
        return answer(outcome(_ISSUE.get(status, "processing"), str(error.default_detail)), status, **headers)
    logger.error("fhir: request failed: %s", safe_error_text(error))
    return answer(outcome("exception", "An internal error occurred; it has been logged."), 500)
