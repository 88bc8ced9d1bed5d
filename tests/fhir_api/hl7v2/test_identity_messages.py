"""Whose is it, by HL7 v2: contradictions, merges and their like, what a peer may say, what is kept and returned."""

from __future__ import annotations

import pytest
from django.test import override_settings

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier
from clinical.models import IdentityConflict, Notice, Order, Patient, PatientMerge, User
from clinical.patients.conflicts import decide_conflict
from clinical.patients.merging import approve_merge
from clinical.registry import record_with_number
from fhir_api.hl7v2.er7 import parse
from fhir_api.models import Hl7Message, Peer, UnlistedSender
from oncoflow_site.foundation.jobs import run_pending
from tests.factories.hl7_messages import Wire, conditions, msa, omi

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("hl7_peer")]

SHE = "Adler^Berta||19500307|F"
HE = "Kranich^Otto||19800102|M"


def message(
    event: str, control: str, pid3: str, who: str = SHE, *, mrg: str = "", at: str = "20261103120000", **more: str
) -> bytes:
    lines = [
        f"MSH|^~\\&|EMR|HOSP|ONCOFLOW|RAD|{at}||ADT^{event}|{control}|P|2.5.1||||||UNICODE UTF-8",
        f"EVN|{event}|{at}",
        f"PID|1||{pid3}||{who}{more.get('pid', '')}",
        *([f"MRG|{mrg}"] if mrg else []),
        "",
    ]
    return "\r".join(lines).encode()


def say(wire: Wire, *messages: bytes) -> list[str]:
    """Each message's answer; then everything is processed."""
    answers = [msa(wire.ask(one))[0] for one in messages]
    run_pending("default")
    return answers


def mr(value: str) -> str:
    return f"{value}^^^DEMOHOSP^MR"


def found(value: str) -> Patient | None:
    return clinical.find_patient("DEMOHOSP", value)


def states() -> dict[str, str]:
    return dict(Hl7Message.objects.values_list("control_id", "state"))


def test_a_shared_insurance_number_fuses_nobody(wire):
    one = wire()
    assert say(
        one,
        message("A04", "1", f"{mr('A1')}~999999999^^^USSSA^SS"),
        message("A04", "2", f"{mr('B1')}~999999999^^^USSSA^SS", HE),
    ) == ["AA", "AA"]
    assert Patient.objects.count() == 2
    assert clinical.reveal_identity(found("A1"), purpose="test").family == "Adler"
    assert clinical.reveal_identity(found("B1"), purpose="test").family == "Kranich"


@pytest.mark.parametrize("same", [True, False])
def test_a_contradiction_is_held_until_a_person_has_decided(wire, same):
    one = wire()
    say(one, message("A04", "1", mr("A1")))
    assert say(one, message("A04", "2", mr("A1"), HE)) == ["AA"], "the sender's queue moves on"
    assert states() == {"1": "processed", "2": "held"}
    assert clinical.reveal_identity(found("A1"), purpose="test").family == "Adler"
    conflict = IdentityConflict.objects.get()
    assert (conflict.contradicts, conflict.sender) == (["name", "birth_date", "sex"], "emr")
    assert Notice.objects.get().kind == "identity.conflict"
    registrar = User.objects.create_user("rita", role="registrar")
    decide_conflict(conflict, by=registrar, same=same, take_over=True, reason="asked the ward")
    run_pending("default")
    assert states()["2"] == ("processed" if same else "failed")
    family = clinical.reveal_identity(found("A1"), purpose="test").family
    assert family == ("Kranich" if same else "Adler")
    assert "Kranich" not in "".join(Hl7Message.objects.values_list("error", flat=True))


def test_an_order_for_a_contradicting_patient_is_held(wire):
    one = wire()
    say(one, message("A04", "1", mr("MRN1"), HE))
    say(one, omi("O1"))
    assert states()["O1"] == "held"
    assert not Order.objects.exists()


