"""The whole service from the complete study to the delivered report, its workers killed at every stage.

Everything is real but the experts, which read the tumour off the paint, and the receivers, which keep every repeat: the
workers and the supervisor are processes, the state is in SQLite or in PostgreSQL with Redis, death is SIGKILL. Two studies
of one patient: during the first one worker after the other dies at a place that is named, during the second somebody dies
every moment. Afterwards there is exactly one of everything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.durability.receivers import Receivers
from tests.durability.site import ROOT, Process, Site
from tests.factories.painted_files import SLICES
from tests.peers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# queue of the worker, failpoint it dies at, kind of the job it works on then; in the order in which they come by
KILLS = [
    ("default", "jobs.after_claim", "imaging.complete_study"),
    ("default", "jobs.in_commit", "imaging.complete_study"),
    ("default", "jobs.before_wake", "imaging.complete_study"),
    ("default", "objects.after_write:20", "imaging.deidentify_study"),
    ("default", "imaging.deidentified_batch", "imaging.deidentify_study"),
    ("default", "imaging.deidentified_commit", "imaging.deidentify_study"),
    ("default", "imaging.match_commit", "imaging.match_study"),
    ("default", "imaging.prepare_normalised", "imaging.prepare_study"),
    ("default", "objects.after_write:3", "imaging.prepare_study"),
    ("default", "imaging.prepare_commit", "imaging.prepare_study"),
    ("default", "jobs.after_commit:2", "imaging.prepare_study"),
    ("default", "inference.convene_commit", "inference.convene_panel"),
    ("default", "jobs.before_wake:2", "inference.convene_panel"),
    ("gpu", "jobs.after_claim", "inference.run_expert"),
    ("gpu", "inference.expert_answered", "inference.run_expert"),
    ("gpu", "inference.expert_commit", "inference.run_expert"),
    ("gpu", "jobs.after_commit:2", "inference.run_expert"),
    ("gpu", "jobs.before_wake", "inference.run_expert"),
    ("gpu", "inference.concluded_computed", "inference.conclude_panel"),
    ("gpu", "objects.after_write:2", "inference.conclude_panel"),
    ("gpu", "inference.conclude_commit", "inference.conclude_panel"),
    ("gpu", "jobs.after_commit", "inference.conclude_panel"),
    ("default", "imaging.measure_computed", "imaging.measure_study"),
    ("default", "jobs.in_commit", "imaging.measure_study"),
    ("default", "imaging.compare_computed", "imaging.compare_study"),
    ("default", "jobs.in_commit", "imaging.compare_study"),
    ("default", "jobs.after_commit", "imaging.compare_study"),
    ("default", "objects.before_write", "reports.draft"),
    ("default", "objects.after_write", "reports.draft"),
    ("default", "jobs.before_done", "reports.draft"),
    ("default", "reports.before_release", "reports.release"),
    ("default", "objects.after_write:2", "reports.release"),
    ("default", "jobs.after_commit", "reports.release"),
    ("default", "objects.after_write", "fhir_api.deliver_report"),
    ("default", "jobs.after_commit", "fhir_api.deliver_report"),
    ("default", "jobs.before_done", "fhir_api.deliver_report"),
    ("delivery", "jobs.in_commit", "foundation.deliver"),
    ("delivery", "outbox.before_send", "foundation.deliver"),
    ("delivery", "outbox.after_send", "foundation.deliver"),
    ("delivery", "jobs.in_commit:2", "foundation.deliver"),
    ("delivery", "jobs.after_commit:2", "foundation.deliver"),
]
QUEUES = ("default", "gpu", "delivery")
RANDOM_KILLS = 11
# what there is of each study in the end
ONE = {
    "study": ["ready", "matched"],
    "instances": {"deidentified": 4 * SLICES},
    "volume_sets": 1,
    "volumes": ["FLAIR", "T1", "T1c", "T2"],
    "panels": [["concluded", "issue", ["Agreement is 1.00, lowest in ET."]]],
    "experts": [["one", "done", "voter"], ["two", "done", "voter"]],
    "segmentations": [["consensus", "panel"], ["expert", "one"], ["expert", "two"]],
    "published": 4 * SLICES + 1,
    "measurements": 1,
    "reports": 1,
    "versions": [[1, "preliminary", "seal"]],
    "seals": [True],
    "deliveries": [["emr-fhir", 1, "delivered"], ["emr-mllp", 1, "delivered"]],
    "events": {
        "study.complete": 1,
        "study.deidentified": 1,
        "volumes.ready": 1,
        "panel.concluded": 1,
        "study.measured": 1,
        "comparison.ready": 1,
        "report.drafted": 1,
        "report.issued": 1,
        "delivery.done": 2,
    },
    "jobs": {
        "imaging.complete_study done": 1,
        "imaging.deidentify_study done": 1,
        "imaging.match_study done": 1,
        "imaging.prepare_study done": 1,
        "imaging.publish_study done": 1,
        "imaging.publish_segmentations done": 1,
        "inference.convene_panel done": 1,
        "inference.run_expert done": 2,
        "inference.conclude_panel done": 1,
        "inference.evaluate_panel done": 1,
        # the reminder, due when the panel's time is up
        "inference.conclude_panel waiting": 1,
        "imaging.measure_study done": 1,
        "imaging.compare_study done": 1,
        "reports.draft done": 1,
        "reports.release done": 1,
        "fhir_api.deliver_report done": 1,
        "foundation.deliver done": 2,
    },
    "audit": {
        "study.receive": 1,
        "study.complete": 1,
        "study.deidentify": 1,
        "study.match": 1,
        "study.prepare": 1,
        "panel.convene": 1,
        "expert.finish": 2,
        "panel.conclude": 1,
        "panel.evaluate": 1,
        "study.measure": 1,
        "study.compare": 1,
        "segmentation.publish": 1,
        "report.draft": 1,
        "report.issue": 1,
        "report.deliver": 2,
    },
}
OBJECTS = {
    "dicom-original": 4 * SLICES,
    "dicom-deidentified": 4 * SLICES,
    "dicom-seg": 1,
    "brain-mask": 1,
    "volume": 4,
    "segmentation": 3,
    "probability": 3,
    "disagreement": 1,
    "report-content": 2,  # of the draft, and as it was issued
    "report-pdf": 1,
    "delivery": 2,
}


class Hospital(Site):
    """An installation with everything, its supervisor, and the two receivers of its reports."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.started = []
        self.commands: list[subprocess.Popen[bytes]] = []
        self.receivers = Receivers()
        with (folder / "log").open("ab") as log:
            self.helper = subprocess.Popen(
                [sys.executable, "-m", "tests.durability.pipeline_helper"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.tell("prepare", *self.receivers.addresses)
        self.supervisor = self.command("inference_supervisor")

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """Start ``manage.py`` with these words."""
        with (self.folder / "log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), *words],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.commands.append(started)
        return started

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for it."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not happen: {self.tell('unsettled')}\n{self.log()}"
            time.sleep(0.2)

    def close(self) -> None:
        for command in self.commands:
            command.kill()
            command.wait()
        self.receivers.close()
        super().close()


@pytest.fixture(
    params=["sqlite", pytest.param("postgres-redis", marks=[pytest.mark.peer("postgresql"), pytest.mark.peer("redis")])]
)
def hospital(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hospital]:
    ours = ("ONCOFLOW_", "DATABASE_", "REDIS_")
    (tmp_path / "data").mkdir()
    # Sockets lie in it, and the path of a socket has at most 107 characters.
    short = Path(tempfile.mkdtemp(prefix="oncoflow-"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "DJANGO_SETTINGS_MODULE": "tests.durability.pipeline_settings",
        "ONCOFLOW_DATA_DIR": str(tmp_path / "data"),
        "ONCOFLOW_SUPERVISOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "TMPDIR": str(short),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    if request.param == "postgres-redis":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres_url")
        environment["REDIS_URL"] = request.getfixturevalue("redis_url")
    one = Hospital(tmp_path, environment)
    yield one
    one.close()
    shutil.rmtree(short, ignore_errors=True)


def kill_by_name(hospital: Hospital) -> None:
    """One worker after the other, each the only one of the service, dies at its place."""
    hospital.tell("one_thread")
    for queue, failpoint, kind in KILLS:
        struck = []
        # A job killed before may be due again and come first; then that one is killed once more, and we try again.
        while kind not in struck and len(struck) < 4:
            ended = hospital.worker(queue, failpoint).wait(90)
            assert ended == -signal.SIGKILL, f"{failpoint} not passed: {hospital.tell('unsettled')}\n{hospital.log()}"
            struck.append(hospital.tell("bury", queue))
        assert kind in struck, f"{failpoint}: {struck}"


def kill_at_random(hospital: Hospital) -> None:
    """A worker for each queue, one of them killed every moment; once it is the supervisor with the experts.

    One of the first workers is the command itself, which takes longer to start. The last ones do what is left.
    """
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    hospital.tell("many_threads")
    command, *forked = dice.sample(QUEUES, len(QUEUES))
    workers: dict[str, Process | subprocess.Popen[bytes]] = {command: hospital.command("work", "--queue", command)}
    hospital.until(lambda: hospital.tell("alive", workers[command].pid), 120)
    workers |= {queue: hospital.worker(queue) for queue in forked}
    victims = [*QUEUES, *dice.choices(QUEUES, k=RANDOM_KILLS - len(QUEUES)), "supervisor"]
    dice.shuffle(victims)
    for victim in victims:
        time.sleep(dice.uniform(0.1, 2.0))
        if victim == "supervisor":
            hospital.supervisor.kill()
            hospital.supervisor.wait()
            hospital.supervisor = hospital.command("inference_supervisor")
            continue
        workers[victim].kill()
        assert workers[victim].wait() == -signal.SIGKILL, hospital.log()
        hospital.tell("bury", victim)
        workers[victim] = hospital.worker(victim)
    hospital.until(lambda: not hospital.tell("unsettled"), 180)
    hospital.stop(*[worker for worker in workers.values() if isinstance(worker, Process)])


def assert_arrived_once(hospital: Hospital, report: dict[str, Any]) -> int:
    """Each receiver got one version of the report, in one wording, with the sealed PDF. Returns how many transmissions."""
    bundles = [body for body in hospital.receivers.bundles if report["report_id"].encode() in body]
    assert len(set(bundles)) == 1
    resources = [entry["resource"] for entry in json.loads(bundles[0])["entry"]]
    kinds = Counter(one["resourceType"] for one in resources)
    assert kinds["DiagnosticReport"] == kinds["DocumentReference"] == kinds["Binary"] == kinds["Provenance"] == 1
    (form,) = [one for one in resources if one["resourceType"] == "Binary"]
    pdf = base64.b64decode(form["data"])
    carried = base64.b64encode(pdf)
    messages = [message for message in hospital.receivers.messages if carried in message]
    assert len(set(messages)) == 1
    assert hashlib.sha256(pdf).hexdigest() == report["pdf_sha256"]
    received = hospital.folder / "received.pdf"
    received.write_bytes(pdf)
    assert hospital.tell("pdf_is_valid", str(received))
    return len(bundles) + len(messages)


def control_ids(messages: list[bytes]) -> set[bytes]:
    """MSH-10 of each."""
    return {message.split(b"|")[9] for message in messages}


def test_exactly_one_of_everything(hospital: Hospital) -> None:
    first = hospital.tell("receive", 1)
    kill_by_name(hospital)
    second = hospital.tell("receive", 2)
    kill_at_random(hospital)
    found = {study: hospital.tell("look", study) for study in (first, second)}
    for study, prior in ((first, None), (second, first)):
        assert found[study]["facts"] == ONE
        assert found[study]["compared_with"] == [prior]
    transmissions = [assert_arrived_once(hospital, found[study]) for study in (first, second)]
    # The first report was sent again, twice: its sender died before it could write down that it had arrived.
    assert transmissions[0] >= 4
    assert sum(transmissions) == len(hospital.receivers.bundles) + len(hospital.receivers.messages)
    assert len(control_ids(hospital.receivers.messages)) == 2
    house = hospital.tell("house")
    assert house.pop("swept") == house.pop("orphans") >= 20, "those killed while they wrote objects left no bytes"
    assert house == {
        "left": [],
        "lost": [],
        "unreadable": 0,
        "failed": [],
        "objects": {kind: 2 * count for kind, count in OBJECTS.items()},
    }
    # Only supervisors keep something there, the sockets of their children.
    assert [
        one.name for one in Path(hospital.environment["TMPDIR"]).iterdir() if not one.name.startswith("pymp-")
    ] == []


def test_what_a_person_says_while_a_study_is_prepared_counts(hospital: Hospital, tmp_path: Path) -> None:
    """Two series are labelled anew while a worker prepares the study and another thread of it is free: no two
    preparations of the study run at once, and the volumes are those of the last word."""
    gates = tmp_path / "gates"
    gates.mkdir()
    study = hospital.tell("receive", 1)
    hospital.tell("many_threads")
    worker = hospital.worker("default", f"imaging.prepare_normalised@{gates}")
    hospital.until((gates / "1.reached").exists, 120)
    wanted = hospital.tell("swap", study, "T2", "FLAIR")
    (gates / "1").touch()
    hospital.until(lambda: hospital.tell("sources", study)["done"] > 0, 120)
    for number in (2, 3, 4):
        (gates / str(number)).touch()
    hospital.until(lambda: not hospital.tell("sources", study)["open"], 180)
    found = hospital.tell("sources", study)
    hospital.stop(worker)
    assert found["state"] == "ready"
    assert {name: found["series"][name] for name in wanted} == wanted
    assert set(found["series"]) == {"T1", "T1c", "T2", "FLAIR"}
    assert not found["overlap"]
