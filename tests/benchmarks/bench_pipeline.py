"""What the pipeline costs: parses of an instance, a correction with earlier studies, the demo's second study from order to report.

``instance_parses``: full walks or parses of an instance's bytes, of the original or of its copy, from arrival until its study
is published and its volumes are ready; ``instance_decryptions`` likewise. The file meta information alone does not count.
``correction_s``: a person corrects one voxel of the latest of six studies (four sequences of a brain at 1 mm, turned differently
at each date); seconds of the jobs until the comparison is stored. ``registrations_per_correction``: optimisations of a transform
(other dates, MNI152) during the second correction. The demo is played with its own processes, experts and listeners.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

COUNTED: Counter[str] = Counter()


def main() -> None:
    """Print what was counted and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--earlier", type=int, default=5, help="studies before the corrected one")
    parser.add_argument("--without-demo", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    with _installation():
        result |= _instances()
        print(json.dumps(result), flush=True)
        result |= _correction(arguments.earlier)
        print(json.dumps(result), flush=True)
    if not arguments.without_demo:
        result |= _demo()
    print(json.dumps(result))


@contextmanager
def _installation() -> Iterator[None]:
    """The embedded service in this process, with a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-bench-"))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "oncoflow_site.settings",
        "ONCOFLOW_DATA_DIR": str(folder),
        "ONCOFLOW_LOG_LEVEL": "ERROR",
        "ONCOFLOW_STUDY_QUIET_SECONDS": "0",
    }
    import django
    from django.core.management import call_command

    django.setup()
    try:
        with open(os.devnull, "w") as nowhere:
            call_command("init_keys", stdout=nowhere)
            call_command("migrate", verbosity=0)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*kinds: str) -> Counter[str]:
    """Run the due jobs whose kinds begin like this, until none is left; how many of each."""
    from oncoflow_site.foundation.clock import now
    from oncoflow_site.foundation.job_locks import runnable
    from oncoflow_site.foundation.jobs import run_job
    from oncoflow_site.foundation.models import JobState

    ran: Counter[str] = Counter()
    while True:
        due = runnable(now()).order_by("-priority", "created_at", "id")
        job = next((row for row in due if row.kind.startswith(kinds)), None)
        if job is None:
            return ran
        run_job(job.pk)
        job.refresh_from_db()
        if job.state != JobState.DONE:
            raise SystemExit(f"{job.kind} ended as {job.state}: {job.error}")
        ran[job.kind] += 1


# --- instances -------------------------------------------------------------------------------------------------------


def _counting() -> None:
    """Count whole walks, parses and decryptions, wherever they happen."""
    import pydicom.filereader as filereader

    from imaging.dicom.elements import ElementReader
    from oncoflow_site.foundation import objects

    read_partial, iter_chunks = filereader.read_partial, objects.iter_chunks

    def parsed(*args: Any, **kwargs: Any) -> Any:
        dataset = read_partial(*args, **kwargs)
        if len(dataset):  # nothing behind the file meta information: not counted
            COUNTED["parses"] += 1
        return dataset

    def walked(walk: Any) -> Any:
        def counted(self: Any, position: int, end: int, **kwargs: Any) -> Any:
            if kwargs.get("depth", 0) == 0 and end == len(self.data):
                COUNTED["parses"] += 1
            return walk(self, position, end, **kwargs)

        return counted

    def decrypted(item: Any, **kwargs: Any) -> Any:
        row = objects._row(item)
        if row.kind in ("dicom-original", "dicom-deidentified"):
            COUNTED["decryptions"] += 1
        return iter_chunks(row, **kwargs)

    filereader.read_partial = parsed
    for name in ("elements", "survey"):
        setattr(ElementReader, name, walked(getattr(ElementReader, name)))
    objects.iter_chunks = decrypted


def _instances() -> dict[str, Any]:
    """One simulated study through the door, de-identified, published, prepared."""
    _counting()
    from imaging.archive.store_instance import ReceiveCache, store_instance
    from imaging.models import Instance, InstanceState, PublishedInstance, Study, StudyState
    from oncoflow_site.demo.simulator.dicomwriter import write_study
    from oncoflow_site.demo.simulator.patient import PatientIdentity, SyntheticPatient

    who = PatientIdentity("Bench", "Ina", "BENCH-0", date(1970, 1, 1), "F", issuer="DEMOHOSP")
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-bench-"))
    try:
        paths = write_study(SyntheticPatient(31, "progression", identity=who, spacing=2).acquire(0), folder)
        files = [path.read_bytes() for path in paths]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    COUNTED.clear()
    began = time.perf_counter()
    cache = ReceiveCache()
    for data in files:
        stored = store_instance(data, source="ingest", peer="bench", cache=cache)
        if stored.status:
            raise SystemExit(f"an instance was refused: {stored}")
    received = time.perf_counter() - began
    ran = _run("imaging.")
    study = Study.objects.get()
    offered = PublishedInstance.objects.filter(instance__isnull=False).count()
    kept = Instance.objects.filter(state=InstanceState.DEIDENTIFIED).count()
    if study.state != StudyState.READY or offered != kept or kept != len(files):
        raise SystemExit(f"the study is {study.state}; {kept} of {len(files)} instances kept, {offered} offered")
    print(f"instances {len(files)}, received in {received:.1f} s; {dict(COUNTED)}; jobs {dict(ran)}", flush=True)
    return {
        "instances": len(files),
        "instance_parses": round(COUNTED["parses"] / len(files), 3),
        "instance_decryptions": round(COUNTED["decryptions"] / len(files), 3),
        "receive_to_ready_s": round(time.perf_counter() - began, 1),
    }


# --- a correction ----------------------------------------------------------------------------------------------------


def _correction(earlier: int) -> dict[str, Any]:
    """Six dates of one head, the last one's outline corrected twice."""
    from django.contrib.auth import get_user_model

    from imaging.geometry.grid import Grid
    from imaging.geometry.resample import resample
    from imaging.models import Comparison
    from imaging.segmentation.corrections import Correction, save_corrections
    from imaging.segmentation.label_maps import current_segmentation, load_labels
    from tests.factories import studies
    from tests.factories.phantoms import rigid

    _count_registrations()
    images, labels = _case()
    x, y, z = labels.shape[::-1]
    affine = np.array([[1.0, 0, 0, -x / 2], [0, 1.0, 0, -y / 2], [0, 0, 1.0, -z / 2], [0, 0, 0, 1]])
    grid = Grid(affine, (x, y, z))
    person = studies.patient("BENCH-1")
    rng = np.random.default_rng(3)
    first = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    rows = []
    for number in range(earlier + 1):
        pose = rigid(tuple(rng.uniform(-5, 5, 3)), tuple(rng.uniform(-4, 4, 3)))
        turned = {name: resample(image, grid, grid, pose) for name, image in images.items()}
        study, volumes = _ready(person, turned, grid, first + timedelta(days=60 * number))
        studies.segment(study, volumes, resample(labels, grid, grid, pose, nearest=True).astype(np.uint8))
        rows.append(study)
    began = time.perf_counter()
    for study in rows:
        _ask("imaging.measure", study)
        _run("imaging.measure", "imaging.compare")
    print(f"first comparisons of {len(rows)} dates: {time.perf_counter() - began:.1f} s, {dict(COUNTED)}", flush=True)
    last = rows[-1]
    reader = get_user_model().objects.create(username="bench")
    seconds, registrations = [], []
    for voxel in range(2):
        now_in_force = current_segmentation(last)
        assert now_in_force is not None
        place = np.argwhere(load_labels(now_in_force) == 3)[7 + voxel]
        change = Correction("ET", "remove", tuple(int(n) for n in place), np.ones((1, 1, 1), bool))  # type: ignore[arg-type]
        made = _corrected(save_corrections, last, now_in_force, change, reader)
        COUNTED.clear()
        began = time.perf_counter()
        ran = _run("imaging.measure", "imaging.compare")
        seconds.append(time.perf_counter() - began)
        registrations.append(COUNTED["registrations"])
        compared = Comparison.objects.filter(study=last, measurement__segmentation=made).count()
        print(f"correction {voxel + 1}: {seconds[-1]:.1f} s, {dict(COUNTED)}, jobs {dict(ran)}", flush=True)
        if compared != earlier:
            raise SystemExit(f"compared with {compared} of {earlier} earlier studies")
    return {
        "correction_s": round(max(seconds), 2),
        "registrations_first_correction": registrations[0],
        "registrations_per_correction": registrations[1],
    }


def _case() -> tuple[dict[str, Any], Any]:
    """Images and label map of a simulated brain with a tumour, (z, y, x), 1 mm."""
    from imaging.brats.sequences import PANEL_SEQUENCES
    from oncoflow_site.demo.simulator.dataset import plan_cases, simulate_case

    made = simulate_case(next(one for one in plan_cases(8, 0, seed=11, spacing=1.0) if one.tumour))
    turned = {name: made.images[i].transpose(2, 1, 0) for i, name in enumerate(PANEL_SEQUENCES)}
    images = {name: np.ascontiguousarray(image, np.float32) for name, image in turned.items()}
    return images, np.ascontiguousarray(made.labels.transpose(2, 1, 0), np.uint8)


def _ready(person: Any, images: dict[str, Any], grid: Any, when: datetime) -> tuple[Any, Any]:
    """A study that is ready with these volumes."""
    from imaging.geometry.nifti import write_nifti
    from imaging.models import StudyState, Volume, VolumeSet
    from oncoflow_site.foundation import objects
    from tests.factories import studies

    study = studies.study_row(person, performed_at=when, state=StudyState.READY)
    volume_set = VolumeSet.objects.create(study=study, parameters={"reference": "T1c"}, **grid.to_json())
    for name, image in images.items():
        stored = objects.put(write_nifti(image, grid), subject=person.key_subject, kind="volume")
        Volume.objects.create(volume_set=volume_set, sequence=name, object=stored, sha256=stored.sha256)
    return study, volume_set


def _ask(prefix: str, study: Any) -> None:
    from oncoflow_site.foundation.ids import new_id
    from oncoflow_site.foundation.jobs import enqueue, job_kinds

    kind = next(kind for kind in job_kinds() if kind.startswith(prefix))
    enqueue(kind, subject=study.subject, key=f"bench:{new_id()}", kwargs={"study_id": str(study.pk)})


def _corrected(save: Any, study: Any, parent: Any, change: Any, reader: Any) -> Any:
    return save(study, parent, [change], author=reader.username, reason="bench")


def _count_registrations() -> None:
    """Count each optimisation of a transform: SimpleITK's is the one that everything here uses."""
    import SimpleITK as sitk  # noqa: N813

    execute = sitk.ImageRegistrationMethod.Execute

    def counted(self: Any, *args: Any) -> Any:
        COUNTED["registrations"] += 1
        return execute(self, *args)

    sitk.ImageRegistrationMethod.Execute = counted


# --- the demo --------------------------------------------------------------------------------------------------------

_MOMENTS = """
import json
from imaging.models import Study
from reports.models import Report
study = Study.objects.exclude(order=None).select_related("order").order_by("performed_at")[1]
version = Report.objects.get(study=study).versions.exclude(issued_at=None).order_by("number").first()
moments = study.order.created_at, study.last_received_at, version.issued_at
print("MOMENTS", json.dumps([moment.isoformat() for moment in moments]))
"""


def _demo() -> dict[str, Any]:
    """Play the demo as far as its preliminary reports; moments of its second study."""
    from oncoflow_site.demo.display import Display
    from oncoflow_site.demo.play import Play
    from oncoflow_site.demo.stage import Stage, choose_ports

    os.environ.setdefault("OMP_NUM_THREADS", "2")
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-bench-"))
    stage = Stage(choose_ports()[0], folder)
    play = Play(stage, Display())
    try:
        play.run()
        said = stage.manage("shell", "-c", _MOMENTS)
        ordered, received, issued = map(datetime.fromisoformat, json.loads(said.split("MOMENTS ", 1)[1]))
    finally:
        play.close()
        stage.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "order_to_preliminary_s": round((issued - ordered).total_seconds(), 1),
        "last_image_to_preliminary_s": round((issued - received).total_seconds(), 1),
    }


if __name__ == "__main__":
    main()
