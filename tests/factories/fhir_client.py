"""A client of the FHIR server, in process."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client


class Fhir:
    """A client with a token."""

    def __init__(self, token: str = "") -> None:
        self.client = Client(headers={"Authorization": f"Bearer {token}"} if token else {})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = headers.pop("content_type", "application/fhir+json")
        return self.client.post(f"/fhir/{path}", data=data, content_type=kind, headers=headers)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(f"/fhir/{path}", headers=headers)
