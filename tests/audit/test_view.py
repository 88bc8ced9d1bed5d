"""The compliance officer's page."""

from __future__ import annotations

import uuid

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from audit.actors import Actor
from audit.codes import declare_code
from audit.models import AuditRow
from audit.services import record
from clinical.models import Patient

pytestmark = pytest.mark.django_db
declare_code("test.act", "A test acted")
declare_code("test.other", "A test did something else")


def client_of(role: str, **more: object) -> Client:
    user = get_user_model().objects.create_user(username=f"{role}-{uuid.uuid4().hex[:6]}", role=role, **more)
    client = Client()
    client.force_login(user)
    return client


def test_a_compliance_officer_reads_and_that_is_recorded() -> None:
    record("test.act", action="R", resource="study:abc")
    answer = client_of("compliance_officer").get("/audit/")
    assert answer.status_code == 200
    assert "study:abc" in answer.content.decode()
    assert answer.headers["Cache-Control"] == "no-store"
    row = AuditRow.objects.filter(event="audit.view").get()
    assert (row.actor_role, row.outcome, row.source) == ("compliance_officer", 0, "web")


@pytest.mark.parametrize("role", ["admin", "doctor", "radiologist", "clinician", "technician", "integration"])
def test_nobody_else_does_and_the_refusal_is_recorded(role: str) -> None:
    answer = client_of(role, is_superuser=True, is_staff=True).get("/audit/")
    assert answer.status_code == 403
    assert AuditRow.objects.filter(event="audit.view").get().outcome == 4


def test_strangers_are_sent_to_the_login() -> None:
    answer = Client().get("/audit/")
    assert answer.status_code == 302
    assert "/login/" in answer.headers["Location"]


def test_filters_narrow_the_list() -> None:
    patient = Patient.objects.create()
    record("test.act", action="R", resource="study:one", patient_id=patient.pk, actor=Actor.peer("SCANNER"))
    record("test.other", action="R", resource="study:two", outcome=8)
    client = client_of("compliance_officer")

    def shown(**query: str) -> set[str]:
        text = client.get("/audit/", query).content.decode()
        return {name for name in ("study:one", "study:two") if name in text}

    assert shown() == {"study:one", "study:two"}
    assert shown(event="test.act") == {"study:one"}
    assert shown(outcome="8") == {"study:two"}
    assert shown(actor_type="peer", actor="SCANNER") == {"study:one"}
    assert shown(patient=patient.pseudonym.lower()) == {"study:one"}
    assert shown(patient=str(patient.pk)) == {"study:one"}
    assert shown(patient="OF-NOBODY") == set()
    assert shown(since="2999-01-01T00:00") == set()
    assert shown(until="2999-01-01T00:00") == {"study:one", "study:two"}
    assert shown(since="not a time") == set()


def test_pseudonyms_and_user_names_are_shown_and_pages_turn() -> None:
    patient = Patient.objects.create()
    for _ in range(60):
        record("test.act", action="R", resource="study:x", patient_id=patient.pk)
    client = client_of("compliance_officer")
    first = client.get("/audit/", {"event": "test.act"}).content.decode()
    assert patient.pseudonym in first
    assert "page 1 of 2" in first
    assert "event=test.act&amp;page=2" in first
    assert client.get("/audit/", {"event": "test.act", "page": "2"}).content.decode().count("study:x") == 10
    assert client.get("/audit/", {"page": "nonsense"}).status_code == 200


def test_filter_values_do_not_enter_the_record() -> None:
    client_of("compliance_officer").get("/audit/", {"actor": "Somebody Secret"})
    assert "Secret" not in str(list(AuditRow.objects.values()))


def test_a_person_is_named_to_what_is_recorded_while_they_ask() -> None:
    client = client_of("compliance_officer")
    client.get("/audit/")
    row = AuditRow.objects.filter(event="audit.view").get()
    assert row.actor_id == str(get_user_model().objects.get().pk)


def test_login_and_failed_login_are_recorded_without_the_name_typed() -> None:
    get_user_model().objects.create_user(username="ann", password="a long enough word", role="clinician")
    client = Client()
    assert not client.login(username="my patient Smith", password="x")
    assert client.login(username="ann", password="a long enough word")
    events = list(AuditRow.objects.order_by("id").values_list("event", "outcome"))
    assert events == [("session.login_failed", 4), ("session.login", 0)]
    assert "Smith" not in str(list(AuditRow.objects.values()))
