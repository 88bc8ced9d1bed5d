"""Patients: registering, finding and, on the record, naming them."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Any

from django.db import IntegrityError, transaction

from audit.actors import Actor
from audit.services import record
from clinical.access import patients_for
from clinical.identity import Identifier, IdentityData
from clinical.models import Patient, PatientIdentifier, PatientIdentity, PatientIndex
from clinical.vault import (
    birth_date_index,
    family3_index,
    family_index,
    identifier_index,
    normal_name,
    open_json,
    seal_json,
)
from oncoflow_site.foundation.errors import EngineError, UserVisibleError

__all__ = [
    "current_patient",
    "find_patient",
    "identity_for_cleaning",
    "register_patient",
    "reveal_identity",
    "search_patients",
]


def current_patient(patient: Patient) -> Patient:
    """``patient``, or the one that they were merged into."""
    seen: set[uuid.UUID] = set()
    while patient.merged_into is not None:
        if patient.pk in seen:
            raise EngineError(f"patient {patient.pk} is merged in a circle")
        seen.add(patient.pk)
        patient = patient.merged_into
    return patient


def find_patient(authority: str, mrn: str, kind: str = "MR") -> Patient | None:
    """The patient with this number under this assigning authority, or None. Never by the number alone."""
    row = (
        PatientIdentifier.objects.filter(
            authority=authority.strip(), kind=kind, blind_index=identifier_index(authority, kind, mrn)
        )
        .select_related("patient__merged_into")
        .first()
    )
    return current_patient(row.patient) if row else None


def _context(patient: Patient) -> str:
    return f"identity:{patient.pk}"


def _load(patient: Patient) -> IdentityData:
    row = PatientIdentity.objects.get(patient=patient)
    return IdentityData.from_json(open_json(patient.key_subject, row.ciphertext, context=_context(patient)))


def _merged(known: IdentityData, told: IdentityData, *, told_wins: bool) -> IdentityData:
    """Both together. An empty field never deletes what is known (HL7: empty means no change)."""
    first, second = (told, known) if told_wins else (known, told)
    numbers = {(one.authority, one.kind, one.value): one for one in (*known.identifiers, *told.identifiers)}
    return IdentityData(
        family=first.family or second.family,
        given=first.given or second.given,
        birth_date=first.birth_date or second.birth_date,
        sex=first.sex if first.sex != "U" else second.sex,
        identifiers=tuple(numbers.values()),
    )


def _index(patient: Patient, identity: IdentityData) -> None:
    """Write the blind indexes anew from ``identity``."""
    wanted: set[tuple[str, str]] = set()
    if normal_name(identity.family):
        wanted.add((PatientIndex.Kind.FAMILY, family_index(identity.family)))
        wanted.add((PatientIndex.Kind.FAMILY3, family3_index(identity.family)))
    if identity.birth_date:
        wanted.add((PatientIndex.Kind.BIRTH_DATE, birth_date_index(identity.birth_date)))
    rows = {(row.kind, row.value): row for row in patient.indexes.all()}
    PatientIndex.objects.filter(pk__in=[row.pk for key, row in rows.items() if key not in wanted]).delete()
    for kind, value in wanted - rows.keys():
        PatientIndex.objects.create(patient=patient, kind=kind, value=value)
    for number in identity.identifiers:
        PatientIdentifier.objects.get_or_create(
            authority=number.authority,
            kind=number.kind,
            blind_index=identifier_index(number.authority, number.kind, number.value),
            defaults={"patient": patient},
        )


def _owners(identifiers: tuple[Identifier, ...]) -> set[Patient]:
    return {
        found
        for found in (find_patient(one.authority, one.value, one.kind) for one in identifiers)
        if found is not None
    }


def register_patient(identity: IdentityData, *, source: str, provisional: bool = False) -> Patient:
    """The patient with these identifiers: known already and brought up to date, or new. Safe to repeat.

    :param identity: at least one identifier. Empty fields change nothing about a known patient.
    :param source: web, fhir, mllp, dicom or command.
    :param provisional: known from an order or an image only. Such a source fills gaps about a known patient but
        overwrites nothing; a later source that is not provisional does, and confirms the patient.
    :raises UserVisibleError: no identifier, or identifiers of two different patients (a person must sort that out).
    """
    if not identity.identifiers:
        raise UserVisibleError(
            "A patient needs an identifier with its assigning authority.",
            what_to_do="Send the medical record number with its assigning authority.",
            code="no-identifier",
        )
    for attempt in (1, 2):
        try:
            with transaction.atomic():
                return _register(identity, source=source, provisional=provisional)
        except IntegrityError:
            # The same patient arrived by two doors at once; the second one finds what the first has written.
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def _register(identity: IdentityData, *, source: str, provisional: bool) -> Patient:
    owners = _owners(identity.identifiers)
    if len(owners) > 1:
        raise UserVisibleError(
            "These identifiers belong to different patients.",
            what_to_do="Have the patients merged at the source, or correct the identifiers.",
            code="patient-identifiers-conflict",
        )
    if not owners:
        patient = Patient.objects.create(provisional=provisional)
        _save_identity(patient, identity)
        _insert_numbers(patient, identity)
        _index(patient, identity)
        record(
            "patient.register",
            action="C",
            resource=f"patient:{patient.pk}",
            patient_id=patient.pk,
            source=source,
            detail={"provisional": provisional},
        )
        return patient
    patient = Patient.objects.select_for_update().get(pk=owners.pop().pk)
    known = _load(patient)
    updated = _merged(known, identity, told_wins=patient.provisional or not provisional)
    confirmed = patient.provisional and not provisional
    if updated == known and not confirmed:
        return patient
    if confirmed:
        patient.provisional = False
        patient.save(update_fields=["provisional", "updated_at"])
    _save_identity(patient, updated)
    _index(patient, updated)
    record(
        "patient.update",
        action="U",
        resource=f"patient:{patient.pk}",
        patient_id=patient.pk,
        source=source,
        detail={"confirmed": confirmed},
    )
    return patient


def _insert_numbers(patient: Patient, identity: IdentityData) -> None:
    """Insert a new patient's numbers; a plain insert, so that a race ends in the unique constraint."""
    rows = {
        (one.authority, one.kind, identifier_index(one.authority, one.kind, one.value)) for one in identity.identifiers
    }
    for authority, kind, value in sorted(rows):
        PatientIdentifier.objects.create(patient=patient, authority=authority, kind=kind, blind_index=value)


