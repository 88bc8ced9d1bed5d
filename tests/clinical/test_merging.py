"""Two records of one person become one, and two again."""

from __future__ import annotations

from datetime import date

import pytest
from django.core.exceptions import PermissionDenied

from audit.models import AuditRow
from clinical.access import assign, patients_for, user_can_see
from clinical.cleaning import clean
from clinical.documents import add_document
from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models import MergedRecord, Patient, PatientMerge
from clinical.models.identity import MERGE_MACHINE
from clinical.orders import accept_order, cancel_order, find_order, reveal_order
from clinical.patients.confirming import confirm_identity, require_confirmed
from clinical.patients.conflicts import note_conflict
from clinical.patients.matching import IdentityContradiction
from clinical.patients.merging import (
    approve_merge,
    came_since,
    merge_patients,
    merges_for,
    patient_at,
    preview_merge,
    refuse_merge,
    unmerge,
)
from clinical.patients.moving import unnamed_models
from clinical.registry import current_patient, find_patient, identities_for_cleaning, register_patient, reveal_identity
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import Event

pytestmark = pytest.mark.django_db


@pytest.fixture
def two(make_patient) -> tuple[Patient, Patient]:
    """(survivor, prior): one woman, registered before and after her marriage."""
    return make_patient(family="Kranich", mrn="B"), make_patient(family="Adler", mrn="A")


@pytest.fixture
def registrar(make_user):
    return make_user("registrar")


def order_of(patient: Patient, number: str = "P1"):
    return accept_order(patient, OrderIdentity(placer_number=number, placer_authority="EMR", reason="x"), source="mllp")


def merged(two, registrar, **more) -> PatientMerge:
    return merge_patients(*two, by=registrar, reason="passport seen", source="web", **more)


def test_a_preview_says_what_moves_and_changes_nothing(two, registrar, make_user) -> None:
    survivor, prior = two
    order_of(prior)
    add_document(prior, content=b"letter", content_type="text/plain", source_id="d1")
    assign(make_user(), prior, reason="reads", by=None)
    shown = preview_merge(survivor, prior, by=registrar)
    assert {one.name: one.count for one in shown.rows} == {"orders": 1, "documents": 1, "care team members": 1}
    assert (shown.contradicts, shown.needs_second_person) == ((), False)
    assert not PatientMerge.objects.exists()
    with pytest.raises(PermissionDenied):
        preview_merge(survivor, prior, by=make_user("doctor"))


def test_a_merge_moves_everything_and_both_numbers_find_the_survivor(two, registrar, make_user) -> None:
    survivor, prior = two
    reader = make_user()
    assign(reader, prior, reason="reads", by=None)
    order, document = order_of(prior), add_document(prior, content=b"Adler", content_type="text/plain", source_id="d1")
    merge = merged(two, registrar)
    assert merge.state == "merged"
    assert find_patient("DEMOHOSP", "A") == find_patient("DEMOHOSP", "B") == survivor
    order.refresh_from_db()
    document.refresh_from_db()
    assert (order.patient, document.patient) == (survivor, survivor)
    assert reveal_order(order, purpose="test").placer_number == "P1", "still under the key it was encrypted with"
    assert add_document(survivor, content=b"Adler", content_type="text/plain", source_id="d1") == document, "sent again"
    assert user_can_see(reader, survivor)
    assert list(patients_for(reader)) == [survivor]
    both = IdentityData(
        "Kranich", "Berta", date(1961, 3, 7), "F", (Identifier("DEMOHOSP", "A"), Identifier("DEMOHOSP", "B"))
    )
    assert register_patient(both, source="mllp") == survivor
    assert [one.value for one in reveal_identity(survivor, purpose="test").identifiers] == ["B"]
    found = find_order(OrderIdentity(placer_number="P1", placer_authority="EMR"))
    assert cancel_order(found).status == "cancelled"
    assert Event.objects.filter(kind="patients.merged").count() == 1
    assert AuditRow.objects.get(event="patient.merge").actor_id == str(registrar.pk)


