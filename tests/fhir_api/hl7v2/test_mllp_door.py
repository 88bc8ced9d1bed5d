"""The MLLP door over real sockets: what is acknowledged is durable, what is refused says why, nothing is lost."""

from __future__ import annotations

import hashlib

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from audit.models import AuditRow
from clinical import services as clinical
from clinical.models import Order, Patient
from fhir_api.hl7v2.er7 import parse
from fhir_api.models import Hl7Message
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.jobs import run_pending
from oncoflow_site.foundation.models import Job
from tests.factories.hl7_messages import adt, conditions, msa, omi

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("hl7_peer")]


def test_acknowledged_message_is_durable_encrypted_and_strictly_valid(wire):
    message = adt()
    answer = wire().ask(message)
    assert msa(answer) == ("AA", "C1")
    header = parse(answer).msh
    assert (header.get(3), header.get(4), header.get(5), header.get(6)) == ("ONCOFLOW", "RAD", "EMR", "HOSP")
    assert header.field(9) == "ACK^A04^ACK"
    assert header.get(18) == "UNICODE UTF-8"
    parsed = parse_message(answer.decode(), validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()
    row = Hl7Message.objects.get()
    assert row.sha256 == hashlib.sha256(message).hexdigest()
    assert bytes(row.ack) == answer
    assert objects.get(row.raw) == message
    assert row.state == "stored"
    assert Job.objects.filter(kind="fhir_api.process_hl7", kwargs__message_id=str(row.id)).count() == 1
    assert AuditRow.objects.filter(event="hl7.receive", actor_id="emr", resource=f"message:{row.id}").count() == 1


def test_replay_gets_the_same_answer_and_does_nothing_twice(wire):
    one = wire()
    first, second = one.ask(adt()), one.ask(adt())
    third = wire().ask(adt())
    assert first == second == third
    assert Hl7Message.objects.count() == 1
    assert Job.objects.filter(kind="fhir_api.process_hl7").count() == 1


def test_same_control_id_with_other_content_is_a_new_message(wire):
    one = wire()
    one.ask(adt())
    assert msa(one.ask(adt(family="Anders"))) == ("AA", "C1")
    assert Hl7Message.objects.count() == 2


def test_pipelined_frames_are_answered_in_order(wire):
    one = wire()
    one.send(b"".join(b"\x0b" + adt(f"N{i}", mrn=f"M{i}") + b"\x1c\r" for i in range(5)))
    assert [msa(one.answer())[1] for _ in range(5)] == [f"N{i}" for i in range(5)]


def test_stranger_is_refused_and_nothing_kept(wire):
    answer = wire().ask(adt().replace(b"|EMR|HOSP|", b"|EVIL|HOSP|", 1))
    assert msa(answer) == ("AR", "C1")
    assert conditions(answer) == ["204"]
    assert not Hl7Message.objects.exists()
    assert AuditRow.objects.filter(event="hl7.refuse", outcome=4).count() == 1


def test_peer_bound_to_an_address_is_refused_from_another(wire, hl7_peer):
    hl7_peer.remote_addr = "192.0.2.7"
    hl7_peer.save()
    assert msa(wire().ask(adt()))[0] == "AR"


def test_junk_before_the_frame_and_cut_off_frames_are_passed_over(wire):
    one = wire()
    one.send(b"GET / HTTP/1.1\r\n\r\n" + b"\x00" * 1000)
    one.send(b"\x0b" + adt("CUT")[:60])  # its sender died here
    assert msa(one.ask(adt("WHOLE"))) == ("AA", "WHOLE")
    assert list(Hl7Message.objects.values_list("control_id", flat=True)) == ["WHOLE"]


def test_frame_cut_by_the_end_of_the_connection_leaves_nothing(wire):
    one = wire()
    one.send(b"\x0b" + adt())
    one.socket.shutdown(1)
    assert one.answer() == b""
    assert not Hl7Message.objects.exists()


def test_frame_split_at_every_byte_of_its_end(wire):
    one = wire()
    framed = b"\x0b" + adt() + b"\x1c\r"
    for cut in (1, 2, 3):
        one.send(framed[:-cut])
        one.send(framed[-cut:])
        assert msa(one.answer())[0] == "AA"
    assert Hl7Message.objects.count() == 1


def test_frame_over_the_limit_is_refused_and_closed(wire):
    one = wire()
    try:
        one.send(b"\x0b" + adt() + b"NTE|1||" + b"x" * (9 << 20) + b"\x1c\r")
    except ConnectionError:
        pass
    answer = one.answer()
    assert msa(answer) == ("AR", "C1")
    assert conditions(answer) == ["104"]
    assert one.answer() == b""


def test_five_megabytes_are_taken_quickly(wire):
    body = adt("BIG") + b"OBX|1|ED|PDF||^AP^^Base64^" + b"QUJD" * (5 << 18) + b"||||||F\r"
    assert msa(wire().ask(body)) == ("AA", "BIG")
    assert Hl7Message.objects.get().size == len(body)


@pytest.mark.parametrize("charset", ["8859/1", "UNICODE UTF-8", ""])
def test_umlauts_arrive_in_every_character_set(wire, charset):
    wire().ask(adt(family="Müßig", charset=charset))
    run_pending("default")
    identity = clinical.reveal_identity(Patient.objects.get(), purpose="test")
    assert identity.family == "Müßig"
    assert identity.given == "Anna Maria"
    assert identity.birth_date is not None
    assert identity.birth_date.isoformat() == "1961-04-30"


def test_latin1_byte_under_declared_utf8_is_refused_not_guessed(wire):
    answer = wire().ask(adt(family="M\xfcller").replace("Müller".encode(), b"M\xfcller"))
    assert msa(answer)[0] == "AR"
    assert conditions(answer) == ["102"]
    assert Hl7Message.objects.get().state == "refused"


@pytest.mark.parametrize(
    ("change", "condition", "location"),
    [
        ((b"^^^DEMOHOSP^MR", b""), "101", "PID^1^3^1^4"),
        ((b"MRN1^^^DEMOHOSP^MR", b""), "101", "PID^1^3^1^1"),
        ((b"PID|1", b"ZID|1"), "101", "PID^1"),
        ((b"|C1|P|", b"||P|"), "101", "MSH^1^10"),
        ((b"|C1|P|", b"|C1|X|"), "202", "MSH^1^11"),
        ((b"|2.5.1|", b"|3.0|"), "203", "MSH^1^12"),
        ((b"ADT^A04", b"QRY^A19"), "200", "MSH^1^9"),
        ((b"UNICODE UTF-8", b"UNICODE UTF-16"), "103", "MSH^1^18"),
        ((b"PV1|1|O", b"not a segment"), "100", "PID^3"),
    ],
)
def test_faults_are_rejected_with_their_place_and_without_the_data(wire, change, condition, location):
    answer = wire().ask(adt().replace(*change))
    assert msa(answer)[0] == "AR"
    errors = list(parse(answer).all("ERR"))
    assert (errors[0].get(3), errors[0].field(2)) == (condition, location)
    assert b"Beispiel" not in answer
    row = Hl7Message.objects.get()
    assert row.state == "refused"
    assert "Beispiel" not in row.error
    assert not Job.objects.filter(kind="fhir_api.process_hl7").exists()


def test_old_versions_get_err_1(wire):
    answer = wire().ask(adt(version="2.3.1").replace(b"MRN1^^^DEMOHOSP^MR", b""))
    err = parse(answer).first("ERR")
    assert err is not None
    assert err.field(1).startswith("PID^1^3^101&")
    assert parse_message(answer.decode(), validation_level=VALIDATION_LEVEL.STRICT).validate()


@pytest.mark.parametrize(
    "hostile", [b"", b"MSH", b"MSH|", b"MSH|^~\\&", b"MSH|||||", b"\x00" * 50, b"PID|1\rMSH|^~\\&|EMR|HOSP"]
)
def test_unreadable_frames_get_an_answer(wire, hostile):
    answer = wire().ask(hostile)
    assert msa(answer)[0] == "AR"


def test_line_feeds_and_other_delimiters_are_read(wire):
    one = wire()
    assert msa(one.ask(adt("LF", sep="\n")))[0] == "AA"
    assert msa(one.ask(adt("CRLF", sep="\r\n")))[0] == "AA"
    message = adt("DELIM", mrn="M9").replace(b"|", b"#").replace(b"^~\\&", b"*!/%").replace(b"^", b"*")
    assert msa(one.ask(message)) == ("AA", "DELIM")
    run_pending("default")
    assert clinical.find_patient("DEMOHOSP", "M9") is not None


@pytest.mark.parametrize(
    ("mode", "good", "bad"), [("|AL|NE", "CA", "CR"), ("|ER|AL", "", "CR"), ("|SU|NE", "CA", ""), ("|NE|NE", "", "")]
)
def test_enhanced_mode_accept_acknowledgement(wire, mode, good, bad):
    one = wire()
    fine = adt("E1").replace(b"|2.5.1||||||", b"|2.5.1||" + mode.encode() + b"|||")
    faulty = fine.replace(b"|E1|", b"|E2|").replace(b"MRN1^^^DEMOHOSP^MR", b"")
    one.send(b"\x0b" + fine + b"\x1c\r\x0b" + faulty + b"\x1c\r\x0b" + adt("LAST") + b"\x1c\r")
    got = []
    while (answer := msa(one.answer()))[1] != "LAST":
        got.append(answer)
    assert got == [pair for pair in ((good, "E1"), (bad, "E2")) if pair[0]]
    assert Hl7Message.objects.count() == 3


def test_an_acknowledgement_is_never_acknowledged(wire):
    one = wire()
    ack = adt("A1").replace(b"ADT^A04", b"ACK^A04") + b"MSA|AA|X\r"
    one.send(b"\x0b" + ack + b"\x1c\r")
    assert msa(one.ask(adt("AFTER")))[1] == "AFTER"
    assert Hl7Message.objects.get(control_id="A1").state == "ignored"


def test_unprocessed_families_are_kept_and_visible(wire):
    answer = wire().ask(adt("A38", event="A38"))
    assert msa(answer)[0] == "AA"
    assert Hl7Message.objects.get().state == "ignored"


def test_orders_become_orders_once_and_are_changed_and_cancelled(wire):
    one = wire()
    one.ask(omi("O1"))
    run_pending("default")
    order = Order.objects.get()
    assert order.patient.provisional
    assert (order.priority, order.procedure_code, order.procedure_text) == ("stat", "MRBRAIN", "MR Schädel")
    told = clinical.reveal_order(order, purpose="test")
    assert (told.accession, told.placer_number, told.placer_authority) == ("ACC1", "P1", "EMR")
    assert told.study_instance_uid == "1.2.840.99.1"
    assert told.reason == "Follow-up & staging"
    assert told.ordering_provider == "Muster, Eva"
    assert told.echo["OBR-2"] == "P1^EMR^1.2.9^ISO"
    assert told.echo["PID-3"] == "MRN1^^^DEMOHOSP&1.2.3&ISO^MR"
    one.ask(omi("O2"))  # the same order in another message
    one.ask(adt("A"))
    run_pending("default")
    assert Order.objects.count() == 1
    assert not Patient.objects.get().provisional
    one.ask(omi("O3", code="XO").replace(b"S^Stat", b"R^Routine"))
    run_pending("default")
    order.refresh_from_db()
    assert order.priority == "routine"
    one.ask(omi("O4", code="CA"))
    run_pending("default")
    order.refresh_from_db()
    assert order.status == "cancelled"
    assert set(Hl7Message.objects.values_list("state", flat=True)) == {"processed"}
    patient = Patient.objects.get()
    assert {row.raw.subject for row in Hl7Message.objects.select_related("raw")} == {patient.key_subject}


def test_messages_of_one_patient_are_processed_in_order_of_arrival(wire):
    one = wire()
    one.ask(omi("O1"))
    one.ask(omi("O2", code="CA"))
    # The job of the later message comes first.
    later = Job.objects.get(kwargs__message_id=str(Hl7Message.objects.get(control_id="O2").id))
    Job.objects.filter(pk=later.pk).update(priority=9)
    run_pending("default")
    assert Order.objects.get().status == "cancelled"


def test_what_cannot_be_processed_is_failed_and_told(wire):
    one = wire()
    one.ask(omi("O1", code="CA"))
    run_pending("default")
    row = Hl7Message.objects.get()
    assert row.state == "failed"
    assert "not known" in row.error
    from clinical.models import Notice

    assert Notice.objects.filter(kind="message.failed").count() == 1


def test_old_order_message_with_zds(wire):
    lines = [
        "MSH|^~\\&|EMR|HOSP|ONCOFLOW|RAD|20260301101500||ORM^O01|R1|P|2.3.1",
        "PID|1||MRN7^^^DEMOHOSP||Alt^Otto||1950|M",
        "ORC|NW|P7^EMR|F7^RIS||||^^^20260302^^A",
        "OBR|1|P7^EMR|F7^RIS|MR1^MR^L||||||||||||||ACC7|RP7|SPS7||||MR",
        "ZDS|1.2.3.77^^Application^DICOM",
        "",
    ]
    assert msa(wire().ask("\r".join(lines).encode()))[0] == "AA"
    run_pending("default")
    order = Order.objects.get()
    told = clinical.reveal_order(order, purpose="test")
    assert (told.accession, told.filler_number, told.study_instance_uid) == ("ACC7", "F7", "1.2.3.77")
    assert order.priority == "asap"
    assert clinical.reveal_identity(order.patient, purpose="test").birth_date is None
