"""Patients: registering, finding and, on the record, naming them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from audit.actors import Actor
from audit.services import record
from clinical.access import patients_for
from clinical.identity import Identifier, IdentityData
from clinical.models import (
    ConflictState,
    IdentityConflict,
    Patient,
    PatientIdentifier,
    PatientIdentity,
    PatientIndex,
)
from clinical.patients.fingerprint import fingerprint
from clinical.patients.matching import IdentityContradiction, MatchingPolicy, contradictions, matching_policy
from clinical.vault import (
    birth_date_index,
    family3_index,
    family_index,
    identifier_index,
    normal_name,
    open_json,
    seal_json,
)
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError, UserVisibleError

__all__ = [
    "correct_identity",
    "current_patient",
    "find_patient",
    "identities_for_cleaning",
    "known_identity",
    "mark_old",
    "merged_records",
    "patients_with_number",
    "record_with_number",
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
            authority=authority.strip(), kind=kind, blind_index=identifier_index(authority, kind, mrn), matches=True
        )
        .select_related("patient__merged_into")
        .first()
    )
    return current_patient(row.patient) if row else None


def record_with_number(number: Identifier) -> Patient | None:
    """The record that this number belongs to, merged or not; None for a number that recognises nobody."""
    row = (
        PatientIdentifier.objects.filter(
            authority=number.authority,
            kind=number.kind,
            blind_index=identifier_index(number.authority, number.kind, number.value),
            matches=True,
        )
        .select_related("patient")
        .first()
    )
    return row.patient if row else None


def mark_old(patient: Patient, numbers: Iterable[Identifier]) -> None:
    """Keep these numbers of ``patient`` as old ones: they still find the patient and are named after those in use."""
    wanted = set(numbers)
    with transaction.atomic():
        row = Patient.objects.select_for_update().get(pk=patient.pk)
        known = _load(row)
        marked = tuple(replace(one, use="old") if one in wanted else one for one in known.identifiers)
        if [one.use for one in marked] != [one.use for one in known.identifiers]:
            correct_identity(row, replace(known, identifiers=marked))
            record(
                "patient.update", action="U", resource=f"patient:{row.pk}", patient_id=row.pk, detail={"numbers": "old"}
            )


def patients_with_number(authority: str, number: str, kind: str) -> QuerySet[Patient]:
    """Every patient who has this number, be it one that recognises a patient or an attribute that several may share; of a
    merged record the number finds the survivor."""
    rows = PatientIdentifier.objects.filter(
        authority=authority.strip(), kind=kind, blind_index=identifier_index(authority, kind, number)
    ).select_related("patient__merged_into")
    return Patient.objects.filter(pk__in={current_patient(row.patient).pk for row in rows})


def _context(patient: Patient) -> str:
    return f"identity:{patient.pk}"


def known_identity(patient: Patient) -> IdentityData:
    """The identity of exactly this record, for this room's own decisions. It does not leave the room."""
    return _load(patient)


def _load(patient: Patient) -> IdentityData:
    row = PatientIdentity.objects.get(patient=patient)
    return IdentityData.from_json(open_json(patient.key_subject, row.ciphertext, context=_context(patient)))


def _updated(known: IdentityData, told: IdentityData, *, told_wins: bool) -> IdentityData:
    """Both together. An empty field never deletes what is known (HL7: empty means no change); a cleared one does, where
    ``told`` wins."""
    first, second = (told, known) if told_wins else (known, told)
    numbers = {(one.authority, one.kind, one.value): one for one in (*told.identifiers, *known.identifiers)}
    numbers = {key: numbers[key] for key in sorted(numbers, key=lambda key: numbers[key] not in known.identifiers)}
    both = IdentityData(
        family=first.family or second.family,
        given=first.given or second.given,
        birth_date=first.birth_date or second.birth_date,
        sex=first.sex if first.sex != "U" else second.sex,
        identifiers=tuple(numbers.values()),
    )
    if not told_wins or not told.cleared:
        return both
    empty: dict[str, Any] = {"family": "", "given": "", "birth_date": None, "sex": "U"}
    return replace(both, **{name: empty[name] for name in told.cleared if name in empty})


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


