"""The work list of identities: what came, matched a patient by number, and contradicts what is known. A person decides."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import F, Q, QuerySet

from audit.actors import Actor
from audit.services import record, record_refusal
from clinical.access import identities_for
from clinical.events import IDENTITY_CONFLICT, IDENTITY_DECIDED
from clinical.identity import IdentityData
from clinical.models import CONFLICT_MACHINE, ConflictState, IdentityConflict, User
from clinical.patients.fingerprint import fingerprint
from clinical.patients.matching import IdentityContradiction
from clinical.roles import can
from clinical.vault import open_json, seal_json
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove, UserVisibleError
from oncoflow_site.foundation.events import emit

__all__ = ["conflicts_for", "decide_conflict", "note_conflict", "reveal_conflict"]


def _context(conflict: IdentityConflict) -> str:
    return f"conflict:{conflict.pk}"


def note_conflict(error: IdentityContradiction, *, source: str, sender: str = "") -> IdentityConflict:
    """Put what contradicts on the work list; emits ``identity.conflict``. The same again is counted on the same row, and one
    that was decided about another patient is opened anew.

    Call it after the transaction in which the error arose has been rolled back, in one of the caller's own or none.
    """
    kind = IdentityConflict.Kind.NUMBERS if len(error.patients) > 1 else IdentityConflict.Kind.CONTRADICTION
    patient, other = error.patients[0], error.patients[1] if len(error.patients) > 1 else None
    with transaction.atomic():
        known = IdentityConflict.objects.select_for_update().filter(fingerprint=fingerprint(error.identity)).first()
        if known is not None:
            fields: dict[str, Any] = {"times": F("times") + 1, "last_at": now()}
            if known.state != ConflictState.OPEN:
                fields |= {
                    "state": CONFLICT_MACHINE.next(known.state, "reopen"),
                    "patient": patient,
                    "other_patient": other,
                    "kind": kind,
                    "contradicts": list(error.contradicts),
                    "decided_by": None,
                    "decided_at": None,
                }
            IdentityConflict.objects.filter(pk=known.pk).update(**fields)
            known.refresh_from_db()
            conflict = known
        else:
            conflict = IdentityConflict(
                kind=kind,
                patient=patient,
                other_patient=other,
                contradicts=list(error.contradicts),
                fingerprint=fingerprint(error.identity),
                source=source,
                sender=sender[:150],
            )
            conflict.ciphertext = seal_json(conflict.key_subject, error.identity.to_json(), context=_context(conflict))
            conflict.save(force_insert=True)
        record(
            "identity.conflict",
            action="C",
            resource=f"identityconflict:{conflict.pk}",
            patient_id=patient.pk,
            source=source,
            outcome=4,
            detail={"kind": conflict.kind, "contradicts": conflict.contradicts, "times": conflict.times},
        )
        emit(IDENTITY_CONFLICT, subject=f"identityconflict:{conflict.pk}", patient_id=patient.pk)
    return conflict


def conflicts_for(user: Any, *, state: str = ConflictState.OPEN) -> QuerySet[IdentityConflict]:
    """The work list of ``user``: contradictions about patients whose identity they may work on. Empty without the role."""
    rows = IdentityConflict.objects.filter(state=state).select_related("patient", "other_patient", "decided_by")
    if not can(user, "resolve_identity"):
        return rows.none()
    mine = identities_for(user)
    return rows.filter(Q(other_patient__isnull=True) | Q(other_patient__in=mine), patient__in=mine)


def reveal_conflict(conflict: IdentityConflict, *, by: User) -> IdentityData:
    """The identity as it came, on the record."""
    with transaction.atomic():
        record(
            "patient.identity",
            action="R",
            resource=f"identityconflict:{conflict.pk}",
            patient_id=conflict.patient_id,
            actor=Actor.user(by),
            detail={"purpose": "identity-conflict"},
        )
        data = open_json(conflict.key_subject, conflict.ciphertext, context=_context(conflict))
    return IdentityData.from_json(data)


def decide_conflict(
    conflict: IdentityConflict, *, by: User, same: bool, take_over: bool = False, reason: str
) -> IdentityConflict:
    """Say whose it is; emits ``identity.decided``, after which what waited is taken up again.

    :param same: it is the patient's. For the numbers of two patients that is a merge: make it first.
    :param take_over: with ``same``: what came replaces what was known; else what was known stays and only gaps are filled.
    :raises PermissionDenied: not for this person (the refusal is recorded first).
    :raises UserVisibleError: no reason, decided already, or numbers of two patients who are not merged.
    """
    state = IdentityConflict.objects.values_list("state", flat=True).get(pk=conflict.pk)
    if not conflicts_for(by, state=state).filter(pk=conflict.pk).exists():
        record_refusal(
            "identity.decide",
            action="U",
            resource=f"identityconflict:{conflict.pk}",
            patient_id=conflict.patient_id,
            actor=Actor.user(by),
            detail={"why": "not permitted"},
        )
        raise PermissionDenied("You may not decide whose this is.")
    if not reason.strip():
        raise UserVisibleError("A reason is needed.", what_to_do="Say how you know.", code="no-reason")
    with transaction.atomic():
        row = IdentityConflict.objects.select_for_update().get(pk=conflict.pk)
        if same and row.other_patient_id not in (None, row.patient_id):
            raise UserVisibleError(
                "These are the numbers of two records.",
                what_to_do="Merge the two records, or say that it is not the same person.",
                code="conflict-needs-merge",
            )
        try:
            CONFLICT_MACHINE.advance(
                row,
                "same" if same else "other",
                take_over=same and take_over,
                reason=reason.strip()[:300],
                decided_by=by,
                decided_at=now(),
            )
        except IllegalMove:
            raise UserVisibleError("Somebody has decided this already.", code="conflict-decided") from None
        record(
            "identity.decide",
            action="U",
            resource=f"identityconflict:{row.pk}",
            patient_id=row.patient_id,
            actor=Actor.user(by),
            detail={"decision": row.state, "take_over": row.take_over, "contradicts": row.contradicts},
        )
        emit(IDENTITY_DECIDED, subject=f"identityconflict:{row.pk}", conflict_id=row.pk)
    return row
