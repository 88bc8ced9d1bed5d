"""Merging two records of one person, and taking a merge back.

A merge is bookkeeping and loses nothing: the prior record keeps its identity and its numbers and points at the survivor,
rows that hang on it are moved and each move is kept as a row, bytes and their keys stay as they are. Signed report versions
are never rewritten. An unmerge gives back exactly what was moved, and of what came since what a person chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, models, transaction
from django.db.models import QuerySet

from audit.actors import Actor
from audit.services import record, record_refusal
from clinical.access import identities_for, sync_permission
from clinical.events import IDENTITY_DECIDED, MERGE_REQUESTED, PATIENTS_MERGED, PATIENTS_UNMERGED
from clinical.models import (
    CONFLICT_MACHINE,
    MERGE_MACHINE,
    ConflictState,
    IdentityConflict,
    MergedRecord,
    MergeState,
    Patient,
    PatientMerge,
    User,
)
from clinical.patients.matching import contradictions
from clinical.patients.moving import models_that_move
from clinical.registry import current_patient, known_identity
from clinical.roles import can
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove, UserVisibleError
from oncoflow_site.foundation.events import emit

__all__ = [
    "MergePreview",
    "MovedRows",
    "approve_merge",
    "came_since",
    "contradictions_between",
    "merge_patients",
    "merges_for",
    "patient_at",
    "preview_merge",
    "refuse_merge",
    "unmerge",
]


@dataclass(frozen=True)
class MovedRows:
    """Rows of one model: its Django label, what a person calls them, how many, and their ids where they are few."""

    label: str
    name: str
    count: int
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergePreview:
    """What a merge would do.

    :param rows: what moves from the prior record to the survivor.
    :param contradicts: of name, birth_date and sex: what speaks against the two being one person.
    """

    survivor: Patient
    prior: Patient
    rows: tuple[MovedRows, ...]
    contradicts: tuple[str, ...]
    needs_second_person: bool


def second_person_needed() -> bool:
    """Whether this site wants a merge by hand to be confirmed by another person."""
    return bool(getattr(settings, "ONCOFLOW_MERGE_SECOND_PERSON", False))


def _refuse(user: User, event: str, merge: PatientMerge | None, patient: Patient | None) -> PermissionDenied:
    record_refusal(
        event,
        action="E",
        resource=f"merge:{merge.pk}" if merge else "merge",
        patient_id=patient.pk if patient else None,
        actor=Actor.user(user),
        detail={"why": "not permitted"},
    )
    return PermissionDenied("You may not merge these records.")


def _require(user: User, event: str, *patients: Patient, merge: PatientMerge | None = None) -> None:
    wanted = {current_patient(one).pk for one in Patient.objects.filter(pk__in=[one.pk for one in patients])}
    if not can(user, "resolve_identity") or identities_for(user).filter(pk__in=wanted).count() != len(wanted):
        raise _refuse(user, event, merge, patients[0] if patients else None)


def _check_pair(survivor: Patient, prior: Patient) -> None:
    if survivor.pk == prior.pk:
        raise UserVisibleError("These are one record.", what_to_do="Choose two records.", code="merge-of-one")
    if survivor.merged_into_id or prior.merged_into_id:
        raise UserVisibleError(
            "One of the records has been merged already.",
            what_to_do="Look at the record it was merged into.",
            code="merge-already",
        )


def _rows(model: type[models.Model], patient: Patient) -> QuerySet[Any]:
    return model._default_manager.filter(patient=patient)


def preview_merge(survivor: Patient, prior: Patient, *, by: User) -> MergePreview:
    """What merging ``prior`` into ``survivor`` would move, and what contradicts it. Changes nothing; on the record.

    :raises PermissionDenied: one of them is not this person's to work on. :raises UserVisibleError: not two records.
    """
    _require(by, "patient.merge_preview", survivor, prior)
    _check_pair(survivor, prior)
    rows = tuple(
        MovedRows(model._meta.label, name, count)
        for model, name in models_that_move()
        if (count := _rows(model, prior).count())
    )
    with transaction.atomic():
        found = contradictions(known_identity(survivor), known_identity(prior))
        record(
            "patient.merge_preview",
            action="R",
            resource=f"patient:{survivor.pk}",
            patient_id=survivor.pk,
            actor=Actor.user(by),
            detail={"prior": prior.pk, "contradicts": list(found)},
        )
    return MergePreview(survivor, prior, rows, found, second_person_needed())


def merge_patients(
    survivor: Patient,
    prior: Patient,
    *,
    by: User | None,
    reason: str,
    source: str,
    sender: str = "",
    hold: bool = False,
) -> PatientMerge:
    """Merge ``prior`` into ``survivor``; emits ``patients.merged``. Where a second person is wanted, or ``hold`` says so, it is
    only asked for (``merge.requested``).

    :param by: who asks; None for a connected system, named in ``sender``, whose door has checked that it may.
    :param hold: put it on the work list, because something speaks against it.
    :raises PermissionDenied: a person who may not (recorded first). :raises UserVisibleError: not two records, or no reason.
    """
    if by is not None:
        _require(by, "patient.merge", survivor, prior)
        if not reason.strip():
            raise UserVisibleError("A reason is needed.", what_to_do="Say how you know.", code="no-reason")
    wait = hold or (by is not None and second_person_needed())
    try:
        with transaction.atomic():
            survivor, prior = _locked_pair(survivor, prior)
            _check_pair(survivor, prior)
            merge = PatientMerge(
                survivor=survivor,
                prior=prior,
                contradicts=list(contradictions(known_identity(survivor), known_identity(prior))),
                source=source,
                sender=sender[:150],
                reason=reason.strip()[:300],
                requested_by=by,
            )
            merge.save(force_insert=True)
            if not wait:
                return _perform(merge, by)
            record(
                "patient.merge_request",
                action="C",
                resource=f"merge:{merge.pk}",
                patient_id=survivor.pk,
                actor=Actor.user(by) if by else None,
                source=source,
                detail={"prior": prior.pk, "contradicts": merge.contradicts},
            )
            emit(MERGE_REQUESTED, subject=f"patientmerge:{merge.pk}", patient_id=survivor.pk)
            return merge
    except IntegrityError:
        raise UserVisibleError(
            "A merge of this record has been asked for already.",
            what_to_do="Decide that one first.",
            code="merge-asked-for",
        ) from None


def contradictions_between(survivor: Patient, prior: Patient) -> tuple[str, ...]:
    """What of name, birth date and sex speaks against the two records being one person's."""
    return contradictions(known_identity(survivor), known_identity(prior))


