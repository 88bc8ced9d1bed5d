"""What real senders do to the standard, each once wrong here: preambles, line ends, delimiters, long names, modes, batches."""

from __future__ import annotations

import pytest

from clinical import services as clinical
from clinical.models import Order
from fhir_api.hl7v2.er7 import Er7Error, charset_codec, parse
from fhir_api.models import Hl7Message, Peer
from oncoflow_site.foundation.jobs import run_pending
from tests.factories.hl7_messages import adt, conditions, msa, omi

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("hl7_peer")]


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r\n", b" \n", b"\xef\xbb\xbf\r\n"])
def test_a_byte_order_mark_or_blanks_before_msh(wire, before):
    assert msa(wire().ask(before + adt()))[0] == "AA"


@pytest.mark.parametrize("ends", [b"\r\n", b"\n", b"mixed"])
def test_line_ends(wire, ends):
    message = adt()
    message = (
        message.replace(b"\r", b"\n", 1).replace(b"\r", b"\r\n") if ends == b"mixed" else message.replace(b"\r", ends)
    )
    assert msa(wire().ask(message))[0] == "AA"
    run_pending("default")
    assert clinical.find_patient("DEMOHOSP", "MRN1") is not None


@pytest.mark.parametrize("msh2", ["^~\\", "^~", "^~\\&#"])
def test_msh_2_of_two_to_five_characters(wire, msh2):
    assert msa(wire().ask(adt().replace(b"^~\\&", msh2.encode(), 1)))[0] == "AA"
    run_pending("default")
    assert clinical.find_patient("DEMOHOSP", "MRN1") is not None


def test_a_line_end_inside_a_text_is_no_segment():
    message = parse(b"MSH|^~\\&|A|B\rOBX|1|TX|||first\nsecond line\rOBX|2|TX|||x\r")
    assert [segment.name for segment in message.segments] == ["MSH", "OBX", "OBX"]
    assert message.segments[1].field(5) == "first\nsecond line"
    with pytest.raises(Er7Error):
        parse(b"MSH|^~\\&|A|B\rPID|1\rno segment\r")


def test_two_messages_in_a_frame_are_refused(wire):
    answer = wire().ask(adt("A") + adt("B"))
    assert (msa(answer)[0], conditions(answer)) == ("AR", ["100"])


@pytest.mark.parametrize("length", [19, 20, 21, 199])
def test_a_long_control_id_and_a_long_name_are_echoed_whole(wire, length):
    name = b"A VERY LONG NAME OF A SENDING APPLICATION^1.2.840.113619.6.999^ISO"
    Peer.objects.update(sending_application="*", sending_facility="*")
    control = "C" * length
    answer = wire().ask(adt(control).replace(b"|EMR|", b"|" + name + b"|", 1))
    assert msa(answer) == ("AA", control)
    assert parse(answer).msh.field(5) == name.decode()


@pytest.mark.parametrize(
    ("mode", "code"), [("|", "AA"), ("NE|AL", "AA"), ("|AL", "AA"), ("AL|NE", "CA"), ("AL|AL", "CA"), ("NE|NE", "")]
)
def test_which_acknowledgement_a_sender_waits_for(wire, mode, code):
    one = wire()
    accept, application = mode.split("|")
    message = adt("M", charset="").replace(b"|P|2.5.1||||||", f"|P|2.5.1|||{accept}|{application}||".encode(), 1)
    assert (parse(message).msh.get(15), parse(message).msh.get(16)) == (accept, application)
    one.send(b"\x0b" + message + b"\x1c\r")
    if code:
        assert msa(one.answer()) == (code, "M")
    else:
        assert msa(one.ask(adt("AFTER")))[1] == "AFTER"


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("ISO-8859-1", "iso8859-1"),
        ("ISO8859-1", "iso8859-1"),
        ("ISO8859/15", "iso8859-15"),
        ("8859-1", "iso8859-1"),
        ("8859/1", "iso8859-1"),
        ("WINDOWS-1252", "cp1252"),
        ("cp1252", "cp1252"),
        ("ANSI", "cp1252"),
        ("US-ASCII", ""),
        ("ISO IR14", "iso2022_jp"),
        ("UNICODE  UTF-8", "utf-8"),
    ],
)
def test_names_of_character_sets(name, codec):
    assert charset_codec(name) == codec


