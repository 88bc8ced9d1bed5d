"""Who may see which patient. The care assignment is the truth; guardian's row follows from it, here only."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from guardian.shortcuts import assign_perm, remove_perm

from audit.actors import Actor, current_actor
from audit.services import record, record_refusal
from clinical.models import CareAssignment, Notice, Patient, PatientUserPermission, User
from clinical.roles import Role, can
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import enqueue

__all__ = [
    "BREAK_GLASS_MINUTES",
    "assign",
    "break_glass",
    "check_assignment",
    "identities_for",
    "patients_for",
    "require_patient",
    "sync_permission",
    "unassign",
    "user_can_see",
]

PERMISSION = "clinical.access_patient"
BREAK_GLASS_MINUTES = 60


def patients_for(user: Any) -> QuerySet[Patient]:
    """The patients that ``user`` may see now, merged ones left out. Nobody unknown or inactive sees any."""
    patients = Patient.objects.filter(merged_into__isnull=True)
    if not can(user, "view_patient"):
        return patients.none()
    if can(user, "all_patients"):
        return patients
    assigned = CareAssignment.objects.current().filter(patient=OuterRef("pk"), user=user)
    granted = PatientUserPermission.objects.filter(
        content_object=OuterRef("pk"), user=user, permission__codename="access_patient"
    )
    return patients.filter(Exists(assigned), Exists(granted))


def identities_for(user: Any) -> QuerySet[Patient]:
    """The patients whose identity ``user`` may work on: everybody's for patient registration, else those `patients_for` gives."""
    if can(user, "all_identities"):
        return Patient.objects.filter(merged_into__isnull=True)
    return patients_for(user)


def user_can_see(user: Any, patient: Patient) -> bool:
    """Whether ``user`` may see ``patient`` now: by role, and by a care assignment that has not ended."""
    return patients_for(user).filter(pk=patient.pk).exists()


def require_patient(
    user: Any, patient_id: uuid.UUID | str, *, event: str, action: str = "R", resource: str = ""
) -> Patient:
    """The patient, if ``user`` may see them. Success is for the caller to record, together with what it shows.

    Call it outside a transaction: the refusal is recorded in one of its own, before the answer.

    :param event: the audit code of what is being attempted.
    :raises PermissionDenied: no such patient, or not theirs; one answer for both, so that it tells nothing.
    """
    try:
        wanted = uuid.UUID(str(patient_id))
    except ValueError:
        wanted = None
    if wanted is not None:
        patient = patients_for(user).filter(pk=wanted).first()
        if patient is not None:
            return patient
    record_refusal(
        event,
        action=action,
        resource=resource or (f"patient:{wanted}" if wanted else "patient"),
        patient_id=wanted,
        actor=Actor.user(user) if getattr(user, "pk", None) else current_actor(),
        detail={"why": "not permitted"},
    )
    raise PermissionDenied("You have no access to this patient.")


def sync_permission(user: User, patient: Patient) -> bool:
    """Make guardian's row agree with the assignments; True where the permission stands now."""
    with transaction.atomic():
        # PostgreSQL: two of these for one patient take turns. SQLite's IMMEDIATE transactions do so anyway.
        Patient.objects.select_for_update().get(pk=patient.pk)
        current = CareAssignment.objects.current().filter(user=user, patient=patient).exists()
        if current:
            assign_perm(PERMISSION, user, patient)
        else:
            remove_perm(PERMISSION, user, patient)
    return current


def _may_assign(by: User, patient: Patient) -> bool:
    if not can(by, "assign_patient"):
        return False
    # Who may see patients at all may share only those that are theirs already.
    return not can(by, "view_patient") or user_can_see(by, patient)


def assign(
    user: User, patient: Patient, *, reason: str, by: User | None, ends_at: datetime | None = None
) -> CareAssignment:
    """Put ``user`` on the patient's care team until ``ends_at`` (open end where None). Idempotent while one is current:
    that one is kept and its end set anew.

    :param by: who decides; None for the operator at the command line.
    :raises PermissionDenied: ``by`` may not assign this patient (the refusal is recorded first).
    :raises UserVisibleError: no reason, an end in the past, or an account whose role sees no patients.
    """
    try:
        check_assignment(user, patient, reason=reason, by=by, ends_at=ends_at)
    except PermissionDenied:
        record_refusal(
            "patient.assign",
            action="C",
            resource=f"user:{user.pk}",
            patient_id=patient.pk,
            actor=Actor.user(by) if by is not None else None,
            detail={"why": "not permitted"},
        )
        raise
    return _assign(user, patient, reason=reason, by=by, ends_at=ends_at)


