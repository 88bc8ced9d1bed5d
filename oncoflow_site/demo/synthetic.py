"""The demo's scanner: simulated images of a visit as DICOM files, and the truth, which stays outside the service."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from oncoflow_site.demo.orders import AUTHORITY, Visit
from oncoflow_site.demo.simulator.dicomwriter import study_instance_uid, write_study
from oncoflow_site.demo.simulator.patient import PatientIdentity, SyntheticPatient


@dataclass(frozen=True)
class SimulatedStudy:
    """Files of one study, and where its truth was put.

    :param truth_path: label map (NIfTI, 1 mm) in the world frame of the T1c series.
    :param lesions_gone: how many lesions of earlier visits are there no more.
    """

    paths: list[Path]
    truth_path: Path
    lesions_gone: int


def simulate(visit: Visit, folder: Path) -> SimulatedStudy:
    """Scan the patient at ``visit`` and write everything below ``folder``. Deterministic."""
    who = visit.person
    identity = PatientIdentity(
        who.family, who.given, who.mrn, dt.datetime.strptime(who.birth_date, "%Y%m%d").date(), who.sex, AUTHORITY
    )
    first = visit.when - dt.timedelta(days=visit.days)
    patient = SyntheticPatient(visit.seed, visit.scenario, identity=identity, first_visit=first)
    study = patient.acquire(visit.index, difficulty=visit.difficulty, accession_number=visit.accession)
    if study_instance_uid(study) != visit.study_instance_uid:
        raise RuntimeError(f"The order of {visit.key} names another Study Instance UID than its images.")
    paths = write_study(study, folder / visit.key)
    truth_path = folder / f"{visit.key}-truth.nii.gz"
    study.save_truth(truth_path)
    before: set[int] = set()
    for earlier in range(visit.index):
        before |= {number for number, _ in patient.lesions(earlier)}
    now = {number for number, _ in patient.lesions(visit.index)}
    return SimulatedStudy(paths, truth_path, len(before - now))
