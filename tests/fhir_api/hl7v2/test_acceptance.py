"""Every HL7 v2 message of the data folder, none of them written here: what is answered, what it does, and why not.

The table in ``docs/hl7v2-acceptance.md`` is what this test sees; ``ONCOFLOW_WRITE_DOCS=1`` writes it anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings
from django.db import transaction

from clinical.models import AssigningAuthority, IdentityConflict, Order, Patient, PatientMerge
from fhir_api.hl7v2.er7 import parse
from fhir_api.hl7v2.intake import receive
from fhir_api.models import Hl7Message, Peer
from oncoflow_site.foundation.jobs import run_pending

pytestmark = pytest.mark.django_db

TABLE = Path(settings.BASE_DIR) / "docs" / "hl7v2-acceptance.md"
REGISTERS = {"A01", "A04", "A05", "A08", "A28", "A31"}
HEAD = """# HL7 v2: what becomes of real messages

Every message of the public collections that the tests read (samples of dcm4che-arc and of Microsoft's FHIR converter), sent by
one peer to an empty installation that knows their assigning authorities (`ADT1`, `BCBS`, `GOOD HEALTH HOSPITAL`, `test1`) and
whose own authority stands where a number names none. `tests/fhir_api/test_acceptance.py` makes this table and fails when it is
no longer true.

| Message | Type | Answer | State | Effect, or why there is none |
|---|---|---|---|---|
"""


def folder() -> Path:
    return Path(os.environ.get("ONCOFLOW_TEST_DATA", "")) / "hl7"


@dataclass(frozen=True)
class Outcome:
    name: str
    type: str
    answer: str
    state: str
    effect: str

    def row(self) -> str:
        return f"| {self.name} | {self.type} | {self.answer} | {self.state} | {self.effect} |"


def outcome(path: Path) -> Outcome:
    """Send one message to an empty installation and see what has changed."""
    data = path.read_bytes()
    installation = transaction.atomic()
    installation._from_testcase = True  # as Django marks a test's own: it is no transaction of the code under test
    with installation:
        answer = receive(data, "127.0.0.1")
        run_pending("default")
        row = Hl7Message.objects.get()
        effects = [
            f"{model.objects.count()} {name}{'s' if model.objects.count() != 1 else ''}"
            for model, name in (
                (Patient, "patient"),
                (Order, "order"),
                (PatientMerge, "merge"),
                (IdentityConflict, "conflict"),
            )
            if model.objects.exists()
        ]
        why = row.error
        if answer and row.state == "refused":
            why = "; ".join(
                f"{err.get(3)} {err.get(2, 1)}-{err.get(2, 3)}: {err.get(8)}" for err in parse(answer).all("ERR")
            )
        found = Outcome(
            name=path.relative_to(folder()).as_posix(),
            type=row.message_type,
            answer=row.ack_code if answer else f"none wanted ({row.ack_code})",
            state=row.state,
            effect=" ".join(filter(None, (", ".join(effects), why))) or "nothing",
        )
        transaction.set_rollback(True)
    return found


@pytest.mark.skipif(not folder().is_dir(), reason="ONCOFLOW_TEST_DATA has no hl7 folder")
def test_every_message_gets_a_true_answer_and_is_kept() -> None:
    Peer.objects.create(
        name="anybody", sending_application="*", sending_facility="*", any_address=True, default_authority="DEMOHOSP"
    )
    for name in ("ADT1", "BCBS", "GOOD HEALTH HOSPITAL", "test1"):
        AssigningAuthority.objects.create(name=name)
    paths = sorted(one for one in folder().rglob("*") if one.is_file() and one.suffix in (".hl7", ".txt", ".er7"))
    assert len(paths) > 50
    outcomes = [outcome(path) for path in paths]
    for one in outcomes:
        code, _, event = one.type.partition("^")
        assert one.answer.removeprefix("none wanted (").removesuffix(")") in ("AA", "AR", "CA", "CR"), one
        assert "internal" not in one.effect
        if code == "ADT" and event in REGISTERS:
            assert one.effect == "1 patient", one
        elif one.type in ("OMI^O23", "ORM^O01", "OMG^O19"):
            assert "order" in one.effect or one.state in ("failed", "refused"), one
        elif event in ("A40", "A34", "A18"):
            assert "1 merge" in one.effect or one.state == "refused", one
    text = HEAD + "\n".join(one.row() for one in outcomes) + "\n"
    if os.environ.get("ONCOFLOW_WRITE_DOCS"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text
