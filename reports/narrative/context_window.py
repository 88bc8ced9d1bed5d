"""Which documents are context of a study: none written after it, and those whose date does not tell are marked.

What was written afterwards may rest on this very study, or on a later one; it says nothing about what was known then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from django.conf import settings

from oncoflow_site.foundation.clock import DatedMoment, Precision, local
from reports.narrative.sentences import SourceText

__all__ = ["end_of_context", "without_later"]


def end_of_context(performed_at: datetime) -> datetime:
    """``ONCOFLOW_CONTEXT_DAYS`` days after the study."""
    return performed_at + timedelta(days=int(settings.ONCOFLOW_CONTEXT_DAYS))


def without_later(sources: Sequence[SourceText], performed_at: datetime) -> list[SourceText]:
    """The sources that are not surely later than the study's context; those that may be are marked so."""
    end = end_of_context(performed_at)
    return [
        replace(one, may_be_later=one.authored is None or _last_day(one.authored) > end)
        for one in sources
        if one.authored_on is None or one.authored_on <= end
    ]


def _last_day(authored: DatedMoment) -> datetime:
    """The start of the last day that a date may mean: of a month its last, of a year that of December."""
    first = local(authored.moment)
    if authored.precision == Precision.YEAR:
        return first.replace(year=first.year + 1, month=1, day=1) - timedelta(days=1)
    if authored.precision == Precision.MONTH:
        return (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return first
