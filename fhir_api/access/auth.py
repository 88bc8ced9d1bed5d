"""Authentication by bearer token (RFC 6750) for the FHIR door and the REST interface."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from audit.services import Actor, record_refusal
from fhir_api.access.tokens import hash_token
from fhir_api.models import ApiToken
from oncoflow_site.foundation.clock import now

__all__ = ["BearerAuthentication"]


class BearerAuthentication(BaseAuthentication):
    """``Authorization: Bearer <token>``. ``request.auth`` is the `ApiToken`."""

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        """The account and its token; None without a bearer header. Raises `AuthenticationFailed`, audited."""
        header = get_authorization_header(request).split()
        if not header or header[0].lower() != b"bearer":
            return None
        token = header[1].decode("latin-1") if len(header) == 2 and len(header[1]) <= 200 else ""
        row = ApiToken.objects.select_related("user").filter(token_hash=hash_token(token)).first() if token else None
        if row is None or not row.usable():
            reason = "unknown" if row is None else "revoked-or-expired"
            record_refusal(
                "fhir.refuse",
                action="E",
                resource=f"token:{row.id}" if row else "token:unknown",
                actor=Actor.peer("unknown"),
                source="fhir",
                detail={"reason": f"token-{reason}"},
            )
            raise AuthenticationFailed("The bearer token is not valid.")
        moment = now()
        if row.last_used_at is None or moment - row.last_used_at > timedelta(minutes=1):
            ApiToken.objects.filter(pk=row.pk).update(last_used_at=moment)
        return row.user, row

    def authenticate_header(self, request: Request) -> str:
        """``WWW-Authenticate`` of a 401."""
        return 'Bearer realm="oncoflow"'
