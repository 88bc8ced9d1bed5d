"""Whose is it, over REST: the work list of contradictions, merging and taking a merge back, confirming an identity.

Each call is one service function of `clinical.patients`, with its own check of role and patients and its own audit row; the
pages in `oncoflow_site.web.identities` call the same ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import date
from typing import Any

from django.db import transaction
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, acting_as, record, record_refusal
from clinical.access import identities_for
from clinical.identity import IdentityData
from clinical.models import IdentityConflict, MergeState, Patient, PatientMerge
from clinical.patients.confirming import confirm_identity
from clinical.patients.conflicts import conflicts_for, decide_conflict, reveal_conflict
from clinical.patients.merging import (
    MergePreview,
    approve_merge,
    came_since,
    merge_patients,
    merges_for,
    preview_merge,
    refuse_merge,
    unmerge,
)
from clinical.roles import can
from oncoflow_site.api.identity_answers import (
    ConflictAnswer,
    ConflictRevealed,
    IdentitiesAnswer,
    IdentityConfirmed,
    MergeAnswer,
    MergeMove,
    MergePreviewAnswer,
    MergeSince,
    MergeWithNews,
    RevealedIdentity,
)
from oncoflow_site.api.studies import Base
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.schema import plain

__all__ = [
    "Conflict",
    "Identities",
    "Merge",
    "MergeApprove",
    "MergeRefuse",
    "MergeUndo",
    "Merges",
    "PatientConfirm",
    "conflict_of",
    "corrected_identity",
    "identity_patient",
    "merge_of",
]

_REASON = {"type": "string", "maxLength": 300, "description": "Free of identity."}


def identity_patient(user: Any, patient_id: Any, event: str) -> Patient:
    """The patient, if ``user`` may work on their identity; else Http404 after a recorded refusal."""
    try:
        wanted = uuid.UUID(str(patient_id))
    except ValueError:
        raise Http404 from None
    patient = identities_for(user).filter(pk=wanted).first() if can(user, "confirm_identity") else None
    if patient is None:
        actor = Actor.user(user)
        record_refusal(event, action="R", resource=f"patient:{wanted}", patient_id=wanted, actor=actor)
        raise Http404
    return patient


def conflict_of(user: Any, conflict_id: uuid.UUID) -> IdentityConflict:
    """The contradiction, if ``user`` may decide it, whatever its state; else Http404 after a recorded refusal."""
    state = IdentityConflict.objects.filter(pk=conflict_id).values_list("state", flat=True).first()
    row = conflicts_for(user, state=state).filter(pk=conflict_id).first() if state else None
    if row is None:
        record_refusal("identity.list", action="R", resource=f"identityconflict:{conflict_id}", actor=Actor.user(user))
        raise Http404
    return row


def merge_of(user: Any, merge_id: uuid.UUID) -> PatientMerge:
    """The merge, if ``user`` may decide about it, whatever its state; else Http404 after a recorded refusal."""
    row = merges_for(user, *MergeState.values).filter(pk=merge_id).first()
    if row is None:
        record_refusal("identity.list", action="R", resource=f"merge:{merge_id}", actor=Actor.user(user))
        raise Http404
    return row


def corrected_identity(data: Any) -> IdentityData | None:
    """What a person enters about a patient: family, given, birth_date (ISO 8601) and sex; None where nothing was entered.

    :raises UserVisibleError: the birth date is not a date.
    """
    given = {name: str(data.get(name) or "").strip() for name in ("family", "given", "birth_date", "sex")}
    if not any(given.values()):
        return None
    try:
        born = date.fromisoformat(given["birth_date"]) if given["birth_date"] else None
    except ValueError:
        raise UserVisibleError("The birth date is not a date.", what_to_do="Write it as 1961-03-07.") from None
    return IdentityData(given["family"], given["given"], born, given["sex"] or "U")


def _conflict(row: IdentityConflict) -> ConflictAnswer:
    return ConflictAnswer(
        id=str(row.pk),
        kind=row.kind,
        patient=str(row.patient_id),
        other_patient=str(row.other_patient_id) if row.other_patient_id else None,
        contradicts=tuple(row.contradicts),
        source=row.source,
        sender=row.sender,
        state=row.state,
        times=row.times,
        created_at=row.created_at,
        decided_by=row.decided_by.username if row.decided_by else None,
        reason=row.reason,
    )


def _merge(row: PatientMerge) -> MergeAnswer:
    return MergeAnswer(
        id=str(row.pk),
        survivor=str(row.survivor_id),
        prior=str(row.prior_id),
        state=row.state,
        contradicts=tuple(row.contradicts),
        source=row.source,
        sender=row.sender,
        reason=row.reason,
        requested_by=row.requested_by.username if row.requested_by else None,
        merged_at=row.merged_at,
    )


def _preview(shown: MergePreview) -> MergePreviewAnswer:
    return MergePreviewAnswer(
        survivor=str(shown.survivor.pk),
        prior=str(shown.prior.pk),
        moves=tuple(MergeMove(model=one.label, name=one.name, count=one.count) for one in shown.rows),
        contradicts=tuple(shown.contradicts),
        needs_second_person=shown.needs_second_person,
    )


def _body(request: Request) -> Mapping[str, Any]:
    if not isinstance(request.data, Mapping):
        raise exceptions.ParseError("The body must be an object.")
    return request.data


def _text(request: Request, name: str) -> str:
    value = _body(request).get(name, "")
    if not isinstance(value, str):
        raise exceptions.ParseError(f"{name} must be text.")
    return value


class Identities(Base):
    """What waits for a person: contradicting identities, and merges that ask for one."""

    @extend_schema(responses={200: IdentitiesAnswer})
    def get(self, request: Request) -> Response:
        if not can(request.user, "resolve_identity"):
            record_refusal("identity.list", action="R", resource="identities", actor=Actor.user(request.user))
            raise exceptions.PermissionDenied
        conflicts = [_conflict(row) for row in conflicts_for(request.user)[:200]]
        merges = [_merge(row) for row in merges_for(request.user, MergeState.REQUESTED)[:200]]
        record(
            "identity.list",
            action="R",
            resource="identities",
            actor=Actor.user(request.user),
            detail={"conflicts": len(conflicts), "merges": len(merges)},
        )
        return Response(plain(IdentitiesAnswer(conflicts=tuple(conflicts), merges=tuple(merges))))


class Conflict(Base):
    """One contradiction: the identity as it came (revealed, on the record), and the decision about it."""

    @extend_schema(responses={200: ConflictRevealed})
    def get(self, request: Request, conflict_id: uuid.UUID) -> Response:
        row = conflict_of(request.user, conflict_id)
        told = reveal_conflict(row, by=request.user)  # type: ignore[arg-type]
        body = ConflictRevealed(**dict(_conflict(row)), identity=RevealedIdentity.model_validate(told.to_json()))
        return Response(plain(body), headers={"Cache-Control": "no-store"})

    @extend_schema(
        request={
            "application/json": {
                "type": "object",
                "properties": {"same": {"type": "boolean"}, "take_over": {"type": "boolean"}, "reason": _REASON},
                "required": ["same", "reason"],
            }
        },
        responses={200: ConflictAnswer},
    )
    def post(self, request: Request, conflict_id: uuid.UUID) -> Response:
        row = conflict_of(request.user, conflict_id)
        same, take_over = _body(request).get("same"), _body(request).get("take_over", False)
        if not isinstance(same, bool) or not isinstance(take_over, bool):
            raise exceptions.ParseError("same and take_over are true or false.")
        with acting_as(Actor.user(request.user), source="web"):
            row = decide_conflict(
                row,
                by=request.user,  # type: ignore[arg-type]
                same=same,
                take_over=take_over,
                reason=_text(request, "reason"),
            )
        return Response(plain(_conflict(row)))


class Merges(Base):
    """Preview a merge, or make it (or ask for it, where the site wants a second person)."""

    @extend_schema(
        request={
            "application/json": {
                "type": "object",
                "properties": {
                    "survivor": {"type": "string", "format": "uuid"},
                    "prior": {"type": "string", "format": "uuid"},
                    "reason": _REASON,
                    "preview": {"type": "boolean", "description": "Say what would move, and change nothing."},
                },
                "required": ["survivor", "prior"],
            }
        },
        responses={200: MergePreviewAnswer, 201: MergeAnswer},
    )
    def post(self, request: Request) -> Response:
        survivor = identity_patient(request.user, _body(request).get("survivor"), "patient.merge")
        prior = identity_patient(request.user, _body(request).get("prior"), "patient.merge")
        with acting_as(Actor.user(request.user), source="web"):
            if _body(request).get("preview") is True:
                shown = preview_merge(survivor, prior, by=request.user)  # type: ignore[arg-type]
                return Response(plain(_preview(shown)))
            row = merge_patients(
                survivor,
                prior,
                by=request.user,  # type: ignore[arg-type]
                reason=_text(request, "reason"),
                source="web",
            )
        return Response(plain(_merge(row)), status=201)


class Merge(Base):
    """One merge, and what has come to the survivor since."""

    @extend_schema(responses={200: MergeWithNews})
    def get(self, request: Request, merge_id: uuid.UUID) -> Response:
        row = merge_of(request.user, merge_id)
        since = came_since(row) if row.state == MergeState.MERGED else []
        with transaction.atomic():
            record("identity.list", action="R", resource=f"merge:{row.pk}", actor=Actor.user(request.user))
        listed = tuple(MergeSince(model=one.label, name=one.name, ids=tuple(one.ids)) for one in since)
        return Response(plain(MergeWithNews(**dict(_merge(row)), came_since=listed)))


class MergeApprove(Base):
    """Carry out a merge that waits: a second person's act."""

    @extend_schema(request=None, responses={200: MergeAnswer})
    def post(self, request: Request, merge_id: uuid.UUID) -> Response:
        with acting_as(Actor.user(request.user), source="web"):
            row = approve_merge(merge_of(request.user, merge_id), by=request.user)  # type: ignore[arg-type]
        return Response(plain(_merge(row)))