@pytest.mark.parametrize("event", ["A40", "A34", "A18"])
def test_a_merge_makes_both_numbers_find_the_survivor(wire, event):
    one = wire()
    say(one, omi("O1", mrn="A").replace(b"Beispiel^Anna||19610430", b"Adler^Berta||19500307"))
    say(one, message("A04", "1", mr("A")), message("A04", "2", mr("B")))
    survivor, prior = found("B"), found("A")
    assert survivor != prior
    assert say(one, message(event, "M", mr("B"), mrg=mr("A"))) == ["AA"]
    assert found("A") == found("B") == survivor
    assert Order.objects.get().patient == survivor
    # The survivor's own messages go on, with both numbers too; the order is cancelled under the prior one.
    say(one, message("A08", "3", mr("B"), "Adler-Horst^Berta||19500307|F"))
    say(one, message("A08", "4", f"{mr('A')}~{mr('B')}", "Adler-Horst^Berta||19500307|F"))
    cancel = omi("O2", mrn="A", code="CA").replace(b"Beispiel^Anna||19610430", b"Adler^Berta||19500307")
    say(one, cancel)
    assert set(states().values()) == {"processed"}
    assert Order.objects.get().status == "cancelled"
    assert clinical.reveal_identity(found("A"), purpose="test").family == "Adler-Horst"
    assert [row.value for row in clinical.reveal_identity(survivor, purpose="test").identifiers] == ["B"]
    assert AuditRow.objects.filter(event="patient.merge", actor_id="emr").count() == 1


def test_several_pairs_and_several_prior_numbers_in_one_message(wire):
    one = wire()
    say(one, *(message("A04", value, mr(value)) for value in "ABCDE"))
    pairs = (
        message("A40", "M", mr("B"), mrg=f"{mr('A')}~{mr('C')}") + f"PID|2||{mr('E')}||{SHE}\rMRG|{mr('D')}\r".encode()
    )
    assert say(one, pairs) == ["AA"]
    assert found("A") == found("B") == found("C")
    assert found("D") == found("E") != found("A")


def test_a_merge_of_numbers_that_nobody_knows_yet(wire):
    one = wire()
    assert say(one, message("A40", "M", mr("B"), mrg=mr("A"))) == ["AA"]
    survivor = found("B")
    assert found("A") == survivor
    assert not survivor.provisional
    say(one, message("A08", "2", mr("A")))
    assert states() == {"M": "processed", "2": "processed"}
    assert say(one, message("A40", "M2", mr("B"), mrg=mr("A"))) == ["AA"], "the same once more changes nothing"
    assert PatientMerge.objects.count() == 1


def test_a_merge_the_other_way_round_makes_the_named_one_survive(wire):
    one = wire()
    say(one, message("A04", "1", mr("A")), message("A04", "2", mr("B")))
    say(one, message("A40", "3", mr("B"), mrg=mr("A")))
    say(one, message("A40", "4", mr("A"), mrg=mr("B")))
    assert set(states().values()) == {"processed"}
    survivor = found("B")
    assert survivor == found("A") == record_with_number(Identifier("DEMOHOSP", "A"))


def test_pairs_of_two_authorities_are_refused(wire):
    answer = wire().ask(message("A40", "M", mr("B"), mrg="A^^^ELSEWHERE^MR"))
    assert msa(answer)[0] == "AR"
    assert conditions(answer) == ["204"]
    assert parse(answer).first("ERR").field(2) == "MRG^1^1"
    assert msa(wire().ask(message("A40", "N", mr("B"))))[0] == "AR"
    assert Hl7Message.objects.filter(state="refused").count() == 2


def test_a_merge_of_two_obviously_different_people_waits(wire):
    one = wire()
    say(one, message("A04", "1", mr("A"), HE), message("A04", "2", mr("B")))
    assert say(one, message("A40", "M", mr("B"), mrg=mr("A"))) == ["AA"]
    merge = PatientMerge.objects.get()
    assert (merge.state, merge.sender, merge.contradicts) == ("requested", "emr", ["name", "birth_date", "sex"])
    assert Hl7Message.objects.get(control_id="M").error == "the merge waits for a person"
    assert found("A") != found("B")
    approve_merge(merge, by=User.objects.create_user("rita", role="registrar"))
    assert found("A") == found("B")


@pytest.mark.parametrize(("policy", "state"), [("review", "requested"), ("always", "merged")])
def test_what_becomes_of_a_merge_is_the_peers_setting(wire, hl7_peer, policy, state):
    Peer.objects.update(merges=policy)
    one = wire()
    say(one, message("A04", "1", mr("A"), HE), message("A04", "2", mr("B")))
    say(one, message("A40", "M", mr("B"), mrg=mr("A")))
    assert PatientMerge.objects.get().state == state


