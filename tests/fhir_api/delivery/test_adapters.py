"""What an endpoint may ask for: documents alone, MDM, its own identifier systems, no patient made, nothing preliminary."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from audit.models import AuditRow
from clinical.identity import Identifier, IdentityData
from clinical.models import User
from fhir_api.delivery.adapters import build_payload
from fhir_api.delivery.transports import send_fhir
from fhir_api.hl7v2.er7 import parse
from fhir_api.hl7v2.mdm import build_mdm
from fhir_api.models import Endpoint
from oncoflow_site.foundation.errors import EndpointError, PermanentError
from oncoflow_site.foundation.models import Delivery, Event
from tests.factories.outgoing_reports import PDF, facts

OURS = "https://demo-hospital.example/fhir/identifier/DEMOHOSP"
THEIRS = "urn:oid:2.16.840.1.113883.19.5"


def fhir(**capabilities: Any) -> Endpoint:
    return Endpoint(name="f", transport="fhir", address="https://x.example/fhir", capabilities=capabilities)


def mllp(**capabilities: Any) -> Endpoint:
    return Endpoint(name="m", transport="mllp", address="x:1", capabilities=capabilities)


def resources(payload: bytes) -> dict[str, Any]:
    return {one["resource"]["resourceType"]: one["resource"] for one in json.loads(payload)["entry"]}


def test_a_document_alone_has_the_pdf_inside():
    made = resources(build_payload(facts(2, "final"), fhir(format="document-reference")))
    assert made.keys() == {"Patient", "Organization", "Practitioner", "DocumentReference"}
    (content,) = made["DocumentReference"]["content"]
    assert base64.b64decode(content["attachment"]["data"]) == PDF
    assert "url" not in content["attachment"]
    assert made["DocumentReference"]["context"]["related"][0]["identifier"]["value"] == "P1"


def test_systems_are_written_as_the_receiver_knows_them_and_nobody_is_made():
    payload = build_payload(facts(2, "final"), fhir(never_create=True, identifier_systems={OURS: THEIRS}))
    assert OURS.encode() + b'"' not in payload
    made = resources(payload)
    assert not made.keys() & {"Patient", "Organization", "Practitioner"}
    report = made["DiagnosticReport"]
    assert report["subject"] == {"reference": f"Patient?identifier={THEIRS}|MRN-1"}
    assert report["resultsInterpreter"][0]["type"] == "Practitioner"
    urls = {one["fullUrl"] for one in json.loads(payload)["entry"]}
    text = payload.decode()
    assert all(part.split('"')[0] in urls for part in text.split('"reference":"')[1:] if part.startswith("urn:"))
    kept = json.loads(build_payload(facts(2, "final"), fhir(identifier_systems={OURS: THEIRS})))
    (patient,) = [one for one in kept["entry"] if one["resource"]["resourceType"] == "Patient"]
    assert patient["request"]["ifNoneExist"] == f"identifier={THEIRS}|MRN-1"
    assert patient["resource"]["identifier"][0]["system"] == THEIRS


@pytest.mark.peer("hapi")
def test_the_validator_finds_no_error_in_the_adapters_bundles(fhir_validator):
    for options in ({"format": "document-reference"}, {"identifier_systems": {OURS: THEIRS}}):
        for version in ((1, "preliminary"), (2, "final"), (3, "amended")):
            assert fhir_validator.issues(build_payload(facts(*version), fhir(**options))) == []


@pytest.mark.peer("hapi")
@pytest.mark.django_db(transaction=True)
def test_a_server_that_knows_the_patient_by_another_system_gets_no_second_one(hapi_fhir):
    client = httpx.Client(base_url=hapi_fhir, timeout=60, trust_env=False)
    number = "MRN-KNOWN-ELSEWHERE"
    known = {"resourceType": "Patient", "identifier": [{"system": THEIRS, "value": number}]}
    assert client.post("/Patient", json=known).status_code == 201
    options = {"format": "document-reference", "identifier_systems": {OURS: THEIRS}, "timeout_s": 120}
    report_id = "9d2b1f0e-0000-4000-8000-00000000abcd"
    one = facts(2, "final", mrn=number, report_id=report_id)
    for never_create in (True, False):
        endpoint = Endpoint.objects.create(
            name=f"e{never_create}",
            transport="fhir",
            address=hapi_fhir,
            capabilities={**options, "never_create": never_create},
        )
        assert send_fhir(Delivery(endpoint=endpoint.name), build_payload(one, endpoint)).response_code == "200"
    stranger = facts(2, "final", mrn="MRN-NOBODY-KNOWS", report_id="9d2b1f0e-0000-4000-8000-00000000abce")
    endpoint = Endpoint.objects.get(name="eTrue")
    with pytest.raises((PermanentError, EndpointError)):
        send_fhir(Delivery(endpoint=endpoint.name), build_payload(stranger, endpoint))
    for value, count in ((number, 1), ("MRN-NOBODY-KNOWS", 0)):
        answer = client.get("/Patient", params={"identifier": f"{THEIRS}|{value}", "_summary": "count"})
        assert answer.json()["total"] == count
    client.close()


MDM: list[tuple[tuple[int, str], dict[str, Any], str, tuple[str, str, str]]] = [
    ((1, "preliminary"), {}, "T02", ("", "DO", "AV")),
    ((2, "final"), {"replaces_number": 1}, "T10", ("000000000001-1^ONCOFLOW", "AU", "AV")),
]


@pytest.mark.parametrize(("version", "change", "trigger", "expected"), MDM)
def test_a_version_as_mdm(version, change, trigger, expected):
    endpoint = mllp(format="mdm")
    data = build_payload(facts(*version, **change), endpoint)
    message = parse(data)
    header, txa = message.first("MSH"), message.first("TXA")
    assert header is not None
    assert txa is not None
    assert header.field(9) == f"MDM^{trigger}^MDM_T02"
    assert txa.field(12) == f"000000000001-{version[0]}^ONCOFLOW"
    assert (txa.field(13), txa.field(17), txa.field(19)) == expected
    (row,) = message.all("OBX")
    assert base64.b64decode(row.get(5, 5), validate=True) == PDF
    strict = parse_message(data.decode().replace(row.get(5, 5), "QUJD"), validation_level=VALIDATION_LEVEL.STRICT)
    assert strict.validate()
    assert build_payload(facts(*version, **change), endpoint) == data


def test_where_only_final_reports_go_the_first_of_them_replaces_nothing():
    data = build_payload(facts(2, "final", replaces_number=1), mllp(format="mdm", final_only=True))
    header, txa = parse(data).first("MSH"), parse(data).first("TXA")
    assert header is not None
    assert txa is not None
    assert (header.get(9, 2), txa.field(13)) == ("T02", "")


def test_a_withdrawn_document_is_another_message_without_the_pdf():
    final = facts(2, "final", replaces_number=1)
    endpoint = mllp()
    message, sent = parse(build_mdm(final, endpoint, withdrawn=True)), parse(build_mdm(final, endpoint))
    header, txa, before = message.first("MSH"), message.first("TXA"), sent.first("MSH")
    assert header is not None
    assert txa is not None
    assert before is not None
    assert header.field(9) == "MDM^T11^MDM_T01"
    assert (txa.field(12), txa.field(19)) == ("000000000001-2^ONCOFLOW", "CA")
    assert header.get(10) != before.get(10)
    assert list(message.all("OBX")) == []


@pytest.mark.peer("hapi")
def test_hapi_finds_no_error_in_mdm(hapi_hl7, tmp_path):
    for version, change, _, _ in MDM:
        assert hapi_hl7.errors(build_mdm(facts(*version, **change), mllp()), tmp_path) == []
    assert hapi_hl7.errors(build_mdm(facts(2, "final"), mllp(), withdrawn=True), tmp_path) == []


@pytest.mark.parametrize("form", ["oru", "mdm"])
def test_no_letter_becomes_a_question_mark(form):
    person = IdentityData("Łukaszów–Žák", "Đorđe Zoë", None, "M", (Identifier("DEMOHOSP", "1"),))
    latin = build_payload(facts(identity=person, order=None), mllp(format=form, charset="8859/1"))
    pid = parse(latin).first("PID")
    assert pid is not None
    assert (pid.get(5, 1), pid.get(5, 2)) == ("Lukaszów-Zák", "Dorde Zoë")
    utf8 = parse(build_payload(facts(identity=person, order=None), mllp(format=form))).first("PID")
    assert utf8 is not None
    assert utf8.get(5, 1) == "Łukaszów–Žák"
    with pytest.raises(PermanentError, match="needs UTF-8"):
        build_payload(facts(identity=IdentityData("王"), order=None), mllp(format=form, charset="8859/1"))


def test_a_format_of_another_transport_is_refused():
    with pytest.raises(PermanentError, match="no format 'mdm'"):
        build_payload(facts(), fhir(format="mdm"))


@pytest.mark.django_db
def test_the_command_takes_the_switches():
    call_command(
        "add_endpoint",
        "docs",
        "fhir",
        "https://emr.example/fhir",
        "--format=document-reference",
        "--never-create",
        "--final-only",
        f"--identifier-system={OURS}={THEIRS}",
    )
    assert Endpoint.objects.get().capabilities == {
        "format": "document-reference",
        "never_create": True,
        "final_only": True,
        "identifier_systems": {OURS: THEIRS},
    }
    for wrong in ("--format=mdm", "--identifier-system=nothing"):
        with pytest.raises(CommandError):
            call_command("add_endpoint", "x", "fhir", "https://emr.example/fhir", wrong)


@pytest.mark.django_db(transaction=True)
def test_another_host_gets_no_token_of_the_one_before(client, monkeypatch):
    monkeypatch.setenv("TOKEN_OF_EMR", "made-for-emr")
    call_command("add_endpoint", "emr", "fhir", "https://emr.example/fhir", "--token-env=TOKEN_OF_EMR")
    call_command("add_endpoint", "emr", "fhir", "https://emr.example/r4")
    assert Endpoint.objects.get().credential
    client.force_login(User.objects.create_superuser("root", role="admin"))
    page = f"/admin/fhir_api/endpoint/{Endpoint.objects.get().pk}/change/"
    form = {"address": "https://u@elsewhere.example/fhir", "capabilities": "{}", "active": "on"}
    assert client.post(page, form).status_code == 302
    assert Endpoint.objects.get().credential is None
    row = AuditRow.objects.filter(event="peer.change").latest("pk")
    assert (row.detail["old_host"], row.detail["new_host"], row.detail["credential_dropped"]) == (
        "https://emr.example",
        "https://elsewhere.example",
        True,
    )
    call_command("add_endpoint", "emr", "fhir", "https://third.example/fhir", "--token-env=TOKEN_OF_EMR")
    assert Endpoint.objects.get().credential, "a token given with the address is for that address"
    assert Event.objects.filter(kind="endpoint.moved").count() == 2
