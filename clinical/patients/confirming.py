"""A person confirms who a patient is, where no registration of the hospital does (a clinic without an EMR, images before ADT)."""

from __future__ import annotations

from dataclasses import replace

from django.core.exceptions import PermissionDenied
from django.db import transaction

from audit.actors import Actor
from audit.services import record, record_refusal
from clinical.access import identities_for
from clinical.identity import IdentityData
from clinical.models import Patient, User
from clinical.registry import correct_identity, known_identity
from clinical.roles import can
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["confirm_identity", "require_confirmed"]


def confirm_identity(patient: Patient, *, by: User, corrected: IdentityData | None = None) -> Patient:
    """Confirm who ``patient`` is, with what the person corrects. Confirming again changes nothing.

    :param corrected: name, birth date and sex as the person has seen them; its identifiers are not read, the numbers stay.
    :raises PermissionDenied: not for this person (recorded first).
    :raises UserVisibleError: there is no name or no birth date to confirm, or the identity is confirmed and would change.
    """
    if not can(by, "confirm_identity") or not identities_for(by).filter(pk=patient.pk).exists():
        record_refusal(
            "patient.confirm",
            action="U",
            resource=f"patient:{patient.pk}",
            patient_id=patient.pk,
            actor=Actor.user(by),
            detail={"why": "not permitted"},
        )
        raise PermissionDenied("You may not confirm this patient's identity.")
    with transaction.atomic():
        row = Patient.objects.select_for_update().get(pk=patient.pk)
        known = known_identity(row)
        wanted = replace(corrected, identifiers=known.identifiers, cleared=frozenset()) if corrected else known
        if not row.provisional:
            if wanted != known:
                raise UserVisibleError(
                    "The identity is confirmed already.",
                    what_to_do="Have the patient's data corrected where they are registered.",
                    code="identity-confirmed",
                )
            return row
        if not (wanted.family or wanted.given) or wanted.birth_date is None:
            raise UserVisibleError(
                "Without a name and a birth date nobody can be told from another person.",
                what_to_do="Enter both from a document that you have seen.",
                code="identity-incomplete",
            )
        changed = [
            name for name in ("family", "given", "birth_date", "sex") if getattr(wanted, name) != getattr(known, name)
        ]
        if changed:
            correct_identity(row, wanted)
        row.provisional, row.confirmed_at, row.confirmed_by = False, now(), by
        row.save(update_fields=["provisional", "confirmed_at", "confirmed_by", "updated_at"])
        record(
            "patient.confirm",
            action="U",
            resource=f"patient:{row.pk}",
            patient_id=row.pk,
            actor=Actor.user(by),
            detail={"corrected": changed},
        )
    return row


def require_confirmed(patient: Patient) -> None:
    """:raises UserVisibleError: nobody has confirmed who the patient is."""
    if patient.provisional:
        raise UserVisibleError(
            "Nobody has confirmed who this patient is.",
            what_to_do="Confirm the identity on the patient's page, or wait for the hospital's registration.",
            code="identity-not-confirmed",
        )