@pytest.mark.parametrize("declared", ["8859/1", "ISO-8859-1", "ASCII~8859/1"])
def test_a_name_in_the_declared_set(wire, declared):
    message = (
        adt(family="Müller", charset=declared).decode("utf-8" if declared != "8859/1" else "latin-1").encode("latin-1")
    )
    assert msa(wire().ask(message))[0] == "AA"
    run_pending("default")
    patient = clinical.find_patient("DEMOHOSP", "MRN1")
    assert clinical.reveal_identity(patient, purpose="test").family == "Müller"


def test_an_empty_processing_id_means_production(wire):
    assert msa(wire().ask(adt(processing="")))[0] == "AA"


def test_a_batch_is_answered_message_by_message(wire):
    batch = b"FHS|^~\\&\rBHS|^~\\&\r" + adt("1", mrn="M1") + adt("2", mrn="M2") + b"BTS|2\rFTS|1\r"
    answer = wire().ask(batch)
    assert answer.startswith(b"BHS|^~\\&|")
    assert [line for line in answer.decode().split("\r") if line.startswith("MSA")] == ["MSA|AA|1", "MSA|AA|2"]
    assert answer.endswith(b"BTS|2\r")
    run_pending("default")
    assert set(Hl7Message.objects.values_list("control_id", "state")) == {("1", "processed"), ("2", "processed")}


def order_states() -> dict[str, str]:
    return {clinical.reveal_order(one, purpose="test").placer_number: one.status for one in Order.objects.all()}


def test_every_obr_of_an_orc_is_an_order(wire):
    second = b"OBR|2|P2^EMR||MRSPINE^MR spine^L|||||||||||||||ACC2\r"
    assert msa(wire().ask(omi("O1") + second))[0] == "AA"
    run_pending("default")
    assert order_states() == {"P1": "requested", "P2": "requested"}
    twice = omi("O2", order="P9", accession="A9") + b"OBR|2|P9^EMR||MRSPINE^MR spine^L\r"
    assert msa(wire().ask(twice))[0] == "AA", "an IPC tells the two apart"


def test_an_order_by_its_accession_number_alone(wire):
    message = omi("O1").replace(b"ORC|NW|P1^EMR^1.2.9^ISO", b"ORC|NW|").replace(b"OBR|1|P1^EMR^1.2.9^ISO", b"OBR|1|")
    assert msa(wire().ask(message))[0] == "AA"
    run_pending("default")
    assert clinical.find_order_by_accession("ACC1") is not None


def test_replaced_orders_and_those_that_take_their_place(wire):
    one = wire()
    one.ask(omi("O1"))
    run_pending("default")
    new = omi("O2", order="P2", accession="ACC2", code="RO").decode().split("\r")
    pair = omi("O2", code="RP").decode().rstrip("\r") + "\r" + "\r".join(new[3:])
    assert msa(one.ask(pair.encode()))[0] == "AA"
    run_pending("default")
    assert order_states() == {"P1": "cancelled", "P2": "requested"}


def test_what_cannot_be_done_fails_visibly_and_a_new_order_with_a_known_number_is_the_order_as_it_is_now(wire):
    one = wire()
    one.ask(omi("O1"))
    one.ask(omi("O2").replace(b"S^Stat", b"R^Routine"))
    one.ask(omi("O3", code="HD"))
    run_pending("default")
    assert Order.objects.get().priority == "routine"
    one.ask(omi("O4", code="CA"))
    one.ask(omi("O5").replace(b"S^Stat", b"A^Asap"))
    run_pending("default")
    states = dict(Hl7Message.objects.values_list("control_id", "state"))
    assert states == {"O1": "processed", "O2": "processed", "O3": "failed", "O4": "processed", "O5": "failed"}