def _add_numbers(patient: Patient, identifiers: Iterable[Identifier], policy: MatchingPolicy) -> None:
    """Write the blind indexes of numbers that are not there yet."""
    for number in identifiers:
        row: dict[str, Any] = {
            "authority": number.authority,
            "kind": number.kind,
            "blind_index": identifier_index(number.authority, number.kind, number.value),
        }
        if policy.matches(number):
            if not PatientIdentifier.objects.filter(**row, matches=True).exists():
                # An attribute until now, or new.
                PatientIdentifier.objects.update_or_create(**row, patient=patient, defaults={"matches": True})
        else:
            PatientIdentifier.objects.get_or_create(**row, patient=patient, defaults={"matches": False})


def _owners(identifiers: tuple[Identifier, ...]) -> set[Patient]:
    return {
        found
        for found in (find_patient(one.authority, one.value, one.kind) for one in identifiers)
        if found is not None
    }


def register_patient(
    identity: IdentityData,
    *,
    source: str,
    provisional: bool = False,
    may_correct: bool = False,
    as_of: datetime | None = None,
) -> Patient:
    """The patient with these identifiers: known already and brought up to date, or new. Safe to repeat.

    :param identity: at least one identifier that recognises a patient (`clinical.patients.matching`). Empty fields change
        nothing about a known patient.
    :param source: web, fhir, mllp, dicom or command.
    :param provisional: known from an order or an image only. Such a source fills gaps about a known patient but
        overwrites nothing; a later source that is not provisional does, and confirms the patient.
    :param may_correct: the registration says on purpose that something has changed (A08, A31): one of name, birth date and
        sex of a confirmed patient may then be another. More than one is another person.
    :param as_of: when the source recorded it; what is older than what is known changes nothing.
    :raises IdentityContradiction: what is known of the patient contradicts, or the numbers are those of two patients: a
        person must sort that out. Nothing was changed.
    :raises UserVisibleError: no identifier, or none that recognises a patient here.
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
                return _register(identity, source=source, provisional=provisional, may_correct=may_correct, as_of=as_of)
        except IntegrityError:
            # The same patient arrived by two doors at once; the second one finds what the first has written.
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def _register(
    identity: IdentityData, *, source: str, provisional: bool, may_correct: bool, as_of: datetime | None
) -> Patient:
    policy = matching_policy()
    matching = policy.matching(identity.identifiers)
    if not matching:
        raise UserVisibleError(
            "None of these identifiers is of an assigning authority and a type by which patients are recognised here.",
            what_to_do="Send the medical record number, or add its assigning authority in the administration.",
            code="no-matching-identifier",
        )
    owners = _owners(matching)
    if len(owners) > 1:
        patients = tuple(sorted(owners, key=lambda one: str(one.pk)))
        raise IdentityContradiction(patients, (), identity)
    if not owners:
        patient = Patient.objects.create(provisional=provisional, confirmed_at=None if provisional else now())
        kept = replace(identity, cleared=frozenset())
        _save_identity(patient, kept, as_of)
        _insert_numbers(patient, matching)
        _add_numbers(patient, [one for one in identity.identifiers if one not in matching], policy)
        _index(patient, kept)
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
    take_over = _agreed(patient, known, identity, may_correct=may_correct and not patient.provisional)
    since = PatientIdentity.objects.values_list("as_of", flat=True).get(patient=patient)
    stale = as_of is not None and since is not None and as_of < since
    told_wins = (patient.provisional or not provisional) and not stale if take_over is None else take_over
    updated = _updated(known, _own_numbers(patient, identity, matching), told_wins=told_wins)
    confirmed = patient.provisional and not provisional
    moved_on = told_wins and not provisional and as_of is not None and as_of != since
    _add_numbers(patient, matching, policy)
    if updated == known and not confirmed:
        if moved_on:
            PatientIdentity.objects.filter(patient=patient).update(as_of=as_of)
        return patient
    if confirmed:
        patient.provisional, patient.confirmed_at = False, now()
        patient.save(update_fields=["provisional", "confirmed_at", "updated_at"])
    _save_identity(patient, updated, as_of if moved_on else since)
    _add_numbers(patient, [one for one in updated.identifiers if one not in matching], policy)
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


def _agreed(patient: Patient, known: IdentityData, told: IdentityData, *, may_correct: bool) -> bool | None:
    """None where nothing contradicts; where a person has decided that it is the same person all the same, whether what was
    told takes over. :raises IdentityContradiction: it contradicts. :raises UserVisibleError: decided: another person."""
    found = contradictions(known, told)
    if not found or (may_correct and len(found) == 1):
        return None
    decided = IdentityConflict.objects.filter(fingerprint=fingerprint(told)).select_related("patient").first()
    if decided is not None and current_patient(decided.patient) != patient:
        decided = None  # it was decided about somebody else
    if decided is not None and decided.state == ConflictState.SAME:
        return decided.take_over
    if decided is not None and decided.state == ConflictState.OTHER:
        raise UserVisibleError(
            "A person has decided that this is not the patient with that number.",
            what_to_do="Have the sender correct the number.",
            code="patient-other-person",
        )
    raise IdentityContradiction((patient,), found, told)


def _own_numbers(patient: Patient, told: IdentityData, matching: tuple[Identifier, ...]) -> IdentityData:
    """``told`` without the numbers of records that were merged into ``patient``: those keep their own."""
    theirs = {
        one
        for one in matching
        if PatientIdentifier.objects.filter(
            authority=one.authority,
            kind=one.kind,
            blind_index=identifier_index(one.authority, one.kind, one.value),
            matches=True,
        )
        .exclude(patient=patient)
        .exists()
    }
    return replace(told, identifiers=tuple(one for one in told.identifiers if one not in theirs))


def _insert_numbers(patient: Patient, identifiers: Iterable[Identifier]) -> None:
    """Insert a new patient's numbers; a plain insert, so that a race ends in the unique constraint."""
    rows = {(one.authority, one.kind, identifier_index(one.authority, one.kind, one.value)) for one in identifiers}
    for authority, kind, value in sorted(rows):
        PatientIdentifier.objects.create(patient=patient, authority=authority, kind=kind, blind_index=value)


