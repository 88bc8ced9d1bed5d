"""Studies in the database for the tests: NIfTI series of phantoms, volumes and label maps on a small grid."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.db import transaction
from numpy.typing import NDArray

from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import Patient
from imaging.geometry.grid import Grid
from imaging.geometry.nifti import write_nifti
from imaging.identifiers import SeriesIdentity, StudyIdentity, map_uid, seal, uid_index
from imaging.models import Segmentation, Series, Study, StudySource, StudyState, Volume, VolumeSet
from imaging.schemas.outline import FusedOutline, GateBand
from imaging.segmentation.label_maps import save_segmentation, write_labels
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.ids import new_uid
from oncoflow_site.foundation.job_locks import runnable
from oncoflow_site.foundation.jobs import enqueue, run_job
from oncoflow_site.foundation.models import Job
from tests.factories.phantoms import sphere
from tests.factories.running import run_in_line

DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
SMALL = Grid(np.array([[2.0, 0, 0, -70], [0, 2.0, 0, -80], [0, 0, 2.0, -50], [0, 0, 0, 1]]), (70, 80, 52))


def patient(mrn: str = "MRN-88") -> Patient:
    identity = IdentityData(
        family="Testfall", given="Ida", birth_date=None, sex="F", identifiers=(Identifier("DEMOHOSP", mrn),)
    )
    return clinical.register_patient(identity, source="command")


def study_row(person: Patient, *, performed_at: datetime = FIRST, **fields: Any) -> Study:
    uid = new_uid()
    values: dict[str, Any] = {
        "patient": person,
        "uid_index": uid_index(uid),
        "deidentified_uid": map_uid(uid),
        "ciphertext": seal(person.key_subject, StudyIdentity(uid), context="study"),
        "performed_at": performed_at,
        "source": StudySource.NIFTI,
        "state": StudyState.COMPLETE,
        # long quiet, so that nobody waits for it
        "last_received_at": now() - DAY,
    }
    return Study.objects.create(**(values | fields))


def nifti_study(
    person: Patient, images: dict[str, tuple[NDArray[Any], Grid]], *, performed_at: datetime = FIRST, **fields: Any
) -> Study:
    """A complete study with one NIfTI series a sequence."""
    study = study_row(person, performed_at=performed_at, **fields)
    add_nifti(study, images)
    return study


def add_nifti(study: Study, images: dict[str, tuple[NDArray[Any], Grid]]) -> None:
    """One more NIfTI series a sequence."""
    person = study.patient
    for number, (sequence, (array, grid)) in enumerate(images.items(), start=study.series.count() + 1):
        uid = new_uid()
        stored = objects.put(write_nifti(array, grid), subject=person.key_subject, kind="nifti")
        Series.objects.create(
            study=study,
            uid_index=uid_index(uid),
            deidentified_uid=map_uid(uid),
            number=number,
            sequence=sequence,
            sequence_confidence=1.0,
            ciphertext=seal(person.key_subject, SeriesIdentity(uid), context="series"),
            nifti=stored,
        )


def ready_study(
    person: Patient,
    image: NDArray[np.float32],
    grid: Grid = SMALL,
    *,
    performed_at: datetime = FIRST,
    sequences: tuple[str, ...] = ("T1", "T1c", "T2", "FLAIR"),
    **fields: Any,
) -> tuple[Study, VolumeSet]:
    """A study that is ready, every sequence showing ``image``."""
    study = study_row(person, performed_at=performed_at, **({"state": StudyState.READY} | fields))
    placed = grid.to_json()
    volume_set = VolumeSet.objects.create(study=study, parameters={"reference": "T1c"}, **placed)
    for sequence in sequences:
        stored = objects.put(write_nifti(image, grid), subject=person.key_subject, kind="volume")
        Volume.objects.create(volume_set=volume_set, sequence=sequence, object=stored, sha256=stored.sha256)
    return study, volume_set


def segment(
    study: Study,
    volume_set: VolumeSet,
    labels: NDArray[np.uint8],
    kind: str = "consensus",
    author: str = "panel",
    not_assessed: dict[str, str] | None = None,
    band: GateBand | None = "issue",
    probability: Any = None,
    **fields: Any,
) -> Segmentation:
    """An outline; a consensus is one that the gate judged with ``band``."""
    if kind == "consensus":
        fields.setdefault("model", FusedOutline(fusion="majority", experts=(), band=band))
    written = write_labels(study, volume_set, labels, not_assessed=not_assessed, probability=probability)
    with transaction.atomic():
        return save_segmentation(study, written, kind=kind, author=author, **fields)


def tumour(grid: Grid, *lesions: tuple[tuple[float, float, float], float, float, float]) -> NDArray[np.uint8]:
    """Label map of balls: (centre RAS mm, radius of NCR, of ET, of ED)."""
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for centre, core, rim, oedema in lesions:
        labels[sphere(grid, centre, oedema) & (labels == 0)] = 2
        labels[sphere(grid, centre, rim)] = 3
        labels[sphere(grid, centre, core)] = 1
    return labels


def brain_like(grid: Grid, seed: int = 0) -> NDArray[np.float32]:
    """Something with structure in the shape of an ellipsoid, exactly 0 outside."""
    rng = np.random.default_rng(7)
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij")
    world = grid.world(np.stack([x, y, z], axis=-1))
    inside = ((world / (60, 72, 46)) ** 2).sum(axis=-1) <= 1
    value = np.full(grid.shape_zyx, 100.0)
    for _ in range(40):
        centre = rng.uniform(-0.7, 0.7, 3) * (60, 72, 46)
        value += rng.choice([-45, 40, 80]) * (np.linalg.norm(world - centre, axis=-1) < rng.uniform(5, 14))
    noise = np.random.default_rng(seed).normal(0, 3, grid.shape_zyx)
    return np.where(inside, np.clip(value + noise, 5, None), 0).astype(np.float32)


def run(kind: str, study: Study) -> Job:
    """Run one job of the imaging room here and now; the finished row."""
    job = enqueue(kind, subject=study.subject, key=f"test:{uuid.uuid4()}", kwargs={"study_id": str(study.pk)})
    run_in_line(job)
    study.refresh_from_db()
    return job


def run_waiting(*rooms: str) -> int:
    """Run the due jobs of these rooms only, until none is left: what follows in other rooms is their tests' business."""
    count = 0
    while True:
        due = runnable(now()).order_by("-priority", "created_at", "id")
        row = next((one for one in due if one.kind.split(".")[0] in rooms), None)
        if row is None or count > 200:
            return count
        count += run_job(row.pk)
