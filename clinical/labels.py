"""Teaches the audit view pseudonyms and user names."""

from __future__ import annotations

import uuid

from audit.views import name_patients_with, name_users_with
from clinical.models import Patient, User

__all__: list[str] = []


def _find(text: str) -> uuid.UUID | None:
    patient = Patient.objects.filter(pseudonym=text.strip().upper()).only("pk").first()
    return patient.pk if patient else None


def _pseudonyms(ids: set[uuid.UUID]) -> dict[uuid.UUID, str]:
    return dict(Patient.objects.filter(pk__in=ids).values_list("pk", "pseudonym"))


def _usernames(ids: set[str]) -> dict[str, str]:
    keys = []
    for text in ids:
        try:
            keys.append(uuid.UUID(text))
        except ValueError:
            continue
    return {str(key): name for key, name in User.objects.filter(pk__in=keys).values_list("pk", "username")}


name_patients_with(_find, _pseudonyms)
name_users_with(_usernames)