def _save_identity(patient: Patient, identity: IdentityData, as_of: datetime | None) -> None:
    ciphertext = seal_json(patient.key_subject, identity.to_json(), context=_context(patient))
    PatientIdentity.objects.update_or_create(patient=patient, defaults={"ciphertext": ciphertext, "as_of": as_of})


def correct_identity(patient: Patient, corrected: IdentityData) -> None:
    """Replace what is known of ``patient``; the caller, inside a transaction, has checked that it may and records why.
    Numbers that match keep recognising the patient."""
    since = PatientIdentity.objects.values_list("as_of", flat=True).get(patient=patient)
    _save_identity(patient, corrected, since)
    _add_numbers(patient, corrected.identifiers, matching_policy())
    _index(patient, corrected)


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


def identities_for_cleaning(patient: Patient) -> tuple[IdentityData, ...]:
    """The identity, and those of the records that were merged into it, for taking them out of a text. They do not leave this
    room, so it is not recorded as a disclosure."""
    patient = current_patient(patient)
    return tuple(_load(one) for one in (patient, *merged_records(patient)))


def merged_records(patient: Patient) -> list[Patient]:
    """The records that were merged into ``patient``, and into those, nearest first."""
    found: list[Patient] = []
    nearest = [patient.pk]
    while nearest:
        rows = list(Patient.objects.filter(merged_into__in=nearest).order_by("pseudonym"))
        found += rows
        nearest = [one.pk for one in rows]
    return found


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
