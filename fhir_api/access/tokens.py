"""Bearer tokens with SMART 2 scopes: made, hashed, revoked."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction

from audit.services import record
from fhir_api.models import ApiToken
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.scopes import is_scope

__all__ = ["PREFIX", "create_token", "default_scopes", "hash_token", "revoke_token"]


PREFIX = "of_"  # lets secret scanners recognise a leaked token


def hash_token(token: str) -> str:
    """SHA-256, hexadecimal. The token holds 256 random bits, so neither salt nor slow hashing adds anything."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def default_scopes(role: str) -> list[str]:
    """What a token of this role gets unless told otherwise."""
    if role == "integration":
        return ["system/DocumentReference.crs", "system/ServiceRequest.crs", "system/ImagingStudy.crs", "system/*.rs"]
    return ["user/*.rs"]


def create_token(
    user: Any, name: str, *, scopes: Iterable[str] | None = None, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """Make a token; the second value is the token itself, which is nowhere else.

    Raises `UserVisibleError` for a scope that is not SMART 2, or a name that this account uses already.
    """
    wanted = list(scopes) if scopes is not None else default_scopes(str(getattr(user, "role", "")))
    for scope in wanted:
        if not is_scope(scope):
            raise UserVisibleError(
                f"{scope!r} is not a scope.", what_to_do="Write e.g. system/DocumentReference.crs", code="bad-scope"
            )
    with transaction.atomic():
        if ApiToken.objects.filter(user=user, name=name).exists():
            raise UserVisibleError(
                "This account has a token of that name.",
                what_to_do="Revoke it or take another name.",
                code="token-name",
            )
        token = PREFIX + secrets.token_urlsafe(32)
        row = ApiToken.objects.create(
            user=user, name=name, token_hash=hash_token(token), scopes=wanted, expires_at=expires_at
        )
        record(
            "token.create", action="C", resource=f"token:{row.id}", detail={"account": str(user.pk), "scopes": wanted}
        )
    return row, token


def revoke_token(row: ApiToken) -> None:
    """End a token now."""
    with transaction.atomic():
        if ApiToken.objects.filter(pk=row.pk, revoked_at=None).update(revoked_at=now()):
            record("token.revoke", action="D", resource=f"token:{row.id}")