def test_a_new_number_for_the_same_record(wire):
    one = wire()
    say(one, message("A04", "1", mr("A")))
    patient = found("A")
    assert say(one, message("A47", "2", mr("N"), mrg=mr("A"))) == ["AA"]
    assert found("N") == found("A") == patient
    identity = clinical.reveal_identity(patient, purpose="test")
    assert identity.identifier("DEMOHOSP") == "N"
    assert [(row.value, row.use) for row in identity.identifiers] == [("A", "old"), ("N", "usual")]
    say(one, message("A04", "3", mr("B")))
    say(one, message("A47", "4", mr("B"), mrg=mr("A")))
    assert found("A") == found("B") == found("N")


def test_the_late_message_of_the_morning_does_not_win(wire):
    one = wire()
    say(one, message("A04", "1", mr("A"), at="20261103070000"))
    say(one, message("A08", "2", mr("A"), "Adler-Horst^Berta||19500307|F", at="20261103120000"))
    say(one, message("A08", "3", mr("A"), "Adler^Berta||19500307|F", at="20261103080000"))
    assert set(states().values()) == {"processed"}
    assert clinical.reveal_identity(found("A"), purpose="test").family == "Adler-Horst"
    say(one, message("A08", "4", mr("A"), 'Adler-Horst^Berta||""|F', at="20261103130000"))
    assert clinical.reveal_identity(found("A"), purpose="test").birth_date is None


@pytest.mark.parametrize("event", ["A01", "A04", "A05", "A08", "A28", "A31"])
def test_registrations_register_and_confirm(wire, event):
    assert say(wire(), message(event, "1", mr("A"))) == ["AA"]
    assert not found("A").provisional


def test_a_peer_that_does_not_confirm(wire, hl7_peer):
    Peer.objects.update(confirms_identity=False)
    say(wire(), message("A04", "1", mr("A")))
    assert found("A").provisional


def test_a_number_without_authority_is_the_peers_own(wire, hl7_peer):
    one = wire()
    assert msa(one.ask(message("A04", "1", "12345^^^^MR")))[0] == "AR"
    Peer.objects.update(default_authority="DEMOHOSP", authority_names={"KIS": "DEMOHOSP"})
    assert say(one, message("A04", "2", "12345^^^^MR"), message("A08", "3", "12345^^^KIS^MR")) == ["AA", "AA"]
    assert states()["3"] == "processed"
    assert found("12345") is not None
    assert Patient.objects.count() == 1


def test_orders_only_for_whom_the_hospital_registered(wire, hl7_peer):
    Peer.objects.update(registers_by_order=False)
    one = wire()
    say(one, omi("O1"))
    row = Hl7Message.objects.get()
    assert (row.state, Patient.objects.count()) == ("failed", 0)
    assert "nobody has registered" in row.error


def test_a_haemogram_is_no_imaging_order(wire, hl7_peer):
    Peer.objects.update(order_modalities=["MR"], order_codes=["MR*"])
    one = wire()
    say(
        one,
        omi("O1"),
        omi("O2", order="P2", accession="ACC2").replace(b"MRBRAIN", b"CBC").replace(b"SPS1|MR", b"SPS1|LAB"),
    )
    assert states() == {"O1": "processed", "O2": "ignored"}
    assert Order.objects.count() == 1


@override_settings(ONCOFLOW_DEMO_MODE=False)
def test_outside_the_demo_nobody_is_known_by_two_words_alone(wire, hl7_peer):
    one = wire()
    assert msa(one.ask(message("A04", "1", mr("A"))))[0] == "AR"
    Peer.objects.update(remote_addr="127.0.0.1")
    assert msa(one.ask(message("A04", "2", mr("A"))))[0] == "AA"
    Peer.objects.update(certificate_sha256="ab" * 32)
    assert msa(one.ask(message("A04", "3", mr("A"))))[0] == "AR"
    Peer.objects.update(certificate_sha256="", remote_addr=None, any_address=True)
    assert msa(one.ask(message("A04", "4", mr("A"))))[0] == "AA"
    test = message("A04", "5", mr("A")).replace(b"|P|2.5.1", b"|T|2.5.1")
    assert conditions(one.ask(test)) == ["202"]
    Peer.objects.update(processing_ids="PT")
    assert msa(one.ask(test.replace(b"|5|", b"|6|")))[0] == "AA"


