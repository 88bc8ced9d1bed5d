"""Which numbers recognise a patient, what contradicts a match, and who decides then."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from django.core.exceptions import PermissionDenied
from hypothesis import given
from hypothesis import strategies as st

from audit.models import AuditRow
from clinical.access import assign
from clinical.identity import Identifier, IdentityData
from clinical.models import AssigningAuthority, IdentityConflict, Notice, Patient, PatientIdentifier
from clinical.models.identity import CONFLICT_MACHINE
from clinical.notices import notices_for
from clinical.patients.conflicts import conflicts_for, decide_conflict, note_conflict, reveal_conflict
from clinical.patients.matching import IdentityContradiction, contradictions, matching_policy, names_agree
from clinical.registry import find_patient, patients_with_number, register_patient, reveal_identity
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import Job

pytestmark = pytest.mark.django_db

NOON, EVENING = datetime(2026, 11, 3, 12, tzinfo=UTC), datetime(2026, 11, 3, 20, tzinfo=UTC)


def who(*numbers: str, family="Adler", given="Berta", born=date(1950, 3, 7), sex="F", **more) -> IdentityData:
    """``who("A1", "999999999:SS:USSSA")``"""
    made = []
    for number in numbers:
        value, _, rest = number.partition(":")
        kind, _, authority = rest.partition(":")
        made.append(Identifier(authority or "DEMOHOSP", value, kind or "MR"))
    return IdentityData(family, given, born, sex, tuple(made), **more)


def test_a_shared_number_of_another_type_fuses_nobody() -> None:
    """The placeholder social security number that registration desks type in."""
    she = register_patient(who("A1", "999999999:SS:USSSA"), source="mllp")
    he = register_patient(
        who("B1", "999999999:SS:USSSA", family="Kranich", given="Otto", born=date(1980, 1, 2), sex="M"), source="mllp"
    )
    assert she != he
    assert Patient.objects.count() == 2
    assert find_patient("USSSA", "999999999", "SS") is None
    assert set(patients_with_number("USSSA", "999999999", "SS")) == {she, he}
    assert reveal_identity(he, purpose="test").family == "Kranich"


@pytest.mark.parametrize("kind", ["SS", "AN", "PI", "VN", "NI", "HC"])
def test_only_the_configured_types_match(kind: str) -> None:
    register_patient(who("A1", f"77:{kind}"), source="mllp")
    other = register_patient(who("A2", f"77:{kind}", family="Specht", given="Max"), source="mllp")
    assert Patient.objects.count() == 2
    AssigningAuthority.objects.create(name="DEMOHOSP", matching_types=["MR", kind])
    with pytest.raises(IdentityContradiction):
        register_patient(who("A2", f"88:{kind}", family="Amsel", given="Udo"), source="mllp")
    assert register_patient(who("A2", f"88:{kind}", family="Specht", given="Max"), source="mllp") == other
    assert find_patient("DEMOHOSP", "88", kind) == other


def test_numbers_of_an_unknown_authority_alone_register_nobody() -> None:
    with pytest.raises(UserVisibleError) as caught:
        register_patient(who("A1:MR:ELSEWHERE"), source="mllp")
    assert caught.value.code == "no-matching-identifier"
    assert not Patient.objects.exists()


def test_an_authority_is_known_by_every_name_it_has(settings) -> None:
    AssigningAuthority.objects.create(
        name="CLINIC", universal_id="1.2.840.99", system="https://clinic.example/mrn", other_names=["CLIN"]
    )
    settings.ONCOFLOW_AUTHORITY_OIDS = {"1.2.3": "DEMOHOSP"}
    policy = matching_policy()
    for name in ("CLINIC", "clinic", "CLIN", "1.2.840.99", "urn:oid:1.2.840.99", "https://clinic.example/mrn"):
        assert policy.authority(name) == "CLINIC", name
    assert policy.authority("", "1.2.3") == policy.authority("urn:oid:1.2.3") == "DEMOHOSP"
    assert policy.authority("NOWHERE", "9.9") == "NOWHERE"
    assert policy.authority("NOWHERE", "1.2.840.99") == "CLINIC"


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [
        ("Müller", "MUELLER", True),
        ("Müller", "Muller", True),
        ("Müller-Kraft", "Kraft", True),
        ("Meyer", "Meier", True),
        ("Berta Anna", "Anna", True),
        ("B", "Berta", True),
        ("Adler", "Kranich", False),
        ("Anna", "Otto", False),
        ("山田", "山田", True),
        ("山田", "鈴木", False),
    ],
)
def test_spellings_of_a_name(first: str, second: str, agree: bool) -> None:
    assert names_agree(first, second) is names_agree(second, first) is agree


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ()),
        ({"family": "", "given": "", "born": None, "sex": "U"}, ()),
        ({"family": "ADLER"}, ()),
        ({"family": "Berta", "given": "Adler"}, ()),  # changed places
        ({"family": "Kranich"}, ()),  # a marriage: the given name and the birth date are the same
        ({"family": "Kranich", "born": None}, ("name",)),
        ({"family": "Kranich", "given": ""}, ("name",)),
        ({"given": "Clara"}, ("name",)),  # a twin
        ({"born": date(1951, 3, 7)}, ("birth_date",)),
        ({"sex": "M"}, ("sex",)),
        ({"sex": "O"}, ()),
        ({"family": "Kranich", "given": "Otto", "born": date(1980, 1, 2), "sex": "M"}, ("name", "birth_date", "sex")),
    ],
)
def test_what_contradicts(told: dict, expected: tuple[str, ...]) -> None:
    assert contradictions(who("A1"), who("A1", **told)) == expected


@given(
    st.builds(
        lambda family, given, born, sex: who("A1", family=family, given=given, born=born, sex=sex),
        st.text(max_size=12),
        st.text(max_size=12),
        st.one_of(st.none(), st.dates()),
        st.sampled_from("MFOU"),
    )
)
def test_nobody_contradicts_themselves_or_silence(person: IdentityData) -> None:
    silent = IdentityData(identifiers=person.identifiers)
    assert not [one for one in contradictions(person, person) if one != "name"]
    if person.family.strip() and any(char.isalnum() for char in person.family + person.given):
        assert contradictions(person, silent) == contradictions(silent, person) == ()


@pytest.mark.parametrize("provisional", [True, False])
@pytest.mark.parametrize("wrong", [{"given": "Otto"}, {"born": date(1980, 1, 2)}, {"sex": "M"}])
def test_a_match_that_contradicts_is_not_made(wrong: dict, provisional: bool) -> None:
    patient = register_patient(who("A1"), source="mllp")
    with pytest.raises(IdentityContradiction) as caught:
        register_patient(who("A1", **wrong), source="mllp", provisional=provisional)
    assert caught.value.patients == (patient,)
    assert reveal_identity(patient, purpose="test") == who("A1")
    assert "Otto" not in f"{caught.value} {caught.value!r}"


def test_a_registration_corrects_one_thing_and_not_the_whole_person() -> None:
    patient = register_patient(who("A1"), source="mllp")
    assert register_patient(who("A1", born=date(1951, 3, 7)), source="mllp", may_correct=True) == patient
    assert reveal_identity(patient, purpose="test").birth_date == date(1951, 3, 7)
    with pytest.raises(IdentityContradiction):
        register_patient(who("A1", born=date(1980, 1, 2), sex="M"), source="mllp", may_correct=True)
    images = register_patient(who("A2"), source="dicom", provisional=True)
    assert images.provisional
    with pytest.raises(
        IdentityContradiction
    ):  # nobody has confirmed them yet: a registration of that number may be another
        register_patient(who("A2", given="Otto"), source="mllp", may_correct=True)


def test_an_older_message_changes_nothing_and_two_quotes_delete() -> None:
    patient = register_patient(who("A1"), source="mllp", as_of=NOON)
    register_patient(who("A1", family="Adler-Horst"), source="mllp", as_of=EVENING)
    register_patient(who("A1", family="Adler"), source="mllp", as_of=NOON)
    assert reveal_identity(patient, purpose="test").family == "Adler-Horst"
    late = who("A1", family="Adler-Horst", born=None, cleared=frozenset({"birth_date"}))
    register_patient(late, source="mllp", as_of=NOON)
    assert reveal_identity(patient, purpose="test").birth_date == date(1950, 3, 7)
    register_patient(late, source="mllp", as_of=EVENING)
    assert reveal_identity(patient, purpose="test").birth_date is None
    assert not patient.indexes.filter(kind="birth_date").exists()


def conflict(**wrong) -> IdentityConflict:
    with pytest.raises(IdentityContradiction) as caught:
        register_patient(who("A1", **(wrong or {"born": date(1980, 1, 2)})), source="mllp")
    return note_conflict(caught.value, source="mllp", sender="EMR")


def test_a_contradiction_waits_for_a_person_and_is_listed_once(make_user) -> None:
    patient = register_patient(who("A1"), source="mllp")
    first, again = conflict(), conflict()
    assert first == again
    assert (again.times, again.state, again.contradicts, again.patient) == (2, "open", ["birth_date"], patient)
    assert b"Adler" not in bytes(again.ciphertext)
    registrar, radiologist, stranger = make_user("registrar"), make_user(), make_user()
    assign(radiologist, patient, reason="reads", by=None)
    assert list(conflicts_for(registrar)) == list(conflicts_for(radiologist)) == [first]
    assert not conflicts_for(stranger).exists()
    technician = make_user("technician")
    assign(technician, patient, reason="scans", by=None)
    assert not conflicts_for(technician).exists()
    assert reveal_conflict(first, by=registrar).birth_date == date(1980, 1, 2)
    assert AuditRow.objects.filter(event="patient.identity", actor_id=str(registrar.pk)).count() == 1
    with pytest.raises(PermissionDenied):
        decide_conflict(first, by=stranger, same=True, reason="x")
    assert AuditRow.objects.filter(event="identity.decide", outcome=4).count() == 1


def test_staff_are_told(make_user) -> None:
    register_patient(who("A1"), source="mllp")
    conflict()
    assert Job.objects.get(kind="clinical.tell_staff").event.kind == "identity.conflict"
    from clinical.notices import write_notice

    write_notice("identity.conflict", f"identityconflict:{IdentityConflict.objects.get().pk}")
    assert Notice.objects.get().patient is not None
    assert notices_for(make_user("registrar")).count() == 1
    assert not notices_for(make_user("technician")).exists()


@pytest.mark.parametrize("take_over", [True, False])
def test_the_same_person_after_all(make_user, take_over: bool) -> None:
    patient = register_patient(who("A1"), source="mllp")
    row = conflict()
    with pytest.raises(UserVisibleError, match="reason"):
        decide_conflict(row, by=make_user("registrar"), same=True, reason=" ")
    decide_conflict(row, by=make_user("registrar"), same=True, take_over=take_over, reason="passport seen")
    assert register_patient(who("A1", born=date(1980, 1, 2)), source="mllp") == patient
    born = date(1980, 1, 2) if take_over else date(1950, 3, 7)
    assert reveal_identity(patient, purpose="test").birth_date == born
    with pytest.raises(UserVisibleError, match="decided this already"):
        decide_conflict(row, by=make_user("registrar"), same=False, reason="no")


def test_another_person_stays_out_for_good(make_user) -> None:
    register_patient(who("A1"), source="mllp")
    decide_conflict(conflict(), by=make_user("registrar"), same=False, reason="two people")
    for _ in "ab":
        with pytest.raises(UserVisibleError) as caught:
            register_patient(who("A1", born=date(1980, 1, 2)), source="mllp")
        assert caught.value.code == "patient-other-person"
    assert PatientIdentifier.objects.count() == 1


@pytest.mark.parametrize(("state", "event"), list(CONFLICT_MACHINE.pairs()))
def test_every_move_of_a_conflict(state: str, event: str) -> None:
    legal = {("open", "same"), ("open", "other"), ("same", "reopen"), ("other", "reopen")}
    assert ((state, event) in CONFLICT_MACHINE.table) is ((state, event) in legal)
