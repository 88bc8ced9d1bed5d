"""What every request to the DICOMweb door passes: who it is, what they may see, and errors in one form.

Persons see the patients of their care assignments; connected systems need the scope ``ImagingStudy`` with r, s or c. What
does not exist and what may not be seen look alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db.models import F, Q, QuerySet
from django.http import Http404, HttpResponse
from rest_framework import exceptions
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from audit.services import Actor, record_refusal
from clinical.access import patients_for
from clinical.roles import can
from imaging.dicomweb.content_negotiation import MediaRange, NotAcceptable, accepted
from imaging.dicomweb.frame_decoding import Undecodable
from imaging.dicomweb.qido_query import BadQuery
from imaging.models import InstanceState, PublishedInstance, Study
from oncoflow_site.foundation.models import DataKey
from oncoflow_site.foundation.request_id import current_request_id
from oncoflow_site.foundation.scopes import scope_allows

__all__ = ["SERVICE", "DicomWebView", "offered", "problem", "shown", "warning"]

SERVICE = "OncoFlow"
RESOURCE = "ImagingStudy"
_EVENTS = {"r": "dicomweb.read", "s": "dicomweb.search", "c": "dicomweb.store"}


def problem(status: int, detail: str) -> HttpResponse:
    """An error as problem details (RFC 9457), which PS3.18 leaves to the server."""
    body = {
        "type": "about:blank",
        "title": HttpResponse(status=status).reason_phrase,
        "status": status,
        "detail": detail,
        "instance": f"urn:oncoflow:request:{current_request_id() or 'unknown'}",
    }
    return HttpResponse(json.dumps(body), status=status, content_type="application/problem+json")


def warning(text: str) -> str:
    """Value of a Warning header (PS3.18 section 8.3.4.4: 299, the service, the text)."""
    return f'299 {SERVICE} "{text}"'


def _handle(error: Exception, context: Mapping[str, Any]) -> Any:
    if isinstance(error, NotAcceptable):
        return problem(406, f"Not acceptable: {error}.")
    if isinstance(error, BadQuery):
        return problem(400, f"The request cannot be understood: {error}.")
    if isinstance(error, Undecodable):
        return problem(406, f"Not acceptable: {error}.")
    if isinstance(error, (Http404, exceptions.NotFound)):
        return problem(404, "It does not exist, or you may not see it.")
    answered: Response | None = exception_handler(error, dict(context))
    if answered is None:
        return None
    detail = str(getattr(error, "detail", "") or "You may not do this.")
    made = problem(
        answered.status_code, detail if isinstance(error, exceptions.APIException) else "You may not do this."
    )
    for name, value in answered.headers.items():
        if name.lower() in {"www-authenticate", "retry-after"}:
            made.headers[name] = value
    return made


class DicomWebView(APIView):
    """Common to all resources. Authentication is that of the whole service (session or bearer token)."""

    interaction = "r"
    """The letter of the scope that a token needs: r to retrieve, s to search, c to store."""

    def get_exception_handler(self) -> Any:
        return _handle

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[BaseRenderer, str]:
        # Answers are made by the views, in media types that renderers have no words for.
        return JSONRenderer(), "application/json"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        why = self._refusal(request)
        if why:
            record_refusal(
                _EVENTS[self.interaction],
                action="E" if self.interaction == "s" else "R" if self.interaction == "r" else "C",
                resource="dicomweb",
                actor=Actor.user(request.user),
                detail={"why": why},
            )
            raise PermissionDenied

    def _refusal(self, request: Request) -> str:
        """Why this caller may not do this at all; empty where they may."""
        scopes = getattr(request.auth, "scopes", None)
        if request.auth is not None and not scope_allows(scopes or (), RESOURCE, self.interaction):
            return "scope"
        needed = "send_data" if self.interaction == "c" else "view_patient"
        return "" if can(request.user, needed) else "role"

    def ranges(self, request: Request) -> list[MediaRange]:
        """What the client accepts, best first. :raises NotAcceptable: unreadable."""
        return accepted(request.headers.get("Accept", ""), request.query_params.get("accept", ""))

    def study(self, request: Request, study_uid: str) -> Study:
        """The study of that (de-identified) UID. :raises Http404: none, or not theirs; the latter is recorded."""
        study = Study.objects.select_related("patient").filter(deidentified_uid=study_uid).first()
        if study is None:
            raise Http404
        if not patients_for(request.user).filter(pk=study.patient_id).exists():
            record_refusal(
                _EVENTS[self.interaction],
                action="E" if self.interaction == "s" else "R",
                resource=study.subject,
                patient_id=study.patient_id,
                actor=Actor.user(request.user),
                detail={"why": "not permitted"},
            )
            raise Http404
        return study

    def base_url(self, request: Request) -> str:
        """Where this door is, as the client reaches it, without a slash at the end."""
        path = request.path[: request.path.index("/dicomweb") + len("/dicomweb")]
        known = urlsplit(str(settings.ONCOFLOW_BASE_URL))
        if known.port and request.get_host() == known.hostname:
            # Some clients (dicomweb-client) leave the port out of Host; ours is the one that is configured.
            return f"{known.scheme}://{known.netloc}{path}"
        return str(request.build_absolute_uri(path))


def offered(user: Any) -> QuerySet[PublishedInstance]:
    """Everything the door offers to ``user``: de-identified and not quarantined since, and our own objects.

    What retention removed or a destroyed key encrypts is gone: one such patient must not make every search fail.
    """
    erased = DataKey.objects.filter(destroyed_at__isnull=False).values("subject")
    return (
        shown(PublishedInstance.objects.filter(study__patient__in=patients_for(user)))
        .exclude(object__subject__in=erased)
        .select_related("object")
    )


def shown(rows: QuerySet[PublishedInstance]) -> QuerySet[PublishedInstance]:
    """Those of ``rows`` that may be shown now, whatever the index held when they were put there: their bytes are there, the
    instance is not back in quarantine, and with ``ONCOFLOW_DEFACE`` it is the copy without a face."""
    kept = rows.filter(object__removed_at=None).exclude(
        instance__isnull=False, instance__state__in=[InstanceState.QUARANTINED, InstanceState.RECEIVED]
    )
    if settings.ONCOFLOW_DEFACE:
        kept = kept.filter(Q(instance__isnull=True) | Q(instance__defaced__object=F("object")))
    return kept
