"""People and patients for the tests of this room."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import date

import pytest

from clinical.identity import Identifier, IdentityData
from clinical.models import Patient, User
from clinical.registry import register_patient

_numbers = itertools.count(1000)


@pytest.fixture
def make_user() -> Callable[..., User]:
    """``make_user("radiologist")``"""

    def make(role: str = "radiologist", **more: object) -> User:
        return User.objects.create_user(username=f"{role}-{next(_numbers)}", role=role, **more)

    return make


@pytest.fixture
def make_patient() -> Callable[..., Patient]:
    """``make_patient(family="Adler", mrn="A1")``"""

    def make(family: str = "Adler", given: str = "Berta", mrn: str | None = None, **more: object) -> Patient:
        identity = IdentityData(
            family=family,
            given=given,
            birth_date=more.pop("birth_date", date(1961, 3, 7)),  # type: ignore[arg-type]
            sex="F",
            identifiers=(Identifier("DEMOHOSP", mrn or f"M{next(_numbers)}"),),
        )
        return register_patient(identity, source="command", **more)  # type: ignore[arg-type]

    return make
