"""A study that came in by DICOM and went through de-identification, and who may ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from clinical.access import assign
from clinical.models import User
from fhir_api.access.tokens import create_token
from imaging.models import Study
from tests.factories.published_studies import account, study
from tests.peers import free_port, served_site

__all__ = ["study"]  # fixtures


@pytest.fixture
def machine(db: None) -> User:
    """A connected system."""
    return account("pacs", "integration")


@pytest.fixture
def reader(study: Study) -> User:
    """A radiologist on the care team."""
    user = account("rhea", "radiologist")
    assign(user, study.patient, reason="reads the images", by=None)
    return user


@pytest.fixture
def token(machine: User) -> str:
    """The connected system's bearer token, with the scopes such a token gets."""
    return create_token(machine, "viewer")[1]


@pytest.fixture
def ask(token: str) -> Callable[..., Any]:
    """``ask(path, accept=...)``: a GET with the token, in process."""

    def get(path: str, accept: str = "", **query: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} | ({"Accept": accept} if accept else {})
        return Client().get(f"/dicomweb{path}", query, headers=headers)

    return get


@pytest.fixture
def live(transactional_db: None, settings: Any) -> Iterator[str]:
    """Address of the whole service, served by uvicorn as it is in production."""
    port = free_port()
    settings.ONCOFLOW_BASE_URL = f"http://127.0.0.1:{port}"
    with served_site(port) as address:
        yield address