class MergeRefuse(Base):
    """Refuse a merge that waits."""

    @extend_schema(
        request={"application/json": {"type": "object", "properties": {"reason": _REASON}}},
        responses={200: MergeAnswer},
    )
    def post(self, request: Request, merge_id: uuid.UUID) -> Response:
        row = merge_of(request.user, merge_id)
        with acting_as(Actor.user(request.user), source="web"):
            row = refuse_merge(row, by=request.user, reason=_text(request, "reason"))  # type: ignore[arg-type]
        return Response(plain(_merge(row)))


class MergeUndo(Base):
    """Take a merge back. ``also`` names rows that came since and belong to the prior record: [[model, id], ...]."""

    @extend_schema(
        request={
            "application/json": {
                "type": "object",
                "properties": {
                    "reason": _REASON,
                    "also": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                },
            }
        },
        responses={200: MergeAnswer},
    )
    def post(self, request: Request, merge_id: uuid.UUID) -> Response:
        row = merge_of(request.user, merge_id)
        also = _body(request).get("also", [])
        if not isinstance(also, list) or not all(isinstance(one, list) and len(one) == 2 for one in also):
            raise exceptions.ParseError("also is a list of [model, id].")
        pairs = [(str(label), str(key)) for label, key in also]
        with acting_as(Actor.user(request.user), source="web"):
            row = unmerge(row, by=request.user, reason=_text(request, "reason"), also=pairs)  # type: ignore[arg-type]
        return Response(plain(_merge(row)))


class PatientConfirm(Base):
    """Confirm who a patient is, with corrections."""

    @extend_schema(
        request={
            "application/json": {
                "type": "object",
                "properties": {
                    "family": {"type": "string"},
                    "given": {"type": "string"},
                    "birth_date": {"type": "string", "format": "date"},
                    "sex": {"type": "string", "enum": ["M", "F", "O", "U"]},
                },
            }
        },
        responses={200: IdentityConfirmed},
    )
    def post(self, request: Request, patient_id: uuid.UUID) -> Response:
        patient = identity_patient(request.user, patient_id, "patient.confirm")
        with acting_as(Actor.user(request.user), source="web"):
            row = confirm_identity(patient, by=request.user, corrected=corrected_identity(_body(request)))  # type: ignore[arg-type]
        body = IdentityConfirmed(patient=str(row.pk), provisional=row.provisional, confirmed_at=row.confirmed_at)
        return Response(plain(body))