def test_an_asterisk_stands_for_any_text_and_an_exact_name_goes_before_it(wire, hl7_peer):
    Peer.objects.create(name="any", sending_application="LAB*", sending_facility="*", any_address=True)
    one = wire()
    assert msa(one.ask(message("A04", "1", mr("A")).replace(b"|EMR|HOSP|", b"|LAB-7|WARD[3]|", 1)))[0] == "AA"
    assert msa(one.ask(message("A04", "2", mr("A"))))[0] == "AA"
    assert list(Hl7Message.objects.order_by("control_id").values_list("peer__name", flat=True)) == ["any", "emr"]
    assert msa(one.ask(message("A04", "3", mr("A")).replace(b"|EMR|", b"|OTHER|", 1)))[0] == "AR"


def test_types_that_nothing_uses_are_kept_or_refused_as_the_peer_wants(wire, hl7_peer):
    one = wire()
    assert msa(one.ask(message("A60", "1", mr("A"))))[0] == "AA"
    Peer.objects.update(refuses_unused=True)
    answer = one.ask(message("A60", "2", mr("A")))
    assert (msa(answer)[0], conditions(answer)) == ("AR", ["200"])


def test_visit_account_provider_place_and_diagnosis_are_kept(wire):
    order = omi("O1").replace(b"PV1|1|O", b"PV1|1|O|MRI^1|||||REF1^Ref^Rolf|||||||||||V4711^^^DEMOHOSP^VN")
    order = order.replace(b"19610430|F", b"19610430|F||||||||||ACC9^^^DEMOHOSP^AN").replace(
        b"D1^Muster^Eva", b"1234567893^Muster^Eva^^^^^^NPI|||||||||NEURO^Neurology^L"
    )
    order = order.replace(b"IPC|", b"DG1|1||C71.1^Frontal lobe^I10\rIPC|")
    say(wire(), order)
    told = clinical.reveal_order(Order.objects.get(), purpose="test")
    assert {name: told.echo[name] for name in ("PV1-19", "PID-18", "ORC-12", "ORC-21", "DG1-3", "PV1-8")} == {
        "PV1-19": "V4711^^^DEMOHOSP^VN",
        "PID-18": "ACC9^^^DEMOHOSP^AN",
        "ORC-12": "1234567893^Muster^Eva^^^^^^NPI",
        "ORC-21": "NEURO^Neurology^L",
        "DG1-3": "C71.1^Frontal lobe^I10",
        "PV1-8": "REF1^Ref^Rolf",
    }


def test_hapi_sends_a_merge(hapi_hl7, mllp_port, tmp_path):
    """A sender not written here: HAPI HL7 v2 registers two records and merges them."""
    for number, one in enumerate(
        (message("A04", "1", mr("A")), message("A04", "2", mr("B")), message("A40", "3", mr("B"), mrg=mr("A")))
    ):
        (tmp_path / f"{number}.hl7").write_bytes(one)
    sent = hapi_hl7.run("send", "127.0.0.1", str(mllp_port), *map(str, sorted(tmp_path.glob("*.hl7"))))
    assert sent.returncode == 0, sent.stdout + sent.stderr  # all AA
    run_pending("default")
    assert found("A") == found("B") is not None
    assert set(states().values()) == {"processed"}
    assert hapi_hl7.errors((tmp_path / "2.hl7").read_bytes(), tmp_path) == [], "and HAPI finds the merge itself valid"


def test_a_stranger_is_counted_and_a_peer_can_be_made_of_it(wire, client):
    stranger = message("A04", "1", mr("A")).replace(b"|EMR|HOSP|", b"|NEW<b>|WARD|", 1)
    one = wire()
    assert [msa(one.ask(stranger))[0] for _ in range(2)] == ["AR", "AR"]
    row = UnlistedSender.objects.get()
    assert (row.sending_application, row.sending_facility, row.address, row.messages) == (
        "NEWb",
        "WARD",
        "127.0.0.1",
        2,
    )
    assert not Hl7Message.objects.exists()
    client.force_login(User.objects.create_user("ada", role="admin", is_staff=True, is_superuser=True))
    client.post(
        "/admin/fhir_api/unlistedsender/", {"action": "make_peer", "_selected_action": [str(row.pk)]}, follow=True
    )
    peer = Peer.objects.get(sending_facility="WARD")
    assert (peer.remote_addr, peer.active) == ("127.0.0.1", False)
    assert not UnlistedSender.objects.exists()
    assert AuditRow.objects.filter(event="peer.change", resource=f"peer:{peer.pk}").count() == 1
