"""What an order came with goes back: visit, account, provider, place, diagnosis; and who signed, by their number."""

from __future__ import annotations

import json

import pytest

from clinical.identity import Identifier, IdentityData, OrderIdentity
from clinical.models.staff import check_npi
from fhir_api.hl7v2.er7 import parse
from fhir_api.hl7v2.oru import build_oru
from fhir_api.models import Endpoint
from fhir_api.r4.resources.bundle import build_transaction
from tests.factories.outgoing_reports import facts

ECHO = {
    "PID-3": "MRN-1^^^DEMOHOSP&1.2.3&ISO^MR",
    "PID-18": "ACC9^^^DEMOHOSP^AN",
    "PV1-2": "O",
    "PV1-8": "REF1^Ref^Rolf",
    "PV1-19": "V4711^^^DEMOHOSP^VN",
    "ORC-2": "P1^EMR",
    "ORC-12": "1234567893^Muster^Eva^^^^^^NPI&2.16.840.1.113883.4.6&ISO",
    "ORC-21": "Neurology^L^7",
    "DG1-3": "C71.1^Frontal lobe^I10",
}


def oru(**change):
    endpoint = Endpoint(name="emr", transport="mllp", address="127.0.0.1:1", capabilities={})
    data = build_oru(facts(2, "final", **change), endpoint)
    return parse(data)


def order(**echo: str) -> OrderIdentity:
    return OrderIdentity(placer_number="P1", placer_authority="EMR", accession="ACC-1", echo={**ECHO, **echo})


def test_everything_the_order_came_with_is_returned() -> None:
    message = oru(order=order())
    pid, pv1, orc, obr = (message.first(name) for name in ("PID", "PV1", "ORC", "OBR"))
    assert pid.field(18) == ECHO["PID-18"]
    assert (pv1.field(2), pv1.field(8), pv1.field(19)) == ("O", ECHO["PV1-8"], ECHO["PV1-19"])
    assert (orc.field(12), orc.field(21)) == (ECHO["ORC-12"], ECHO["ORC-21"])
    assert obr.field(31) == ECHO["DG1-3"]


def test_a_field_that_cannot_be_returned_does_not_stop_the_report() -> None:
    message = oru(order=order(**{"PV1-19": "V" * 400, "ORC-21": "NEURO^Neurology^L"}))
    assert message.first("PV1").get(19) == ""
    assert message.first("ORC").get(21) == "", "XON.3 is a number by the tables"
    assert message.first("ORC").field(12) == ECHO["ORC-12"], "the others are returned"
    assert message.first("OBR").get(25) == "F"


def test_after_a_merge_the_numbers_in_force_are_sent() -> None:
    merged = IdentityData("Adler", identifiers=(Identifier("DEMOHOSP", "B"),))
    assert oru(order=order(), identity=merged).first("PID").field(3) == "B^^^DEMOHOSP^MR"
    assert oru(order=order()).first("PID").field(3) == ECHO["PID-3"], "as the order had it, to the letter"
    renumbered = IdentityData(
        "Adler", identifiers=(Identifier("DEMOHOSP", "MRN-1", use="old"), Identifier("DEMOHOSP", "N"))
    )
    assert oru(order=order(), identity=renumbered).first("PID").get(3) == "N"


def test_numbers_that_repeat_are_returned_as_repetitions() -> None:
    sent = "MRN-1^^^DEMOHOSP^MR~999999999^^^USSSA^SS"
    message = oru(order=order(**{"PID-3": sent, "DG1-3": "C71.1^Frontal lobe^I10~C71.9^Brain^I10"}))
    assert message.first("PID").field(3) == sent
    assert len(message.first("OBR").repetitions(31)) == 2
    two = IdentityData("Adler", identifiers=(Identifier("DEMOHOSP", "B"), Identifier("USSSA", "9", "SS")))
    assert oru(order=None, identity=two).first("PID").field(3) == "B^^^DEMOHOSP^MR~9^^^USSSA^SS"


def test_the_signer_is_named_by_their_national_number() -> None:
    assert oru(signer_npi="1234567893").first("OBR").field(32) == (
        "1234567893&Dr Eva Ray&&&&&&&NPI&2.16.840.1.113883.4.6&ISO"
    )
    assert oru(signer_employee_number="E77").first("OBR").field(32) == "E77&Dr Eva Ray"


def test_the_same_in_fhir() -> None:
    entries = json.loads(build_transaction(facts(2, "final", order=order(), signer_npi="1234567893")))["entry"]
    of = {entry["resource"]["resourceType"]: entry["resource"] for entry in entries}
    assert of["DiagnosticReport"]["encounter"]["identifier"]["value"] == "V4711"
    numbers = {one["system"]: one["value"] for one in of["Practitioner"]["identifier"]}
    assert numbers["http://hl7.org/fhir/sid/us-npi"] == "1234567893"


@pytest.mark.parametrize(
    ("number", "valid"), [("1234567893", True), ("1234567890", False), ("12345", False), ("x", False)]
)
def test_an_npi_has_a_check_digit(number: str, valid: bool) -> None:
    from django.core.exceptions import ValidationError

    try:
        check_npi(number)
    except ValidationError:
        assert not valid
    else:
        assert valid
