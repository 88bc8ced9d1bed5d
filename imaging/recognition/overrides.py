"""A person says what a series shows; the study is then prepared anew, and the answer kept for that protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import PermissionDenied
from django.db import transaction

from audit import services as audit
from clinical import services as clinical
from imaging.models import MrSequence, Series
from imaging.recognition.learned_protocols import keep
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.jobs import enqueue

if TYPE_CHECKING:
    from clinical.models import User

__all__ = ["override_sequence"]


def override_sequence(series: Series, sequence: str, *, by: User) -> Series:
    """Set what ``series`` shows, on the record, have its study prepared again, and keep it for the next of its protocol.

    :param sequence: a value of `imaging.models.Sequence` other than ``unknown``.
    :raises PermissionDenied: the role may not, or the patient is not theirs; the refusal is recorded.
    :raises UserVisibleError: no such sequence.
    """
    if sequence not in MrSequence.values or sequence == MrSequence.UNKNOWN:
        raise UserVisibleError(
            "That is not a sequence.", what_to_do="Choose T1, T1c, T2, FLAIR or other.", code="bad-sequence"
        )
    study = series.study
    if not (clinical.can(by, "override_sequence") and clinical.user_can_see(by, study.patient)):
        audit.record_refusal(
            "series.override",
            action="U",
            resource=f"series:{series.pk}",
            patient_id=study.patient_id,
            actor=audit.Actor.user(by),
        )
        raise PermissionDenied
    with transaction.atomic():
        before = series.sequence
        series.sequence, series.sequence_confidence, series.overridden_by = sequence, 1.0, by
        series.sequence_reason = f"said by a person; was {before}"
        series.save(update_fields=["sequence", "sequence_confidence", "overridden_by", "sequence_reason"])
        audit.record(
            "series.override",
            action="U",
            resource=f"series:{series.pk}",
            patient_id=study.patient_id,
            actor=audit.Actor.user(by),
            detail={"before": before, "after": sequence},
        )
        keep(series.protocol, sequence, by=by)
        enqueue(
            "imaging.prepare_study",
            subject=study.subject,
            key=f"override:{series.pk}:{new_id()}",
            kwargs={"study_id": str(study.pk)},
        )
    return series