def _locked_pair(survivor: Patient, prior: Patient) -> tuple[Patient, Patient]:
    """Both rows as they are now, locked in one order whoever asks (SQLite: the transaction is exclusive anyway)."""
    rows = {
        one.pk: one for one in Patient.objects.select_for_update().filter(pk__in=[survivor.pk, prior.pk]).order_by("pk")
    }
    return rows[survivor.pk], rows[prior.pk]


def _move_on(merge: PatientMerge, event: str, **fields: object) -> None:
    try:
        MERGE_MACHINE.advance(merge, event, **fields)
    except IllegalMove:
        raise UserVisibleError(
            f"This merge is {merge.get_state_display()}.", what_to_do="Look at it again.", code="merge-decided"
        ) from None


def _perform(merge: PatientMerge, by: User | None) -> PatientMerge:
    """Move the rows and point the prior record at the survivor, in the caller's transaction, both rows locked."""
    survivor, prior = merge.survivor, merge.prior
    _move_on(merge, "merge", decided_by=by, merged_at=now())
    staff = list(User.objects.filter(assignments__patient=prior).distinct())
    counts: dict[str, int] = {}
    for model, _ in models_that_move():
        ids = [str(one) for one in _rows(model, prior).values_list("pk", flat=True)]
        MergedRecord.objects.bulk_create(
            [MergedRecord(merge=merge, model=model._meta.label, record_id=one) for one in ids], batch_size=500
        )
        _rows(model, prior).update(patient=survivor)
        if ids:
            counts[model._meta.label] = len(ids)
    prior.merged_into = survivor
    prior.save(update_fields=["merged_into", "updated_at"])
    Patient.objects.filter(pk=survivor.pk).update(updated_at=now())
    _sync(staff, survivor, prior)
    record(
        "patient.merge",
        action="U",
        resource=f"merge:{merge.pk}",
        patient_id=survivor.pk,
        actor=Actor.user(by) if by else None,
        source=merge.source,
        detail={"prior": prior.pk, "moved": [f"{label}={count}" for label, count in sorted(counts.items())]},
    )
    emit(
        PATIENTS_MERGED,
        subject=f"patient:{survivor.pk}",
        patient_id=survivor.pk,
        prior_id=prior.pk,
        merge_id=merge.pk,
    )
    _settle_conflicts(survivor, prior, by)
    return merge