def check_assignment(user: User, patient: Patient, *, reason: str, by: User | None, ends_at: datetime | None) -> None:
    """Raise what `assign` would raise, and do nothing else."""
    if by is not None and not _may_assign(by, patient):
        raise PermissionDenied("You may not assign staff to this patient.")
    if not can(user, "view_patient"):
        raise UserVisibleError(
            "This account cannot be put on a care team.",
            what_to_do="Choose an active account whose role sees patients.",
            code="role-sees-no-patients",
        )
    _check_terms(reason, ends_at)


def _check_terms(reason: str, ends_at: datetime | None) -> None:
    if not reason.strip():
        raise UserVisibleError("A reason is needed.", what_to_do="Say why this person needs access.", code="no-reason")
    if ends_at is not None and ends_at <= now():
        raise UserVisibleError("The end lies in the past.", what_to_do="Choose a later end.", code="end-in-past")


def _assign(
    user: User,
    patient: Patient,
    *,
    reason: str,
    by: User | None,
    ends_at: datetime | None,
    emergency: bool = False,
) -> CareAssignment:
    _check_terms(reason, ends_at)
    reason = reason.strip()[:200]
    with transaction.atomic():
        Patient.objects.select_for_update().get(pk=patient.pk)
        current = CareAssignment.objects.current().filter(user=user, patient=patient, emergency=emergency).first()
        if current is None:
            current = CareAssignment(user=user, patient=patient, emergency=emergency)
        current.reason, current.ends_at, current.created_by = reason, ends_at, by
        current.save()
        sync_permission(user, patient)
        record(
            "patient.break_glass" if emergency else "patient.assign",
            action="C",
            resource=f"user:{user.pk}",
            patient_id=patient.pk,
            actor=Actor.user(by) if by is not None else None,
            detail={"assignment": current.pk, "until": ends_at.isoformat() if ends_at else None},
        )
        if ends_at is not None:
            enqueue(
                "clinical.end_assignment",
                subject=f"patient:{patient.pk}",
                key=f"end-assignment:{current.pk}:{ends_at.timestamp():.0f}",
                kwargs={"assignment_id": str(current.pk)},
                run_after=ends_at,
            )
    return current


def unassign(user: User, patient: Patient, *, by: User | None, reason: str = "") -> int:
    """End every current assignment of ``user`` to ``patient``; returns how many there were.

    :raises PermissionDenied: ``by`` may neither assign this patient nor is ``user`` themselves.
    """
    if by is not None and by.pk != user.pk and not _may_assign(by, patient):
        record_refusal(
            "patient.unassign",
            action="D",
            resource=f"user:{user.pk}",
            patient_id=patient.pk,
            actor=Actor.user(by),
            detail={"why": "not permitted"},
        )
        raise PermissionDenied("You may not change this patient's care team.")
    with transaction.atomic():
        Patient.objects.select_for_update().get(pk=patient.pk)
        ended = CareAssignment.objects.current().filter(user=user, patient=patient).update(ends_at=now())
        sync_permission(user, patient)
        if ended:
            record(
                "patient.unassign",
                action="D",
                resource=f"user:{user.pk}",
                patient_id=patient.pk,
                actor=Actor.user(by) if by is not None else None,
                detail={"ended": ended},
            )
    return ended


def break_glass(user: User, patient_id: uuid.UUID | str, *, reason: str) -> CareAssignment:
    """Open a patient's record in an emergency: an hour's assignment, on the record, and a notice to compliance.

    :raises PermissionDenied: the role may not, or there is no such patient (the refusal is recorded first).
    :raises UserVisibleError: no reason given.
    """
    try:
        patient = Patient.objects.filter(pk=patient_id, merged_into__isnull=True).first()
    except (ValueError, ValidationError):
        patient = None
    if patient is None or not can(user, "break_glass"):
        record_refusal(
            "patient.break_glass",
            action="E",
            resource="patient",
            patient_id=patient.pk if patient else None,
            actor=Actor.user(user),
            detail={"why": "not permitted"},
        )
        raise PermissionDenied("Emergency access is not possible.")
    with transaction.atomic():
        opened = _assign(
            user,
            patient,
            reason=reason,
            by=user,
            ends_at=now() + timedelta(minutes=BREAK_GLASS_MINUTES),
            emergency=True,
        )
        Notice.objects.create(
            kind="patient.break_glass",
            subject=f"patient:{patient.pk}",
            message=f"Emergency access to {patient.pseudonym} was opened by {user.username}; please review.",
            for_role=Role.COMPLIANCE_OFFICER,
        )
    return opened


def lapsed() -> QuerySet[PatientUserPermission]:
    """Guardian rows whose assignment has ended (there are some only while the job that removes them is late)."""
    current = CareAssignment.objects.current().filter(user=OuterRef("user"), patient=OuterRef("content_object"))
    return PatientUserPermission.objects.filter(~Q(Exists(current)))
