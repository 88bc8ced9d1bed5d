"""Reports on their way out: valid by other people's validators, idempotent at other people's receivers, in order."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from clinical.identity import Identifier, IdentityData
from fhir_api.delivery.transports import CREDENTIAL, send_fhir, send_mllp
from fhir_api.hl7v2.er7 import parse, read_header
from fhir_api.hl7v2.oru import build_oru
from fhir_api.models import Endpoint
from fhir_api.r4.resources.bundle import build_transaction
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EndpointError, PermanentError, TransientError
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Delivery, EndpointStatus
from oncoflow_site.foundation.outbox import enqueue_delivery, revive, write_payload
from tests.factories.outgoing_reports import PDF, REPORT_ID, STUDY, facts

VERSIONS = [(1, "preliminary"), (2, "final"), (3, "amended")]
NASTY = IdentityData("O'Neill|^&~\\x", "Zoë <b>\n", None, "U", (Identifier("DEMO HOSP/x", "M|R^N"),))


def by_type(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == kind]


# --- content ----------------------------------------------------------------------------------------------------------


def test_same_version_gives_the_same_bytes():
    assert build_transaction(facts()) == build_transaction(facts())
    endpoint = Endpoint(name="e", transport="mllp", address="x:1")
    assert build_oru(facts(), endpoint) == build_oru(facts(), endpoint)


def test_transaction_says_what_the_report_says():
    bundle = json.loads(build_transaction(facts(2, "final")))
    (report,) = by_type(bundle, "DiagnosticReport")
    assert report["status"] == "final"
    assert {one["code"] for concept in report["category"] for one in concept["coding"]} == {"RAD", "LP29684-5"}
    assert report["code"]["coding"][0]["code"] == "24587-8"
    assert report["basedOn"][0]["identifier"]["value"] == "P1"
    assert len(report["resultsInterpreter"]) == 1
    form = report["presentedForm"][0]
    assert form["size"] == len(PDF)
    assert base64.b64decode(form["hash"]) == hashlib.sha1(PDF).digest()
    (binary,) = by_type(bundle, "Binary")
    assert base64.b64decode(binary["data"]) == PDF
    values = {one["code"]["coding"][0]["code"]: one for one in by_type(bundle, "Observation")}
    assert values["ET-volume"]["valueQuantity"] == {
        "value": 12.341,  # of 12,340.5 mm3
        "unit": "mL",
        "system": "http://unitsofmeasure.org",
        "code": "mL",
    }
    assert "valueQuantity" not in values["WT-volume"]
    assert values["WT-volume"]["dataAbsentReason"]["text"] == "FLAIR was not acquired"
    assert values["ET-change"]["valueQuantity"]["value"] == -38.3
    assert "valueQuantity" not in values["TC-change"]
    (study,) = by_type(bundle, "ImagingStudy")
    assert study["identifier"][0] == {
        "system": "urn:dicom:uid",
        "value": "urn:oid:1.2.826.0.1.3680043.8.498.1234567890",
    }
    (provenance,) = by_type(bundle, "Provenance")
    assert [one["type"]["coding"][0]["code"] for one in provenance["agent"]] == ["author", "assembler"]


def test_preliminary_report_is_marked_and_has_no_interpreter():
    (report,) = by_type(json.loads(build_transaction(facts())), "DiagnosticReport")
    assert report["meta"]["tag"][0]["code"] == "AIAST"
    assert "resultsInterpreter" not in report
    (final,) = by_type(json.loads(build_transaction(facts(2, "final"))), "DiagnosticReport")
    assert "tag" not in final["meta"]
    assert report["id"] == final["id"] == REPORT_ID


@pytest.mark.peer("hapi")
@pytest.mark.parametrize(("number", "status"), VERSIONS)
def test_fhir_validator_finds_no_error(fhir_validator, number, status):
    assert fhir_validator.issues(build_transaction(facts(number, status))) == []


@pytest.mark.peer("hapi")
def test_fhir_validator_finds_no_error_in_the_sparse_and_the_nasty(fhir_validator):
    bare = {
        "schema": 1,
        "report_id": REPORT_ID,
        "version": 1,
        "status": "final",
        "demo": False,
        "study": STUDY,
        "findings": {
            "measurement_id": "m",
            "segmentation": {"id": "s", "kind": "consensus", "version": 1, "author": "panel"},
            "regions": {},
        },
        "disclaimer": "",
        "comparison": None,
        "panel": None,
        "impression": "",
    }
    for one in (facts(content=bare, order=None, code=("", "")), facts(identity=NASTY), facts(identity=IdentityData())):
        assert fhir_validator.issues(build_transaction(one)) == []


def test_oru_repeats_the_order_and_carries_the_pdf():
    data = build_oru(facts(2, "final"), Endpoint(name="e", transport="mllp", address="x:1"))
    message = parse(data)
    orc, obr, pid = message.first("ORC"), message.first("OBR"), message.first("PID")
    assert orc is not None
    assert obr is not None
    assert pid is not None
    assert orc.field(1) == "RE"
    assert orc.field(2) == obr.field(2) == "P1^EMR^1.2.9^ISO"
    assert obr.field(4) == "MRBRAIN^MR Schädel^L^24587-8^MR Brain WO and W contrast IV^LN"
    assert (obr.get(24), obr.get(25)) == ("RAD", "F")
    assert pid.field(3) == "MRN-1^^^DEMOHOSP&1.2.3&ISO^MR"
    rows = list(message.all("OBX"))
    assert {row.get(11) for row in rows} == {"F", "X"}
    assert all((row.get(11) == "X") == (not row.field(5)) for row in rows)
    volume = next(row for row in rows if row.get(3) == "ET-volume")
    assert (volume.get(2), volume.field(6)) == ("NM", "mL^mL^UCUM")
    assert rows[-1].get(2) == "ED"
    assert base64.b64decode(rows[-1].get(5, 5), validate=True) == PDF
    parsed = parse_message(data.decode().replace(rows[-1].get(5, 5), "QUJD"), validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()


@pytest.mark.peer("hapi")
def test_hapi_finds_no_error_in_the_oru(hapi_hl7, tmp_path):
    endpoint = Endpoint(name="e", transport="mllp", address="x:1")
    for one in (*(facts(*version) for version in VERSIONS), facts(identity=NASTY), facts(order=None, code=("", ""))):
        assert hapi_hl7.errors(build_oru(one, endpoint), tmp_path) == []


def test_hostile_names_stay_in_their_fields():
    order = facts().order
    assert order is not None
    one = facts(identity=NASTY, order=None)
    message = parse(build_oru(one, Endpoint(name="e", transport="mllp", address="x:1")))
    pid = message.first("PID")
    assert pid is not None
    assert pid.get(5, 1) == "O'Neill|^&~\\x"
    assert pid.get(3, 1) == "M|R^N"


# --- the demo's EMR ---------------------------------------------------------------------------------------------------


class EmrProcess:
    """The receiving EMR as its own process."""

    token = "secret-token-of-the-test"

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "oncoflow_site.demo.emr", "--store", str(folder), "--token", self.token]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]})
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        self.http, self.mllp = int(words[2]), int(words[4])
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.http}", headers={"Authorization": f"Bearer {self.token}"}, trust_env=False
        )

    def order(self, **words: str) -> None:
        assert self.client.post("/control", json=words).status_code == 200

    def held(self) -> dict[str, Any]:
        return dict(self.client.get("/control").json())

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        assert self.process.wait(10) == 0


@pytest.fixture
def emr(tmp_path: Path) -> Iterator[EmrProcess]:
    one = EmrProcess(tmp_path / "emr")
    yield one
    one.stop()


def endpoint_of(emr: EmrProcess, transport: str) -> Endpoint:
    address = f"http://127.0.0.1:{emr.http}/fhir" if transport == "fhir" else f"127.0.0.1:{emr.mllp}"
    endpoint = Endpoint.objects.create(name=f"emr-{transport}", transport=transport, address=address)
    endpoint.credential = keys.encrypt(endpoint.key_subject, emr.token.encode(), CREDENTIAL)
    endpoint.capabilities = {"timeout_s": 10}
    endpoint.save()
    return endpoint


def queue(endpoint: Endpoint, number: int, status: str) -> Delivery:
    one = facts(number, status)
    payload = build_transaction(one) if endpoint.transport == "fhir" else build_oru(one, endpoint)
    return enqueue_delivery(
        endpoint=endpoint.name,
        transport=endpoint.transport,
        subject=f"report:{REPORT_ID}",
        key=f"{endpoint.name}:{REPORT_ID}:{number}",
        payload=write_payload(payload, patient_subject="patient:test"),
    )


def run_deliveries() -> None:
    """Run what is due, and what was postponed as if its time had come."""
    from oncoflow_site.foundation.models import Job

    for _ in range(4):
        run_pending("delivery")
        Delivery.objects.filter(state="waiting").update(next_attempt_at=now())
        Job.objects.filter(state="waiting").update(run_after=now())
        EndpointStatus.objects.update(next_probe_at=now())
        revive(timedelta(0))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("word", ["", "refuse", "swallow"])
def test_emr_holds_each_version_once_whatever_goes_wrong(emr, word):
    fhir, mllp = endpoint_of(emr, "fhir"), endpoint_of(emr, "mllp")
    for number, status in VERSIONS:
        emr.order(fhir=word, mllp=word)
        queue(fhir, number, status)
        queue(mllp, number, status)
        run_deliveries()
    assert set(Delivery.objects.values_list("state", flat=True)) == {"delivered"}
    held = emr.held()
    assert held["fhir"]["DiagnosticReport"] == {REPORT_ID: 3}
    assert list(held["fhir"]["DocumentReference"].values()) == [3]
    assert list(held["fhir"]["Patient"].values()) == [1]
    assert list(held["fhir"]["ImagingStudy"].values()) == [1]
    assert len(held["fhir"]["Binary"]) == len(held["fhir"]["Provenance"]) == 3
    assert len(held["hl7"]) == 3
    attempts = len([one for one in held["log"] if one.get("path") == "/fhir"])
    assert attempts == (6 if word else 3)
    history = emr.client.get(f"/fhir/DiagnosticReport/{REPORT_ID}/_history").json()
    assert [one["resource"]["status"] for one in history["entry"]] == ["amended", "final", "preliminary"]


@pytest.mark.django_db(transaction=True)
def test_emr_keeps_what_it_holds_over_a_restart(tmp_path):
    one = EmrProcess(tmp_path / "emr")
    queue(endpoint_of(one, "fhir"), 1, "preliminary")
    run_deliveries()
    before = one.held()["fhir"]
    one.stop()
    again = EmrProcess(tmp_path / "emr")
    assert again.held()["fhir"] == before
    again.stop()


@pytest.mark.django_db(transaction=True)
def test_wrong_token_stops_the_endpoint_and_no_report(emr):
    fhir = endpoint_of(emr, "fhir")
    fhir.credential = keys.encrypt(fhir.key_subject, b"wrong", CREDENTIAL)
    fhir.save()
    first, second = queue(fhir, 1, "preliminary"), queue(fhir, 2, "final")
    run_deliveries()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, first.response_code, first.attempts, second.state) == ("waiting", "401", 0, "waiting")
    status = EndpointStatus.objects.get(endpoint=fhir.name)
    assert (status.state, status.code, status.alarmed) == ("stopped", "401", True)
    fhir.credential = keys.encrypt(fhir.key_subject, emr.token.encode(), CREDENTIAL)
    fhir.save()
    run_deliveries()
    assert set(Delivery.objects.values_list("state", flat=True)) == {"delivered"}
    assert list(first.history.values_list("outcome", "response_code")) == [
        *[("waiting", "401")] * 4,
        ("delivered", "200"),
    ]


# --- other people's receivers -----------------------------------------------------------------------------------------


@pytest.mark.peer("hapi")
@pytest.mark.django_db(transaction=True)
def test_hapi_fhir_holds_exactly_one_of_each_version(hapi_fhir):
    endpoint = Endpoint.objects.create(
        name="hapi", transport="fhir", address=hapi_fhir, capabilities={"timeout_s": 120}
    )
    for number, status in VERSIONS:
        delivery = queue(endpoint, number, status)
        payload = build_transaction(facts(number, status))
        assert send_fhir(delivery, payload).response_code == "200"
        assert send_fhir(delivery, payload).response_code == "200"  # it had stored the first and could not answer
    client = httpx.Client(timeout=60, trust_env=False)
    history = client.get(f"{hapi_fhir}/DiagnosticReport/{REPORT_ID}/_history").json()["entry"]
    assert [one["resource"]["status"] for one in history] == ["amended", "final", "preliminary"]
    current = history[0]["resource"]
    assert "AIAST" not in json.dumps(current["meta"])
    assert "AIAST" in json.dumps(history[2]["resource"]["meta"])

    def count(kind: str, **query: str) -> int:
        return int(client.get(f"{hapi_fhir}/{kind}", params={"_summary": "count", **query}).json()["total"])

    assert count("DiagnosticReport") == 1
    assert count("Patient", identifier="https://demo-hospital.example/fhir/identifier/DEMOHOSP|MRN-1") == 1
    assert count("ImagingStudy", identifier="urn:dicom:uid|urn:oid:1.2.826.0.1.3680043.8.498.1234567890") == 1
    assert count("DocumentReference", identifier=REPORT_ID) == 1
    assert count("Provenance") == 3
    assert count("Observation") == len(current["result"])
    form = current["presentedForm"][0]
    binary = client.get(httpx.URL(hapi_fhir + "/").join(form["url"]), headers={"Accept": "application/pdf"})
    assert binary.content == PDF
    client.close()


@pytest.mark.peer("hapi")
@pytest.mark.django_db(transaction=True)
def test_hapi_hl7_receives_and_acknowledges(hapi_receiver):
    endpoint = Endpoint.objects.create(name="hl7", transport="mllp", address=f"127.0.0.1:{hapi_receiver.port}")
    delivery = queue(endpoint, 2, "final")
    payload = build_oru(facts(2, "final", pdf=b"%PDF-1.7" + b"\x00\xff" * (5 << 19)), endpoint)
    assert send_mllp(delivery, payload).response_code == "AA"
    assert hapi_receiver.messages() == [payload]


# --- misbehaving peers ------------------------------------------------------------------------------------------------


@pytest.fixture
def answers() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """An HTTP server that gives the answers it is told, in turn."""
    given: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = given.pop(0)
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", body.decode() or "7")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", given
    server.shutdown()
    thread.join(5)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"issue":[{"code":"invalid","diagnostics":"Anna Beispiel is wrong"}]}', PermanentError),
        (422, b"not json", PermanentError),
        (302, b"", PermanentError),
        (401, b"", EndpointError),
        (403, b"", EndpointError),
        (404, b"<html>not here</html>", EndpointError),
        (429, b"", EndpointError),
        (409, b"", TransientError),
        (500, b"", TransientError),
        (503, b"", EndpointError),
        (200, b"<html>login</html>", PermanentError),
        (200, b'{"resourceType":"Bundle","type":"transaction-response","entry":[]}', PermanentError),
        (200, b'{"resourceType":"Bundle","type":"batch-response","entry":[]}', PermanentError),
        (200, b'{"resourceType":"OperationOutcome","type":"transaction-response"}', PermanentError),
        (200, b"[" * 200_000, PermanentError),
    ],
)
def test_answers_are_sorted_into_final_and_passing(answers, status, body, error):
    url, given = answers
    Endpoint.objects.create(name="x", transport="fhir", address=url)
    given.append((status, body))
    delivery = Delivery(endpoint="x", transport="fhir", subject="s", sequence=1, idempotency_key="k")
    with pytest.raises(error) as caught:
        send_fhir(delivery, build_transaction(facts()))
    assert type(caught.value) is error
    assert "Beispiel" not in str(caught.value)
    assert caught.value.code, "a final answer of the peer has a code"
    if status == 503:
        assert caught.value.retry_after == 7
    if status == 400:
        assert "invalid" in str(caught.value)


@pytest.mark.django_db
def test_retry_after_may_be_a_date(answers):
    url, given = answers
    endpoint = Endpoint.objects.create(name="x", transport="fhir", address=url)
    for text, least, most in (
        (format_datetime(now() + timedelta(hours=2), usegmt=True), 7100, 7201),
        (format_datetime(now() - timedelta(hours=2), usegmt=True), 0, 0),
        ("90", 90, 90),
    ):
        given.append((503, text.encode()))
        with pytest.raises(EndpointError) as caught:
            send_fhir(Delivery(endpoint=endpoint.name, transport="fhir"), build_transaction(facts()))
        assert caught.value.retry_after is not None
        assert least <= caught.value.retry_after <= most
    given.append((503, b"soon"))
    with pytest.raises(EndpointError) as caught:
        send_fhir(Delivery(endpoint=endpoint.name, transport="fhir"), build_transaction(facts()))
    assert caught.value.retry_after is None


@pytest.mark.django_db
def test_one_entry_refused_is_final_and_names_it(answers):
    url, given = answers
    Endpoint.objects.create(name="x", transport="fhir", address=url)
    payload = build_transaction(facts())
    entries = [{"response": {"status": "201 Created"}} for _ in json.loads(payload)["entry"]]
    entries[2] = {"response": {"status": "422 Unprocessable Entity"}}
    body = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
    given.append((200, json.dumps(body).encode()))
    with pytest.raises(PermanentError, match=r"entry 3 of .*: 422") as caught:
        send_fhir(Delivery(endpoint="x", transport="fhir"), payload)
    assert caught.value.code == "422"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("codes", "outcome"),
    [(["CA"], "CA"), (["CA", "AA"], "AA"), (["CA", "AR"], PermanentError), (["CA", "AE"], TransientError)],
)
def test_an_application_acknowledgement_after_the_accept_acknowledgement_counts(codes, outcome):
    payload = build_oru(facts(), Endpoint(name="x", transport="mllp", address="x:1"))
    wanted = read_header(payload).get(10)
    frames = b"".join(
        f"\x0bMSH|^~\\&|E|H|O|R|20260301||ACK|{number}|P|2.5.1\rMSA|{code}|{wanted}\r\x1c\r".encode()
        for number, code in enumerate(codes)
    )
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                data = b""
                while not data.endswith(b"\x1c\r"):
                    data += connection.recv(1 << 16)
                connection.sendall(frames)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        Endpoint.objects.create(name="x", transport="mllp", address=f"127.0.0.1:{server.getsockname()[1]}")
        delivery = Delivery(endpoint="x", transport="mllp")
        if isinstance(outcome, str):
            assert send_mllp(delivery, payload).response_code == outcome
        else:
            with pytest.raises(outcome) as caught:
                send_mllp(delivery, payload)
            assert caught.value.code == codes[-1]
        thread.join(10)


@pytest.mark.django_db
def test_nobody_there_is_the_endpoints_fault():
    Endpoint.objects.create(name="x", transport="mllp", address="127.0.0.1:1", capabilities={"timeout_s": 2})
    Endpoint.objects.create(
        name="y", transport="fhir", address="http://127.0.0.1:1/fhir", capabilities={"timeout_s": 2}
    )
    for name, send in (("x", send_mllp), ("y", send_fhir)):
        delivery = Delivery(endpoint=name, transport=name, subject="s", sequence=1, idempotency_key="k")
        payload = build_oru(facts(), Endpoint.objects.get(name="x")) if name == "x" else build_transaction(facts())
        with pytest.raises(EndpointError) as caught:
            send(delivery, payload)
        assert (caught.value.code, caught.value.passing) == ("connection", True)
