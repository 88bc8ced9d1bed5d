"""How the API's schema describes what is particular to us."""

from __future__ import annotations

from typing import Any

from drf_spectacular.contrib import pydantic  # noqa: F401  (schemas of `answers` in the document)
from drf_spectacular.extensions import OpenApiAuthenticationExtension

__all__ = ["BearerScheme"]


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Bearer tokens of `fhir_api.access.auth`."""

    target_class = "fhir_api.access.auth.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "manage.py create_token"}
