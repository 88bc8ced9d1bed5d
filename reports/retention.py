"""What a report that was issued rests on is kept, whatever the retention policy says.

That is every stored object of its study and of the studies it was compared with, and of its patient what is of no study (the
documents that a narrative may cite). Found by following the foreign keys of all models, so that what a room adds is kept too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from django.apps import apps
from django.db.models import ForeignKey, Model

from clinical.models import Patient
from imaging.models import Comparison, Study
from oncoflow_site.foundation.models import StoredObject
from reports.models import Report

__all__ = ["rests_on"]

_REASON = "an issued report rests on it"
_DEEPEST = 3


def rests_on(rows: Sequence[StoredObject]) -> Mapping[uuid.UUID, str]:
    """For each of the objects that an issued report rests on, that it does."""
    keys = [row.pk for row in rows]
    issued = Report.objects.filter(versions__issued_at__isnull=False)
    studies = set(issued.values_list("study_id", flat=True))
    prior = Comparison.objects.filter(measurement__study__in=studies, prior_study__isnull=False)
    studies |= set(prior.values_list("prior_study_id", flat=True))
    patients = set(issued.values_list("patient_id", flat=True))
    found: set[uuid.UUID] = set()
    for model, field, path, target in _pointers():
        wanted = studies if target is Study else patients
        query = model._default_manager.filter(**{f"{field}__in": keys, f"{path}__in": wanted})
        found |= set(query.values_list(field, flat=True))
    return dict.fromkeys(found, _REASON)


@lru_cache(maxsize=1)
def _pointers() -> tuple[tuple[type[Model], str, str, type[Model]], ...]:
    """(model, field that names a stored object, path to its study or else its patient, which of the two)."""
    return tuple(_walk())


def _walk() -> Iterator[tuple[type[Model], str, str, type[Model]]]:
    for model in apps.get_models():
        fields = [one for one in model._meta.get_fields() if isinstance(one, ForeignKey)]
        names = [one.name for one in fields if one.related_model is StoredObject]
        for target in (Study, Patient):
            path = _path(model, target, _DEEPEST) if names else None
            if path is not None:
                for name in names:
                    yield model, name, path, target
                break


def _path(model: type[Model], target: type[Model], depth: int) -> str | None:
    """The shortest way along foreign keys, as Django writes it."""
    fields = [one for one in model._meta.get_fields() if isinstance(one, ForeignKey)]
    for one in fields:
        if one.related_model is target:
            return one.name
    if depth > 1:
        for one in fields:
            related = one.related_model
            if isinstance(related, type) and issubclass(related, Model) and related is not model:
                further = _path(related, target, depth - 1)
                if further is not None:
                    return f"{one.name}__{further}"
    return None
