"""Raising and clearing what is wrong with a study (`imaging.models.StudyFinding`).

Each step clears what it has raised itself and nothing else: that volumes could be made says nothing about whose they are.
"""

from __future__ import annotations

from imaging.models import FindingSeverity, Study, StudyFinding
from oncoflow_site.foundation.clock import now

__all__ = ["clear_findings", "raise_finding"]


def raise_finding(study: Study, code: str, message: str, *, severity: FindingSeverity, by: str) -> bool:
    """Note that something is wrong with ``study``, in the caller's transaction; said again it is the same row.

    :param message: a sentence for a radiologist, free of identity. :param by: the step that found it.
    :returns: True when it was not there before.
    """
    row, created = StudyFinding.objects.get_or_create(
        study=study,
        code=code,
        cleared_at=None,
        defaults={"severity": severity, "message": message[:500], "raised_by": by},
    )
    if not created and row.message != message[:500]:
        StudyFinding.objects.filter(pk=row.pk).update(message=message[:500], severity=severity)
    return created


def clear_findings(study: Study, *codes: str, by: str, raised_by: str = "") -> int:
    """Note that these are not so any more: of the codes given (all of them, where none is), those that a step raised.

    :param by: the step or the person that says so. :returns: how many were open.
    """
    rows = StudyFinding.objects.filter(study=study, cleared_at=None)
    if codes:
        rows = rows.filter(code__in=codes)
    if raised_by:
        rows = rows.filter(raised_by=raised_by)
    return rows.update(cleared_at=now(), cleared_by=by)