def test_a_former_name_is_still_taken_out_of_documents(two, registrar) -> None:
    survivor, _ = two
    merged(two, registrar)
    text = clean("Frau Adler, jetzt Kranich, Nummer A", *identities_for_cleaning(survivor)).text
    assert "Adler" not in text
    assert "Kranich" not in text


def test_an_unmerge_restores_what_each_had(two, registrar, make_user) -> None:
    survivor, prior = two
    reader = make_user()
    assign(reader, prior, reason="reads", by=None)
    hers, other = order_of(prior), order_of(survivor, "P2")
    merge = merged(two, registrar)
    since = order_of(survivor, "P3")
    came = came_since(merge)
    assert [(one.label, one.ids) for one in came] == [("clinical.Order", (str(since.pk),))]
    with pytest.raises(UserVisibleError, match="did not come since"):
        unmerge(merge, by=registrar, reason="two people", also=[("clinical.Order", str(other.pk))])
    unmerge(merge, by=registrar, reason="two people", also=[("clinical.Order", str(since.pk))])
    for row, patient in ((hers, prior), (other, survivor), (since, prior)):
        row.refresh_from_db()
        assert row.patient == patient
        assert reveal_order(row, purpose="test")
    prior.refresh_from_db()
    assert prior.merged_into is None
    assert find_patient("DEMOHOSP", "A") == prior
    assert find_patient("DEMOHOSP", "B") == survivor
    assert reveal_identity(prior, purpose="test").family == "Adler"
    assert list(patients_for(reader)) == [prior]
    assert Event.objects.filter(kind="patients.unmerged").count() == 1
    merged(two, registrar)  # and again
    assert find_patient("DEMOHOSP", "A") == survivor


def test_merges_are_taken_back_last_first(two, registrar, make_patient) -> None:
    survivor, prior = two
    last = make_patient(mrn="C")
    order = order_of(prior)
    first = merged(two, registrar)
    second = merge_patients(last, survivor, by=registrar, reason="x", source="web")
    order.refresh_from_db()
    assert order.patient == last == find_patient("DEMOHOSP", "A")
    with pytest.raises(UserVisibleError) as caught:
        unmerge(first, by=registrar, reason="x")
    assert caught.value.code == "unmerge-later-first"
    unmerge(second, by=registrar, reason="x")
    unmerge(first, by=registrar, reason="x")
    order.refresh_from_db()
    assert order.patient == prior == find_patient("DEMOHOSP", "A")


def test_a_site_may_want_a_second_person(two, registrar, make_user, settings) -> None:
    settings.ONCOFLOW_MERGE_SECOND_PERSON = True
    merge = merged(two, registrar)
    assert merge.state == "requested"
    assert find_patient("DEMOHOSP", "A") == two[1]
    with pytest.raises(UserVisibleError, match="yourself"):
        approve_merge(merge, by=registrar)
    with pytest.raises(UserVisibleError, match="asked for already"):
        merged(two, make_user("registrar"))
    other = make_user("registrar")
    assert list(merges_for(other, "requested")) == [merge]
    assert not merges_for(make_user("technician"), "requested").exists()
    assert approve_merge(merge, by=other).state == "merged"
    with pytest.raises(UserVisibleError):
        refuse_merge(merge, by=other, reason="late")


def test_a_request_may_be_refused_and_asked_for_again(two, registrar, make_user) -> None:
    merge = merge_patients(*two, by=None, reason="A40", source="mllp", sender="EMR", hold=True)
    assert merge.state == "requested"
    refuse_merge(merge, by=registrar, reason="not the same")
    assert current_patient(two[1]) == two[1]
    assert merged(two, registrar).state == "merged"


