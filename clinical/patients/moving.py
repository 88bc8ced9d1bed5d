"""What moves with a patient when two records are merged, and what stays where it is.

Every room says so for each of its models that point at a patient; a test fails on one that nobody named.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from django.apps import apps
from django.db import models

from clinical.models import Patient

__all__ = ["models_that_move", "models_that_stay", "moves_with_patient", "stays_with_record", "unnamed_models"]

_moves: dict[str, str] = {}
_stays: dict[str, str] = {}


def moves_with_patient(label: str, *, name: str) -> None:
    """Rows of the model ``label`` (e.g. ``clinical.Order``) follow their patient: its field ``patient`` is rewritten.

    :param name: what a person calls such rows, plural.
    """
    _moves[label] = name


def stays_with_record(label: str, why: str) -> None:
    """Rows of the model ``label`` stay with the record that was merged."""
    _stays[label] = why


def models_that_move() -> list[tuple[type[models.Model], str]]:
    """(model, what a person calls its rows), in the order in which the rooms named them."""
    return [(apps.get_model(label), name) for label, name in _moves.items()]


def models_that_stay() -> Mapping[str, str]:
    """Label -> why."""
    return MappingProxyType(_stays)


def unnamed_models() -> list[str]:
    """Labels of models with a relation to `Patient` of which no room has said whether they move."""
    return sorted(
        {
            model._meta.label
            for model in apps.get_models()
            for field in model._meta.get_fields()
            if isinstance(field, models.ForeignKey) and field.related_model is Patient
        }
        - _moves.keys()
        - _stays.keys()
    )


moves_with_patient("clinical.Order", name="orders")
moves_with_patient("clinical.ClinicalDocument", name="documents")
moves_with_patient("clinical.CareAssignment", name="care team members")
moves_with_patient("clinical.Notice", name="notices")
moves_with_patient("clinical.IdentityConflict", name="open identity questions")
stays_with_record("clinical.Patient", "the merge itself")
stays_with_record("clinical.PatientIdentity", "who the record says the patient is: an unmerge needs it as it was")
stays_with_record("clinical.PatientIdentifier", "the numbers of a merged record find the survivor through it")
stays_with_record("clinical.PatientIndex", "a former name finds the record, which leads to the survivor")
stays_with_record("clinical.PatientUserPermission", "it follows from the care assignments")
stays_with_record("clinical.PatientGroupPermission", "it is empty")
stays_with_record("clinical.PatientMerge", "which records were merged")
