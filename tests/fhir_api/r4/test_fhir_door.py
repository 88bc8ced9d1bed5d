"""The FHIR door: documents and orders come in once, everything refused is an OperationOutcome without the data."""

from __future__ import annotations

import base64
import json
from datetime import date, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import ClinicalDocument, Order, Patient
from fhir_api.access.tokens import create_token, revoke_token
from fhir_api.models import ReceivedResource
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from tests.factories.fhir_client import Fhir

pytestmark = pytest.mark.django_db

SYSTEM = "https://demo-hospital.example/fhir/identifier/DEMOHOSP"
TEXT = "Radiotherapy ended. Dexamethasone 4 mg – Befund ä"


@pytest.fixture
def patient() -> Patient:
    identity = IdentityData("Beispiel", "Anna", date(1964, 3, 11), "F", (Identifier("DEMOHOSP", "D1"),))
    return clinical.register_patient(identity, source="command")


@pytest.fixture
def account() -> Any:
    return get_user_model().objects.create_user("emr", role="integration")


@pytest.fixture
def fhir(account: Any) -> Fhir:
    return Fhir(create_token(account, "test")[1])


def document(**change: Any) -> dict[str, Any]:
    attachment = {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(TEXT.encode()).decode()}
    resource = {
        "resourceType": "DocumentReference",
        "masterIdentifier": {"system": "https://emr.example/documents", "value": "doc-1"},
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11506-3", "display": "Progress note"}]},
        "subject": {"identifier": {"system": SYSTEM, "value": "D1"}},
        "date": "2026-10-05T08:30:00Z",
        "content": [{"attachment": attachment}],
    }
    return {key: value for key, value in (resource | change).items() if value is not None}