def _save_identity(patient: Patient, identity: IdentityData) -> None:
    ciphertext = seal_json(patient.key_subject, identity.to_json(), context=_context(patient))
    PatientIdentity.objects.update_or_create(patient=patient, defaults={"ciphertext": ciphertext})


def reveal_identity(patient: Patient, *, purpose: str, actor: Actor | None = None) -> IdentityData:
    """Who the patient is: the one way out for an identity, and always on the record.

    :param purpose: a short code of why, e.g. ``patient-page``, ``report``, ``delivery``; no identity in it.
    :raises EngineError: no purpose given.
    """
    if not purpose.strip():
        raise EngineError("revealing an identity needs a purpose")
    patient = current_patient(patient)
    with transaction.atomic():
        identity = _load(patient)
        record(
            "patient.identity",
            action="R",
            resource=f"patient:{patient.pk}",
            patient_id=patient.pk,
            actor=actor,
            detail={"purpose": purpose.strip()[:60]},
        )
    return identity


def identity_for_cleaning(patient: Patient) -> IdentityData:
    """The identity for taking it out of a text. It does not leave this room, so it is not recorded as a disclosure."""
    return _load(current_patient(patient))


def search_patients(
    user: Any, *, family: str = "", birth_date: date | None = None, number: str = "", authority: str = ""
) -> list[Patient]:
    """Patients ``user`` may see that match everything given, found by blind index; at most 200, by pseudonym.

    ``family`` of exactly three letters also finds names that begin with them; a longer one is compared whole. The act
    of searching is recorded without its words.
    """
    found = patients_for(user)
    if number:
        if not authority:
            raise UserVisibleError("A number needs its assigning authority.", code="no-authority")
        one = find_patient(authority, number)
        found = found.filter(pk=one.pk) if one else found.none()
    if family:
        wanted = [(PatientIndex.Kind.FAMILY, family_index(family))]
        if len(normal_name(family)) == 3:
            wanted.append((PatientIndex.Kind.FAMILY3, family3_index(family)))
        kinds, values = zip(*wanted, strict=True)
        found = found.filter(pk__in=PatientIndex.objects.filter(kind__in=kinds, value__in=values).values("patient"))
    if birth_date:
        found = found.filter(
            pk__in=PatientIndex.objects.filter(
                kind=PatientIndex.Kind.BIRTH_DATE, value=birth_date_index(birth_date)
            ).values("patient")
        )
    fields = [name for name, given in (("F", family), ("B", birth_date), ("N", number)) if given]
    with transaction.atomic():
        result = list(found.order_by("pseudonym")[:200])
        record(
            "patient.search",
            action="E",
            resource="patient",
            actor=Actor.user(user),
            detail={"fields": fields, "found": len(result)},
        )
    return result