def _sync(staff: Iterable[User], *patients: Patient) -> None:
    for user in staff:
        for patient in patients:
            sync_permission(user, patient)


def _settle_conflicts(survivor: Patient, prior: Patient, by: User | None) -> None:
    """Open questions that asked whether these two are one are answered; others go on asking about the survivor."""
    waiting = IdentityConflict.objects.filter(state=ConflictState.OPEN, other_patient__in=[survivor, prior])
    for row in waiting.select_for_update():
        if row.patient_id in (survivor.pk, prior.pk):
            why = "the two records were merged"
            CONFLICT_MACHINE.advance(row, "same", decided_by=by, decided_at=now(), reason=why)
        row.patient_id = survivor.pk if row.patient_id == prior.pk else row.patient_id
        row.other_patient = survivor
        row.save()
        if row.state == ConflictState.SAME:
            emit(IDENTITY_DECIDED, subject=f"identityconflict:{row.pk}", conflict_id=row.pk)


def approve_merge(merge: PatientMerge, *, by: User) -> PatientMerge:
    """Carry out a merge that waits.

    :raises PermissionDenied: a person who may not. :raises UserVisibleError: it does not wait any more, or the person is the
        one who asked for it and the site wants two.
    """
    _require(by, "patient.merge", merge.survivor, merge.prior, merge=merge)
    if merge.requested_by_id == by.pk:
        raise UserVisibleError(
            "You asked for this merge yourself.", what_to_do="A second person decides.", code="merge-second-person"
        )
    with transaction.atomic():
        row = PatientMerge.objects.select_for_update().get(pk=merge.pk)
        row.survivor, row.prior = _locked_pair(row.survivor, row.prior)
        _check_pair(row.survivor, row.prior)
        return _perform(row, by)


def refuse_merge(merge: PatientMerge, *, by: User, reason: str) -> PatientMerge:
    """Refuse a merge that waits: they stay two records. Whoever asked may withdraw it so."""
    _require(by, "patient.merge_refuse", merge.survivor, merge.prior, merge=merge)
    if not reason.strip():
        raise UserVisibleError("A reason is needed.", what_to_do="Say why not.", code="no-reason")
    with transaction.atomic():
        row = PatientMerge.objects.select_for_update().get(pk=merge.pk)
        _move_on(row, "refuse", ended_by=by, ended_at=now(), end_reason=reason.strip()[:300])
        record(
            "patient.merge_refuse",
            action="U",
            resource=f"merge:{row.pk}",
            patient_id=row.survivor_id,
            actor=Actor.user(by),
            detail={"prior": row.prior_id},
        )
    return row


def merges_for(user: Any, *states: str) -> QuerySet[PatientMerge]:
    """Merges in ``states`` whose survivor's identity ``user`` may work on, newest first. Empty without the role."""
    rows = PatientMerge.objects.filter(state__in=states).select_related(
        "survivor", "prior", "requested_by", "decided_by"
    )
    return rows.filter(survivor__in=identities_for(user)) if can(user, "resolve_identity") else rows.none()


