"""Registering, finding and naming patients."""

from __future__ import annotations

import threading
from datetime import date

import pytest
from django.db import connection

from audit.actors import Actor
from audit.models import AuditRow
from clinical.access import assign
from clinical.identity import Identifier, IdentityData
from clinical.models import AssigningAuthority, Patient, PatientIdentifier, PatientIdentity, PatientIndex
from clinical.registry import find_patient, register_patient, reveal_identity, search_patients
from clinical.vault import normal_name
from oncoflow_site.foundation.errors import EngineError, UserVisibleError

pytestmark = pytest.mark.django_db


def person(mrn: str = "4711", authority: str = "DEMOHOSP", **more) -> IdentityData:
    fields = {"family": "Müller", "given": "Änne", "birth_date": date(1961, 3, 7), "sex": "F", **more}
    return IdentityData(identifiers=(Identifier(authority, mrn),), **fields)


def test_a_patient_is_found_by_authority_and_number_only() -> None:
    patient = register_patient(person(), source="mllp")
    assert find_patient("DEMOHOSP", "4711") == patient
    assert find_patient("DEMOHOSP", " 4711 ") == patient
    assert find_patient("OTHER", "4711") is None
    assert find_patient("DEMOHOSP", "4711", kind="PI") is None
    with pytest.raises(UserVisibleError) as caught:
        register_patient(person(authority="OTHER"), source="mllp")
    assert caught.value.code == "no-matching-identifier"
    AssigningAuthority.objects.create(name="OTHER")
    assert register_patient(person(authority="OTHER"), source="mllp") != patient


def test_registering_again_changes_nothing_and_writes_nothing() -> None:
    patient = register_patient(person(), source="mllp")
    rows = AuditRow.objects.count()
    assert register_patient(person(), source="mllp") == patient
    assert AuditRow.objects.count() == rows
    assert (Patient.objects.count(), PatientIdentifier.objects.count(), PatientIndex.objects.count()) == (1, 1, 3)


def test_nothing_in_the_database_or_the_record_names_the_patient() -> None:
    register_patient(person(family="Zwiebelsturm", given="Ottokar", mrn="MRN-998877"), source="mllp")
    with connection.cursor() as cursor:
        text = ""

        def plain(cell: object) -> str:
            return bytes(cell).decode("latin-1") if isinstance(cell, (bytes, memoryview)) else str(cell)

        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            for row in cursor.fetchall():
                text += " ".join(plain(cell) for cell in row)
    for secret in ("Zwiebelsturm", "ZWIEBELSTURM", "Ottokar", "MRN-998877", "1961-03-07"):
        assert secret not in text


def test_identity_comes_out_once_asked_with_a_purpose_and_on_the_record() -> None:
    patient = register_patient(person(), source="mllp")
    with pytest.raises(EngineError, match="purpose"):
        reveal_identity(patient, purpose=" ")
    identity = reveal_identity(patient, purpose="report", actor=Actor.peer("EMR"))
    assert (identity.family, identity.given, identity.birth_date) == ("Müller", "Änne", date(1961, 3, 7))
    row = AuditRow.objects.get(event="patient.identity")
    assert (row.actor_id, row.detail, row.patient) == ("EMR", {"purpose": "report"}, patient.pk)


def test_identity_does_not_print_itself() -> None:
    identity = person()
    assert "ller" not in f"{identity!r} {identity} {identity.identifiers}"
    assert "4711" not in f"{identity!r} {identity.identifiers[0]!r}"


def test_an_update_overwrites_but_an_empty_field_does_not() -> None:
    patient = register_patient(person(), source="mllp")
    register_patient(person(family="Müller-Kraft", given="", birth_date=None, sex="U"), source="mllp")
    identity = reveal_identity(patient, purpose="test")
    assert (identity.family, identity.given, identity.birth_date, identity.sex) == (
        "Müller-Kraft",
        "Änne",
        date(1961, 3, 7),
        "F",
    )
    assert PatientIndex.objects.filter(patient=patient).count() == 3


def test_a_provisional_source_fills_gaps_and_a_confirmed_one_wins() -> None:
    patient = register_patient(person(family="Muller", given=""), source="dicom", provisional=True)
    assert patient.provisional
    register_patient(person(family="Müller"), source="mllp")
    patient.refresh_from_db()
    assert not patient.provisional
    register_patient(person(family="WRONG"), source="dicom", provisional=True)
    patient.refresh_from_db()
    assert not patient.provisional
    assert reveal_identity(patient, purpose="test").family == "Müller"


def test_a_second_number_joins_and_numbers_of_two_patients_conflict() -> None:
    one = register_patient(person("1"), source="mllp")
    two = register_patient(person("2"), source="mllp")
    both = IdentityData(family="X", identifiers=(Identifier("DEMOHOSP", "1"), Identifier("DEMOHOSP", "2")))
    with pytest.raises(UserVisibleError) as caught:
        register_patient(both, source="mllp")
    assert caught.value.code == "patient-identifiers-conflict"
    third = IdentityData(identifiers=(Identifier("DEMOHOSP", "1"), Identifier("CLINIC", "77")))
    assert register_patient(third, source="mllp") == one
    assert find_patient("CLINIC", "77") is None, "nobody has said that this authority's numbers recognise anybody"
    AssigningAuthority.objects.create(name="CLINIC")
    assert register_patient(third, source="mllp") == one
    assert find_patient("CLINIC", "77") == one != two


def test_no_identifier_no_patient() -> None:
    with pytest.raises(UserVisibleError, match="identifier"):
        register_patient(IdentityData(family="X"), source="mllp")
    with pytest.raises(ValueError, match="authority"):
        Identifier("", "1")
    assert not Patient.objects.exists()


def test_merged_patients_answer_as_the_survivor() -> None:
    one, two = register_patient(person("1"), source="mllp"), register_patient(person("2"), source="mllp")
    two.merged_into = one
    two.save()
    assert find_patient("DEMOHOSP", "2") == one


def test_search_finds_only_what_the_person_may_see(make_user) -> None:
    user = make_user()
    mine, theirs = register_patient(person("1"), source="mllp"), register_patient(person("2"), source="mllp")
    assign(user, mine, reason="x", by=None)
    assert search_patients(user, family="MULLER") == [mine]
    assert search_patients(user, family="mül") == [mine]
    assert search_patients(user, family="muell") == []
    assert search_patients(user, birth_date=date(1961, 3, 7)) == [mine]
    assert search_patients(user, number="1", authority="DEMOHOSP") == [mine]
    assert search_patients(user, number="2", authority="DEMOHOSP") == []
    assert search_patients(make_user(), family="MULLER") == []
    assert theirs.pk
    text = str(list(AuditRow.objects.filter(event="patient.search").values()))
    assert "ller" not in text.lower()


@pytest.mark.parametrize(
    ("written", "expected"),
    [("Müller-Lüdenscheidt", "MULLERLUDENSCHEIDT"), ("O'Brien", "OBRIEN"), ("straße", "STRASSE"), ("山田", "山田")],
)
def test_names_are_compared_without_marks_and_case(written: str, expected: str) -> None:
    assert normal_name(written) == expected


@pytest.mark.django_db(transaction=True)
def test_two_doors_registering_one_patient_at_once_make_one() -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        try:
            barrier.wait()
            register_patient(person("race"), source="dicom", provisional=True)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Patient.objects.count() == 1
    assert PatientIdentity.objects.count() == 1
