"""Kinds of stored objects of this room that the retention policy can name besides those that objects carry."""

from __future__ import annotations

from django.db.models import QuerySet

from imaging.models import Instance, InstanceState
from oncoflow_site.foundation.models import StoredObject

__all__ = ["originals"]


def originals(*, quarantined: bool) -> QuerySet[StoredObject]:
    """DICOM as received: of instances in quarantine, or of all others."""
    apart = Instance.objects.filter(state=InstanceState.QUARANTINED).values("original")
    rows = StoredObject.objects.filter(kind="dicom-original")
    return rows.filter(pk__in=apart) if quarantined else rows.exclude(pk__in=apart)