def came_since(merge: PatientMerge) -> list[MovedRows]:
    """What the survivor has got since the merge, which an unmerge leaves there unless a person says that it is the other's."""
    found = []
    for model, name in models_that_move():
        if not any(field.name == "created_at" for field in model._meta.fields):
            continue
        moved = MergedRecord.objects.filter(merge=merge, model=model._meta.label).values_list("record_id", flat=True)
        rows = _rows(model, merge.survivor).filter(created_at__gt=merge.merged_at)
        ids = sorted({str(one) for one in rows.values_list("pk", flat=True)} - set(moved))
        if ids:
            found.append(MovedRows(model._meta.label, name, len(ids), tuple(ids)))
    return found


def unmerge(
    merge: PatientMerge,
    *,
    by: User | None,
    reason: str,
    also: Sequence[tuple[str, str]] = (),
    source: str = "web",
) -> PatientMerge:
    """Take a merge back; emits ``patients.unmerged``. The prior record gets what was moved, and ``also``.

    :param also: (label, id) of rows that came since, as `came_since` lists them, and belong to the prior record.
    :raises PermissionDenied: a person who may not. :raises UserVisibleError: no reason, not merged, or the survivor has itself
        been merged since: then that merge is taken back first.
    """
    if by is not None:
        _require(by, "patient.unmerge", merge.survivor, merge=merge)
        if not reason.strip():
            raise UserVisibleError("A reason is needed.", what_to_do="Say why.", code="no-reason")
    with transaction.atomic():
        row = PatientMerge.objects.select_for_update().get(pk=merge.pk)
        row.survivor, row.prior = _locked_pair(row.survivor, row.prior)
        if row.state == MergeState.MERGED and row.survivor.merged_into_id:
            raise UserVisibleError(
                "The surviving record has itself been merged since.",
                what_to_do="Take that merge back first.",
                code="unmerge-later-first",
            )
        _move_on(row, "unmerge", ended_by=by, ended_at=now(), end_reason=reason.strip()[:300])
        since = {(rows.label, one) for rows in came_since(row) for one in rows.ids}
        unknown = set(also) - since
        if unknown:
            raise UserVisibleError(
                "Something chosen did not come since the merge.", what_to_do="Look at it again.", code="unmerge-unknown"
            )
        staff = list(User.objects.filter(assignments__patient=row.survivor).distinct())
        counts: dict[str, int] = {}
        for model, _ in models_that_move():
            label = model._meta.label
            ids = list(MergedRecord.objects.filter(merge=row, model=label).values_list("record_id", flat=True))
            ids += [one for name, one in also if name == label]
            back = 0
            for start in range(0, len(ids), 500):
                back += _rows(model, row.survivor).filter(pk__in=ids[start : start + 500]).update(patient=row.prior)
            if back:
                counts[label] = back
        row.prior.merged_into = None
        row.prior.save(update_fields=["merged_into", "updated_at"])
        Patient.objects.filter(pk=row.survivor.pk).update(updated_at=now())
        _sync(staff, row.survivor, row.prior)
        record(
            "patient.unmerge",
            action="U",
            resource=f"merge:{row.pk}",
            patient_id=row.survivor_id,
            actor=Actor.user(by) if by else None,
            source=source,
            detail={"prior": row.prior_id, "moved": [f"{label}={count}" for label, count in sorted(counts.items())]},
        )
        emit(
            PATIENTS_UNMERGED,
            subject=f"patient:{row.survivor_id}",
            patient_id=row.survivor_id,
            prior_id=row.prior_id,
            merge_id=row.pk,
        )
    return row


def patient_at(row: models.Model, moment: datetime) -> Patient:
    """Under which record ``row`` stood at ``moment``: what a report that was signed then says."""
    later = (
        MergedRecord.objects.filter(
            model=row._meta.label, record_id=str(row.pk), merge__state=MergeState.MERGED, merge__merged_at__gt=moment
        )
        .select_related("merge__prior")
        .order_by("merge__merged_at")
        .first()
    )
    patient: Patient = later.merge.prior if later else row.patient  # type: ignore[attr-defined]
    return patient
