"""The pages of identities and their REST twins: who sees what, deciding, confirming, merging, taking back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from django.test import Client

from audit.models import AuditRow
from clinical.access import assign
from clinical.identity import Identifier, IdentityData
from clinical.models import IdentityConflict, Patient, PatientMerge, User
from clinical.patients.conflicts import note_conflict
from clinical.patients.matching import IdentityContradiction
from clinical.registry import find_patient, register_patient

pytestmark = pytest.mark.django_db


def who(number: str, family: str = "Adler", given: str = "Berta", born: date | None = date(1950, 3, 7)) -> IdentityData:
    return IdentityData(family, given, born, "F", (Identifier("DEMOHOSP", number),))


@pytest.fixture
def two() -> tuple[Patient, Patient]:
    """(survivor, prior)"""
    return register_patient(who("B"), source="mllp"), register_patient(who("A"), source="mllp")


@pytest.fixture
def conflict(two: tuple[Patient, Patient]) -> IdentityConflict:
    with pytest.raises(IdentityContradiction) as caught:
        register_patient(who("A", "Kranich", "Otto"), source="mllp")
    return note_conflict(caught.value, source="mllp", sender="EMR")


def person(role: str, client_of: Callable[[Any], Client], *patients: Patient) -> tuple[User, Client]:
    user: User = User.objects.create_user(f"{role}-{User.objects.count()}", role=role)
    for one in patients:
        assign(user, one, reason="treats", by=None)
    return user, client_of(user)


def test_patient_registration_sees_identities_and_nothing_clinical(client_of, two) -> None:
    _, client = person("registrar", client_of)
    page = client.get(f"/identities/patients/{two[0].pk}/")
    assert b"Adler, Berta" in page.content
    assert page.headers["Cache-Control"] == "no-store"
    assert client.get(f"/patients/{two[0].pk}/").status_code == 404
    assert b"Identities" in client.get("/").content
    found = client.post("/identities/find", {"number": "A", "authority": "DEMOHOSP"})
    assert found["Location"] == f"/identities/patients/{two[1].pk}/"
    assert AuditRow.objects.filter(event="patient.identity", detail__purpose="identity-page").exists()


@pytest.mark.parametrize("role", ["admin", "compliance_officer", "integration"])
def test_whose_work_it_is_not(client_of, two, conflict, role) -> None:
    user, client = person(role, client_of)
    before = AuditRow.objects.filter(outcome__gt=0).count()
    assert client.get("/identities/").status_code == 403
    assert client.get("/api/identities/").status_code == 403
    for address in (f"/identities/conflicts/{conflict.pk}/", f"/identities/patients/{two[0].pk}/"):
        assert client.get(address).status_code == 404
    assert client.get(f"/api/identities/conflicts/{conflict.pk}").status_code == 404
    assert AuditRow.objects.filter(outcome__gt=0, actor_id=str(user.pk)).count() == 5 + 0 * before


def test_a_doctor_works_on_their_own_patients_only(client_of, two, conflict) -> None:
    _, stranger = person("doctor", client_of)
    assert b"Nothing contradicts" in stranger.get("/identities/").content
    assert stranger.get(f"/identities/conflicts/{conflict.pk}/").status_code == 404
    assert (
        stranger.post(f"/identities/patients/{two[0].pk}/merge", {"prior": two[1].pk, "reason": "x"}).status_code == 404
    )
    assert stranger.post(f"/api/identities/patients/{two[0].pk}/confirm").status_code == 404
    _, own = person("doctor", client_of, *two)
    assert b"Contradicts" in own.get("/identities/").content
    assert own.get(f"/identities/conflicts/{conflict.pk}/").status_code == 200
    assert not PatientMerge.objects.exists()


@pytest.mark.parametrize(("decision", "state"), [("keep", "same"), ("take_over", "same"), ("other", "other")])
def test_a_contradiction_is_decided_on_its_page(client_of, conflict, decision, state) -> None:
    _, client = person("registrar", client_of)
    page = client.get(f"/identities/conflicts/{conflict.pk}/").content
    assert b"Adler, Berta" in page
    assert b"Kranich, Otto" in page
    refused = client.post(
        f"/identities/conflicts/{conflict.pk}/decide", {"decision": decision, "reason": ""}, follow=True
    )
    assert b"A reason is needed" in refused.content
    client.post(f"/identities/conflicts/{conflict.pk}/decide", {"decision": decision, "reason": "asked the ward"})
    conflict.refresh_from_db()
    assert (conflict.state, conflict.take_over) == (state, decision == "take_over")
    assert client.post(f"/identities/conflicts/{conflict.pk}/decide", {"decision": "nonsense"}).status_code == 404


def test_merging_and_taking_back_on_the_pages(client_of, two) -> None:
    survivor, prior = two
    _, client = person("registrar", client_of)
    shown = client.get(f"/identities/patients/{survivor.pk}/", {"with": "A"}).content
    assert b"nothing hangs on it" in shown
    assert not PatientMerge.objects.exists(), "a look changes nothing"
    assert b"one record" in client.get(f"/identities/patients/{survivor.pk}/", {"with": "B"}).content
    done = client.post(
        f"/identities/patients/{survivor.pk}/merge", {"prior": prior.pk, "reason": "passport seen"}, follow=True
    )
    assert b"Take the merge back" in done.content
    assert find_patient("DEMOHOSP", "A") == survivor
    merge = PatientMerge.objects.get()
    assert b"into" in client.get("/identities/").content
    client.post(f"/identities/merges/{merge.pk}/unmerge", {"reason": "two people"})
    assert find_patient("DEMOHOSP", "A") == prior
    assert client.post(f"/identities/merges/{merge.pk}/nonsense").status_code == 404
    assert set(AuditRow.objects.filter(outcome=0).values_list("event", flat=True)) >= {
        "patient.merge_preview",
        "patient.merge",
        "patient.unmerge",
    }


def test_a_second_person_approves_on_the_page(client_of, two, settings) -> None:
    settings.ONCOFLOW_MERGE_SECOND_PERSON = True
    survivor, prior = two
    _, first = person("registrar", client_of)
    first.post(f"/identities/patients/{survivor.pk}/merge", {"prior": prior.pk, "reason": "passport seen"})
    merge = PatientMerge.objects.get()
    page = first.get(f"/identities/merges/{merge.pk}/").content
    assert b"a second person decides" in page
    assert b"yourself" in first.post(f"/identities/merges/{merge.pk}/approve", follow=True).content
    _, second = person("registrar", client_of)
    assert b"Merge them" in second.get(f"/identities/merges/{merge.pk}/").content
    second.post(f"/identities/merges/{merge.pk}/approve")
    assert find_patient("DEMOHOSP", "A") == survivor


def test_an_identity_is_confirmed_on_its_page(client_of) -> None:
    patient = register_patient(who("C", born=None), source="dicom", provisional=True)
    _, client = person("technician", client_of, patient)
    assert patient.pseudonym.encode() in client.get("/identities/").content
    assert b"not confirmed" in client.get(f"/patients/{patient.pk}/").content
    address = f"/identities/patients/{patient.pk}/confirm"
    assert b"birth date" in client.post(address, follow=True).content
    assert b"not a date" in client.post(address, {"birth_date": "7.3.1950"}, follow=True).content
    entered = {"family": "Adler", "given": "Berta", "birth_date": "1950-03-07", "sex": "F"}
    assert b"is confirmed" in client.post(address, entered, follow=True).content
    patient.refresh_from_db()
    assert not patient.provisional


def test_the_same_by_rest(client_of, two, conflict) -> None:
    survivor, prior = two
    _, client = person("registrar", client_of)

    def post(address: str, **data: Any) -> Any:
        return client.post(address, data, content_type="application/json")

    listed = client.get("/api/identities/").json()
    assert [one["contradicts"] for one in listed["conflicts"]] == [["name"]]
    address = f"/api/identities/conflicts/{conflict.pk}"
    assert client.get(address).json()["identity"]["family"] == "Kranich"
    assert post(address, same="yes", reason="x").status_code == 400
    assert post(address, same=False, reason="").status_code == 422
    assert post(address, same=False, reason="two people").json()["state"] == "other"
    names = {"survivor": str(survivor.pk), "prior": str(prior.pk)}
    shown = post("/api/identities/merges/", **names, preview=True)
    assert (shown.status_code, shown.json()["contradicts"]) == (200, [])
    assert post("/api/identities/merges/", **names).status_code == 422
    made = post("/api/identities/merges/", **names, reason="passport seen")
    assert (made.status_code, made.json()["state"]) == (201, "merged")
    merge = f"/api/identities/merges/{made.json()['id']}"
    assert client.get(merge).json()["came_since"] == []
    assert post(f"{merge}/approve").status_code == 422
    assert post(f"{merge}/refuse", reason="late").status_code == 422
    assert post(f"{merge}/unmerge", reason="x", also="all").status_code == 400
    assert post(f"{merge}/unmerge", reason="two people").json()["state"] == "unmerged"
    provisional = register_patient(who("C"), source="dicom", provisional=True)
    confirmed = post(f"/api/identities/patients/{provisional.pk}/confirm")
    assert confirmed.json()["provisional"] is False


def test_the_forms_need_their_token(client_of, two) -> None:
    user, _ = person("registrar", client_of)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    answer = client.post(f"/identities/patients/{two[0].pk}/merge", {"prior": two[1].pk, "reason": "x"})
    assert answer.status_code == 403
