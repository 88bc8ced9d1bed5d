"""The messages and documents that the demo's EMR sends: two synthetic patients, three orders, four documents."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from oncoflow_site.demo.simulator.dicomwriter import study_instance_uid
from oncoflow_site.demo.simulator.scanner import Difficulty

AUTHORITY = "DEMOHOSP"


@dataclass(frozen=True)
class Person:
    """A made-up patient."""

    mrn: str
    family: str
    given: str
    birth_date: str  # YYYYMMDD
    sex: str


@dataclass(frozen=True)
class Visit:
    """One imaging order and the study that answers it."""

    key: str
    person: Person
    placer: str
    accession: str
    when: datetime
    reason: str
    difficulty: Difficulty
    seed: int
    scenario: str
    index: int  # which visit of the simulated patient
    days: int = 0  # since the first visit

    @property
    def study_instance_uid(self) -> str:
        """As the order gives it to the scanner (the simulator derives it from the same facts)."""
        facts = SimpleNamespace(**vars(self), visit=self.index, patient=SimpleNamespace(patient_id=self.person.mrn))
        return study_instance_uid(facts)  # type: ignore[arg-type]  # what it reads of a study is known before the scan


ANNA = Person("D1002341", "Beispiel", "Anna", "19640311", "F")
BERND = Person("D1007765", "Muster", "Bernd", "19711128", "M")

VISITS = (
    Visit(
        "anna-1",
        ANNA,
        "PL-58101",
        "ACC260720A",
        datetime(2026, 7, 20, 9, 15, tzinfo=UTC),
        "Glioblastoma, baseline after radiotherapy",
        "clean",
        *(2026, "follow-up", 0),
    ),
    Visit(
        "anna-2",
        ANNA,
        "PL-60417",
        "ACC261019A",
        datetime(2026, 10, 19, 9, 15, tzinfo=UTC),
        "Glioblastoma, follow-up under temozolomide",
        "clean",
        *(2026, "follow-up", 1, 91),
    ),
    Visit(
        "bernd-1",
        BERND,
        "PL-60533",
        "ACC261021B",
        datetime(2026, 10, 21, 14, 5, tzinfo=UTC),
        "Astrocytoma, restless patient, follow-up",
        "hard",
        *(77, "progression", 0),
    ),
)

NOTE_ANNA = """Neuro-oncology clinic, progress note
Patient: Anna Beispiel, born 11.03.1964, MRN D1002341

Diagnosis: Glioblastoma, IDH-wildtype, WHO grade 4, left hemisphere.
Stereotactic biopsy on 2026-04-22; no resection.
Radiotherapy 60 Gy in 30 fractions with concurrent temozolomide, completed on 2026-06-19.
Adjuvant temozolomide 150 mg/m2, cycle 3 completed on 2026-10-02.
Dexamethasone was reduced from 8 mg to 4 mg daily on 2026-09-14.
Karnofsky performance status 80; mild word-finding difficulty, unchanged since July.
Plan: MRI every three months, next visit after the October scan.
"""

PATHOLOGY_ANNA = """Department of Neuropathology, integrated report
Patient: Beispiel, Anna  DOB 1964-03-11

Specimen: stereotactic biopsy, received 2026-04-22.
Integrated diagnosis: Glioblastoma, IDH-wildtype, CNS WHO grade 4.
MGMT promoter: methylated.
TERT promoter mutation present; EGFR amplified.
Ki-67 labelling index about 30 %.
"""

NOTE_BERND = """Neuro-oncology clinic, progress note
Patient: Bernd Muster, born 28.11.1971, MRN D1007765

Diagnosis: Astrocytoma, IDH-mutant, WHO grade 3, right hemisphere.
Gross total resection was not attempted; biopsy on 2025-11-05.
Radiotherapy 59.4 Gy in 33 fractions, completed on 2026-02-27.
No steroids since March 2026.
Karnofsky performance status 90; no seizures since spring.
The patient finds it hard to lie still during imaging.
"""

PATHOLOGY_BERND = """Department of Neuropathology, integrated report
Patient: Muster, Bernd  DOB 1971-11-28