def issue(response: Any, status: int) -> dict[str, Any]:
    """The first issue of an error answer, which must be an OperationOutcome that quotes nobody."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"].startswith("application/fhir+json")
    body = response.json()
    assert body["resourceType"] == "OperationOutcome"
    assert b"Beispiel" not in response.content
    return dict(body["issue"][0])


def test_document_is_kept_byte_for_byte_and_read_back(fhir, patient):
    body = json.dumps(document(), indent=3).encode()
    response = fhir.post("DocumentReference", body)
    assert response.status_code == 201
    row = ClinicalDocument.objects.get()
    assert row.patient == patient
    assert clinical.read_original(row) == TEXT.encode()
    assert (row.type_code, row.type_text) == ("11506-3", "Progress note")
    received = ReceivedResource.objects.select_related("raw").get()
    assert objects.get(received.raw) == body
    assert received.raw.subject == patient.key_subject
    assert response.headers["ETag"] == 'W/"1"'
    assert response.headers["Location"].endswith(f"/fhir/DocumentReference/{row.pk}/_history/1")
    again = fhir.get(f"DocumentReference/{row.pk}")
    assert again.json()["masterIdentifier"]["value"] == "doc-1"
    assert again.json()["id"] == str(row.pk)
    assert fhir.get(f"DocumentReference/{row.pk}", **{"If-None-Match": 'W/"1"'}).status_code == 304
    assert AuditRow.objects.filter(event="fhir.create", patient=patient.pk).count() == 1
    assert AuditRow.objects.filter(event="fhir.read", patient=patient.pk).count() == 2


def test_the_same_document_again_is_the_same_document(fhir, patient):
    first = fhir.post("DocumentReference", document())
    second = fhir.post("DocumentReference", document())
    third = fhir.post(
        "DocumentReference",
        document(date="2027-01-01T00:00:00Z"),
        **{"If-None-Exist": "identifier=https://emr.example/documents|doc-1"},
    )
    assert [one.status_code for one in (first, second, third)] == [201, 200, 200]
    assert first.json()["id"] == second.json()["id"] == third.json()["id"]
    assert ClinicalDocument.objects.count() == 1
    assert issue(fhir.post("DocumentReference", document(date="2027-01-01T00:00:00Z")), 409)["code"] == "duplicate"
    assert issue(fhir.post("DocumentReference", document(), **{"If-None-Exist": "name=Beispiel"}), 412)


def test_received_resources_cannot_be_changed(fhir, patient):
    fhir.post("DocumentReference", document())
    from django.core.exceptions import ValidationError

    row = ReceivedResource.objects.get()
    with pytest.raises(ValidationError):
        row.save()
    with pytest.raises(ValidationError):
        row.delete()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"status": "bogus"}, 400, "code-invalid"),
        ({"docStatus": "Beispiel"}, 400, "code-invalid"),
        ({"status": None}, 400, "required"),
        ({"status": "superseded"}, 422, "business-rule"),
        ({"id": "x"}, 400, "invalid"),
        ({"Beispiel": "x"}, 400, "structure"),
        ({"category": []}, 400, "structure"),
        ({"subject": None}, 422, "required"),
        ({"subject": {"reference": "Patient/Beispiel"}}, 422, "not-found"),
        ({"subject": {"identifier": {"system": SYSTEM, "value": "D2"}}}, 422, "not-found"),
        ({"subject": {"identifier": {"system": "https://other.example", "value": "D1"}}}, 422, "not-found"),
        ({"subject": {"identifier": {"value": "D1"}}}, 422, "not-found"),
        ({"date": "yesterday"}, 400, "structure"),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": "!!!"}}]}, 400, None),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": "QUJD", "size": 4}}]}, 422, "value"),
        ({"content": [{"attachment": {"contentType": "text/plain", "data": "QUJD", "hash": "QUJD"}}]}, 422, "value"),
        (
            {"content": [{"attachment": {"contentType": "text/plain", "url": "http://127.0.0.1/x"}}]},
            422,
            "not-supported",
        ),
        ({"content": [{"attachment": {"data": "QUJD"}}]}, 422, "required"),
    ],
)
def test_bad_documents_are_refused_and_nothing_is_kept(fhir, patient, change, status, code):
    found = issue(fhir.post("DocumentReference", document(**change)), status)
    assert code is None or found["code"] == code
    assert not ClinicalDocument.objects.exists()
    assert not ReceivedResource.objects.exists()
    assert AuditRow.objects.filter(event="fhir.refuse", outcome=4).count() == 1


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"DocumentReference","resourceType":"DocumentReference"}',
        b'{"resourceType":"DocumentReference","x":NaN}',
        b"[" * 100_001,
        b'{"resourceType":"DocumentReference","category":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"resourceType":"DocumentReference","category":[' + b"0," * 200_000 + b"0]}",
        b'{"resourceType":"DocumentReference","status":null}',
    ],
)
def test_hostile_bodies_are_refused(fhir, body):
    issue(fhir.post("DocumentReference", body), 400)


def test_who_is_not_known_gets_401_and_is_recorded(account, patient):
    row, token = create_token(account, "one")
    for one in (Fhir(), Fhir("of_wrong"), Fhir("x" * 5000)):
        response = one.get("Patient")
        assert issue(response, 401)["code"] == "login"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    revoke_token(row)
    issue(Fhir(token).get("Patient"), 401)
    _, expired = create_token(account, "two", expires_at=now() - timedelta(seconds=1))
    issue(Fhir(expired).get("Patient"), 401)
    _, idle = create_token(account, "three")
    account.is_active = False
    account.save()
    issue(Fhir(idle).get("Patient"), 401)
    assert AuditRow.objects.filter(event="fhir.refuse").count() == 6


def test_scopes_are_kept(account, patient):
    _, token = create_token(account, "narrow", scopes=["system/DocumentReference.c"])
    one = Fhir(token)
    assert one.post("DocumentReference", document()).status_code == 201
    for path in ("Patient", f"Patient/{patient.pk}", "DocumentReference"):
        assert issue(one.get(path), 403)["code"] == "forbidden"
    issue(one.post("ServiceRequest", {}), 403)


def test_a_person_sees_only_their_patients(patient):
    user = get_user_model().objects.create_user("rhea", role="radiologist")
    one = Fhir(create_token(user, "mine", scopes=["user/*.crs"])[1])
    assert one.get("Patient").json()["total"] == 0
    issue(one.get(f"Patient/{patient.pk}"), 404)
    issue(one.post("DocumentReference", document()), 422)
    clinical.assign(user, patient, reason="test", by=None)
    assert one.get("Patient").json()["total"] == 1
    assert one.get(f"Patient/{patient.pk}").json()["name"][0]["family"] == "Beispiel"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("get", "Nonsense", {}, 404),
        ("get", "Nonsense/1", {}, 404),
        ("get", "Patient/not-an-id", {}, 404),
        ("get", "a/b/c/d/e", {}, 404),
        ("delete", "Patient", {}, 405),
        ("put", "Patient/00000000-0000-0000-0000-000000000000", {}, 405),
        ("post", "Patient", {}, 405),
        ("get", "metadata", {"Accept": "application/fhir+xml"}, 406),
        ("get", "metadata?_format=xml", {}, 406),
        ("get", "Patient?name=Beispiel", {"Prefer": "handling=strict"}, 400),
        ("get", "Patient?_count=-1", {}, 400),
        ("get", "Patient?identifier:of-type=x", {}, 400),
    ],
)
def test_every_error_is_an_operation_outcome(fhir, method, path, headers, status):
    issue(getattr(fhir.client, method)(f"/fhir/{path}", headers=headers), status)


def test_wrong_content_type_is_415(fhir):
    issue(fhir.post("DocumentReference", document(), content_type="text/plain"), 415)


def test_search_finds_by_identifier_and_pages(fhir, patient):
    for number in range(2, 6):
        identity = IdentityData(f"Name{number}", "X", None, "U", (Identifier("DEMOHOSP", f"D{number}"),))
        clinical.register_patient(identity, source="command")
    found = fhir.get(f"Patient?identifier={SYSTEM}|D1").json()
    assert [one["resource"]["id"] for one in found["entry"]] == [str(patient.pk)]
    assert fhir.get("Patient?identifier=D1").json()["total"] == 0
    first = fhir.get("Patient?_count=2&unknown=1").json()
    links = {one["relation"]: one["url"] for one in first["link"]}
    assert (first["total"], len(first["entry"])) == (5, 2)
    assert "unknown" not in links["self"]
    seen = {one["resource"]["id"] for one in first["entry"]}
    while "next" in links:
        page = fhir.client.get(links["next"].split("8000")[1]).json()
        seen |= {one["resource"]["id"] for one in page["entry"]}
        links = {one["relation"]: one["url"] for one in page["link"]}
    assert len(seen) == 5
    assert fhir.get("Patient?_count=0").json() == fhir.get("Patient?_count=0").json()
    body = f"identifier={SYSTEM}|D1".encode()
    posted = fhir.post("Patient/_search", body, content_type="application/x-www-form-urlencoded").json()
    assert posted["total"] == 1
    row = AuditRow.objects.filter(event="fhir.search").order_by("id").first()
    assert row is not None
    assert row.detail["parameters"] == ["identifier"]
    assert "D1" not in json.dumps(row.detail)


def test_orders_come_in_as_service_requests(fhir, patient):
    identifiers = [
        {
            "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code}]},
            "system": f"https://demo-hospital.example/fhir/identifier/EMR/{code}",
            "value": f"{code}-1",
        }
        for code in ("PLAC", "ACSN")
    ]
    request = {
        "resourceType": "ServiceRequest",
        "identifier": identifiers,
        "status": "active",
        "intent": "order",
        "priority": "urgent",
        "code": {"coding": [{"system": "http://loinc.org", "code": "24587-8"}], "text": "MR Brain"},
        "subject": {"reference": f"Patient/{patient.pk}"},
        "authoredOn": "2026-03-01T10:15:00+01:00",
        "reasonCode": [{"text": "Follow-up"}],
        "requester": {"display": "Dr Roth"},
    }
    response = fhir.post("ServiceRequest", request)
    assert response.status_code == 201, response.content
    order = Order.objects.get()
    told = clinical.reveal_order(order, purpose="test")
    assert (told.placer_number, told.placer_authority, told.accession, told.reason) == (
        "PLAC-1",
        "EMR",
        "ACSN-1",
        "Follow-up",
    )
    assert (order.priority, order.procedure_code) == ("asap", "24587-8")
    assert fhir.post("ServiceRequest", request).status_code == 200
    assert Order.objects.count() == 1
    clinical.cancel_order(order)
    assert fhir.get(f"ServiceRequest/{order.pk}").json()["status"] == "revoked"
    assert fhir.get("ServiceRequest?status=revoked").json()["total"] == 1
    assert issue(fhir.post("ServiceRequest", request | {"priority": "SUPERHIGH"}), 400)["code"] == "code-invalid"


@pytest.mark.peer("hapi")
def test_what_is_read_here_is_valid(fhir, patient, fhir_validator):
    fhir.post("DocumentReference", document())
    assert fhir_validator.issues(Fhir().get("metadata").content) == []
    for path in ("Patient", "DocumentReference", "DiagnosticReport", "Patient?_count=0"):
        assert fhir_validator.issues(fhir.get(path).content) == []
    assert fhir_validator.issues(fhir.get("Nonsense").content) == []