def test_what_cannot_be_merged(two, registrar, make_user) -> None:
    survivor, prior = two
    with pytest.raises(UserVisibleError, match="one record"):
        merge_patients(survivor, survivor, by=None, reason="x", source="web")
    with pytest.raises(UserVisibleError, match="reason"):
        merge_patients(survivor, prior, by=registrar, reason=" ", source="web")
    radiologist = make_user()
    assign(radiologist, survivor, reason="reads", by=None)
    with pytest.raises(PermissionDenied):  # only one of the two is theirs
        merge_patients(survivor, prior, by=radiologist, reason="x", source="web")
    assert AuditRow.objects.filter(event="patient.merge", outcome=4).count() == 1
    merged(two, registrar)
    with pytest.raises(UserVisibleError, match="merged already"):
        merge_patients(survivor, prior, by=registrar, reason="x", source="web")


def test_a_merge_answers_the_question_whether_two_are_one(two, registrar) -> None:
    both = IdentityData(identifiers=(Identifier("DEMOHOSP", "A"), Identifier("DEMOHOSP", "B")))
    with pytest.raises(IdentityContradiction) as caught:
        register_patient(both, source="mllp")
    conflict = note_conflict(caught.value, source="mllp")
    assert conflict.kind == "numbers"
    merged(two, registrar)
    conflict.refresh_from_db()
    assert conflict.state == "same"
    assert Event.objects.filter(kind="identity.decided").count() == 1
    assert register_patient(both, source="mllp") == two[0]


def test_under_whom_something_stood_then(two, registrar) -> None:
    survivor, prior = two
    order = order_of(prior)
    before = now()
    merged(two, registrar)
    order.refresh_from_db()
    assert patient_at(order, before) == prior
    assert patient_at(order, now()) == survivor


@pytest.mark.parametrize(("state", "event"), list(MERGE_MACHINE.pairs()))
def test_every_move_of_a_merge(state: str, event: str) -> None:
    legal = {("requested", "merge"), ("requested", "refuse"), ("merged", "unmerge")}
    assert ((state, event) in MERGE_MACHINE.table) is ((state, event) in legal)


def test_an_identity_is_confirmed_by_a_person(make_user, make_patient) -> None:
    patient = make_patient(family="Alder", provisional=True)
    with pytest.raises(UserVisibleError, match="confirmed"):
        require_confirmed(patient)
    with pytest.raises(PermissionDenied):
        confirm_identity(patient, by=make_user("technician"))
    technician = make_user("technician")
    assign(technician, patient, reason="scans", by=None)
    corrected = IdentityData("Adler", "Berta", date(1961, 3, 7), "F")
    done = confirm_identity(patient, by=technician, corrected=corrected)
    assert (done.provisional, done.confirmed_by) == (False, technician)
    require_confirmed(done)
    identity = reveal_identity(done, purpose="test")
    assert identity.family == "Adler"
    assert identity.identifiers, "the numbers stay"
    assert AuditRow.objects.get(event="patient.confirm", outcome=0).detail == {"corrected": ["family"]}
    confirm_identity(done, by=technician)
    with pytest.raises(UserVisibleError, match="confirmed already"):
        confirm_identity(done, by=technician, corrected=IdentityData("Habicht", "Berta", date(1961, 3, 7), "F"))


def test_without_name_and_birth_date_there_is_nothing_to_confirm(make_user, make_patient) -> None:
    patient = make_patient(family="Adler", birth_date=None, provisional=True)
    with pytest.raises(UserVisibleError, match="birth date"):
        confirm_identity(patient, by=make_user("registrar"))


def test_every_moved_row_is_kept_as_a_row(two, registrar) -> None:
    order = order_of(two[1])
    merge = merged(two, registrar)
    assert list(MergedRecord.objects.filter(merge=merge).values_list("model", "record_id")) == [
        ("clinical.Order", str(order.pk))
    ]


def test_every_room_has_said_what_moves_with_a_patient() -> None:
    assert unnamed_models() == []