Integrated diagnosis: Astrocytoma, IDH-mutant, CNS WHO grade 3.
MGMT promoter: unmethylated.
ATRX expression lost; no 1p/19q codeletion.
"""

DOCUMENTS = (
    ("anna-note", ANNA, "11506-3", "Progress note", NOTE_ANNA, "2026-10-05T08:30:00Z"),
    ("anna-pathology", ANNA, "11526-1", "Pathology study", PATHOLOGY_ANNA, "2026-04-29T12:00:00Z"),
    ("bernd-note", BERND, "11506-3", "Progress note", NOTE_BERND, "2026-10-12T09:00:00Z"),
    ("bernd-pathology", BERND, "11526-1", "Pathology study", PATHOLOGY_BERND, "2025-11-14T12:00:00Z"),
)


def _segment(name: str, fields: dict[int, str]) -> str:
    """A segment from field numbers as the standard counts them."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields) + 1))])


def _header(message_type: str, control_id: str, when: datetime) -> str:
    # MSH-1 is the separator itself, so MSH-2 follows the name directly.
    fields = {2: "ONCOEMR", 3: AUTHORITY, 4: "ONCOFLOW", 5: AUTHORITY, 6: _time(when), 8: message_type, 9: control_id}
    return _segment("MSH", {1: "^~\\&", **fields, 10: "P", 11: "2.5.1", 17: "UNICODE UTF-8"})


def _time(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%S%z")


def _pid(person: Person) -> str:
    identifier = f"{person.mrn}^^^{AUTHORITY}^MR"
    return _segment(
        "PID", {1: "1", 3: identifier, 5: f"{person.family}^{person.given}", 7: person.birth_date, 8: person.sex}
    )


def adt_a04(person: Person, control_id: str, when: datetime) -> bytes:
    """ADT^A04, HL7 v2.5.1 section 3.3.4: register a patient."""
    lines = [
        _header("ADT^A04^ADT_A01", control_id, when),
        _segment("EVN", {1: "A04", 2: _time(when)}),
        _pid(person),
        _segment("PV1", {1: "1", 2: "O"}),
    ]
    return ("\r".join(lines) + "\r").encode("utf-8")


def omi_o23(visit: Visit, control_id: str) -> bytes:
    """OMI^O23, HL7 v2.5.1 section 4.4.12: an imaging order with its accession number and Study Instance UID in IPC."""
    procedure = "24587-8^MR Brain WO and W contrast IV^LN"
    provider = "7711^Roth^Katrin^^^Dr."
    lines = [
        _header("OMI^O23^OMI_O23", control_id, visit.when),
        _pid(visit.person),
        _segment("PV1", {1: "1", 2: "O"}),
        _segment("ORC", {1: "NW", 2: f"{visit.placer}^ONCOEMR", 9: _time(visit.when), 12: provider}),
        _segment("TQ1", {1: "1", 7: _time(visit.when), 9: "R"}),
        _segment(
            "OBR",
            {1: "1", 2: f"{visit.placer}^ONCOEMR", 4: procedure, 16: provider, 31: f"C71.9^{visit.reason}^I10"},
        ),
        _segment(
            "IPC",
            {
                1: f"{visit.accession}^ONCOEMR",
                2: f"RP-{visit.placer}^ONCOEMR",
                3: f"{visit.study_instance_uid}^ONCOEMR",
                4: f"SPS-{visit.placer}^ONCOEMR",
                5: "MR",
            },
        ),
    ]
    return ("\r".join(lines) + "\r").encode("utf-8")


def document_reference(
    key: str, person: Person, code: str, display: str, text: str, when: str, system: str
) -> dict[str, Any]:
    """A FHIR R4 DocumentReference that carries its text."""
    return {
        "resourceType": "DocumentReference",
        "masterIdentifier": {"system": "https://demo-hospital.example/fhir/documents", "value": key},
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": "http://loinc.org", "code": code, "display": display}]},
        "subject": {"identifier": {"system": f"{system}/{AUTHORITY}", "value": person.mrn}},
        "date": when,
        "content": [
            {
                "attachment": {
                    "contentType": "text/plain; charset=utf-8",
                    "data": base64.b64encode(text.encode("utf-8")).decode("ascii"),
                    "creation": when,
                }
            }
        ],
    }
