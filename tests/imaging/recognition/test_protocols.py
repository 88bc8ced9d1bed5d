"""No series gets a wrong name, and a person's word is kept for the next study of that protocol and no other."""

from __future__ import annotations

import pytest
from django.urls import reverse

from audit.models import AuditRow
from clinical import services as clinical
from clinical.models import User
from imaging.archive.store_instance import store_instance
from imaging.dicom.acquisition import acquisition_parameters
from imaging.models import ProtocolRule, Series
from imaging.recognition.learned_protocols import protocol_of
from imaging.recognition.overrides import override_sequence
from imaging.recognition.rules import recognise
from tests.factories.dicom_files import as_file, dataset
from tests.factories.protocols import real, simulated

FOUR = {"T1", "T1c", "T2", "FLAIR"}
PHYSICS = ("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "ScanningSequence")


def wrong(found: str, truth: str) -> bool:
    return found in FOUR and found != truth


@pytest.mark.parametrize(
    ("without", "most_missed"),
    [((), 0), (("ScanningSequence",), 0), (("InversionTime",), 8), (PHYSICS, 0)],
    ids=["whole header", "no scanning sequence", "no inversion time", "no physics"],
)
def test_no_vendors_series_gets_a_wrong_name(without, most_missed):
    rows = [(name, truth, recognise(header)) for name, truth, header in simulated(without=without)]
    assert len(rows) > 100
    assert [(n, t, f.sequence, f.reason) for n, t, f in rows if wrong(f.sequence, t)] == []
    missed = [(n, t, f.sequence, f.reason) for n, t, f in rows if t in FOUR and f.sequence not in FOUR]
    assert len(missed) <= most_missed, missed


def test_without_a_description_a_scout_or_an_angiogram_is_not_taken_for_t1():
    rows = [(truth, recognise(h)) for name, truth, h in simulated(without=("SeriesDescription",))]
    # what is left are contrast series whose header does not name the agent, and says so in its confidence
    sure = [(t, f.sequence, f.reason) for t, f in rows if wrong(f.sequence, t) and f.confidence > 0.65]
    assert len(sure) <= 2, sure


def test_no_real_series_gets_a_wrong_name(test_data):
    rows = [(name, truth, recognise(header)) for name, truth, header in real(test_data / "dicom")]
    assert len(rows) >= 33
    assert [(n, t, f.sequence, f.reason) for n, t, f in rows if f.sequence != t] == []


STRANGE = {
    "SeriesDescription": "Hirn Serie 4 schnell",
    "EchoTime": 50,
    "RepetitionTime": 1500,
    "ContrastBolusAgent": None,
}


@pytest.fixture
def people(db):
    technician = User.objects.create_user("tina", password=None, role="technician")
    boss = User.objects.create_user("dora", password="x", role="admin")
    return technician, boss


def came(study: str, **changes) -> Series:
    stored = store_instance(
        as_file(dataset(study=study, sequence="T2", **{**STRANGE, **changes})), source="dicom", peer="X"
    )
    return Series.objects.get(study_id=stored.study_id)


def test_an_override_is_kept_for_the_next_study_of_that_protocol_only(people):
    technician, boss = people
    first = came("1.2.3.1")
    assert first.sequence == "unknown"
    clinical.assign(technician, first.study.patient, reason="scan", by=boss)
    override_sequence(first, "T2", by=technician)
    rule = ProtocolRule.objects.get()
    assert AuditRow.objects.get(event="protocol.keep").resource == f"protocol:{rule.pk}"
    assert "schnell" not in str(rule.protocol)
    assert "hirn serie" not in str(rule.protocol).lower()

    again = came("1.2.3.2", PatientID="OTHER-1", RepetitionTime=1510)
    assert again.sequence == "T2"
    assert again.sequence_reason.startswith(f"as said by a person on {rule.said_at:%Y-%m-%d} for this protocol")
    assert again.overridden_by is None
    rule.refresh_from_db()
    assert rule.used == 1
    for number, other in enumerate(
        [
            {"EchoTime": 60}, {"RepetitionTime": 2400, "EchoTime": 100}, {"FlipAngle": 90}, {"InversionTime": 2500},
            {"SeriesDescription": "Hirn Serie 5 schnell"}, {"Manufacturer": "Philips"}, {"MRAcquisitionType": "3D"},
            {"ContrastBolusAgent": "Gadovist"}, {"ImageType": ["DERIVED", "PRIMARY", "ADC"]}, {"MagneticFieldStrength": 1.5},
            {"ManufacturerModelName": "Another"}, {"EchoTime": None},
            {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        ]
    ):  # fmt: skip
        series = came(f"1.2.4.{number}", **other)
        assert "as said by a person" not in series.sequence_reason, other

    # another answer for the same protocol replaces the first
    override_sequence(first, "other", by=technician)
    assert ProtocolRule.objects.get().sequence == "other"
    assert AuditRow.objects.get(event="protocol.remove").detail["why"] == "replaced"
    assert came("1.2.5.1").sequence == "other"


def test_a_series_without_physics_keeps_no_rule(people):
    technician, boss = people
    series = came("1.2.3.1", EchoTime=None)
    assert protocol_of(acquisition_parameters(dataset(EchoTime=None))) is None
    clinical.assign(technician, series.study.patient, reason="scan", by=boss)
    override_sequence(series, "T2", by=technician)
    assert not ProtocolRule.objects.exists()


def test_a_rule_is_removed_in_the_administration_on_the_record(people, client):
    technician, boss = people
    first = came("1.2.3.1")
    clinical.assign(technician, first.study.patient, reason="scan", by=boss)
    override_sequence(first, "T2", by=technician)
    page = reverse("admin:imaging_protocolrule_changelist")
    technician.is_staff = True
    technician.save()
    client.force_login(technician)
    shown = client.get(page)
    assert shown.status_code == 200
    assert "te 50" in shown.content.decode()
    rule = ProtocolRule.objects.get()
    client.post(page, {"action": "forget", "_selected_action": [str(rule.pk)]})
    assert not ProtocolRule.objects.exists()
    assert AuditRow.objects.get(event="protocol.remove").actor_id == str(technician.pk)
    assert came("1.2.3.2").sequence == "unknown"
    reader = User.objects.create_user("rita", password=None, role="auditor", is_staff=True)
    client.force_login(reader)
    assert client.get(page).status_code == 403
