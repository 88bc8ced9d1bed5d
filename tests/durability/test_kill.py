"""Real workers, killed with SIGKILL at every boundary between two stages and at random times.

Afterwards nothing is lost and nothing happened twice: every job done, every effect there once, every delivery at its
peer in the order of its lane. The one thing that may double is a transmission whose answer nobody lived to write down;
the peer knows it by its key.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = """
import django, json
django.setup()
from collections import Counter
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.models import Delivery, Event, Job, StoredObject
from tests.durability.effects.models import Effect
print(json.dumps({
    "jobs": dict(Counter(f"{k} {s}" for k, s in Job.objects.values_list("kind", "state"))),
    "open": Job.objects.filter(state__in=["waiting", "running"]).count(),
    "effects": dict(Counter(f"{e.stage} {e.name}" for e in Effect.objects.all())),
    "made": Event.objects.filter(kind="effects.made").count(),
    "done": Event.objects.filter(kind="delivery.done").count(),
    "deliveries": dict(Counter(Delivery.objects.values_list("state", flat=True))),
    "unreadable": sum(objects.get(o).decode() == "" for o in StoredObject.objects.all()),
    "objects": StoredObject.objects.filter(kind="effect").count(),
}))
"""


@dataclass
class Site:
    """One installation in a folder of its own."""

    folder: Path
    environment: dict[str, str]

    @property
    def peer(self) -> Path:
        return self.folder / "peer.txt"

    def start(self, *arguments: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        environment = self.environment | {"ONCOFLOW_FAILPOINT": failpoint}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def worker(self, queue: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        return self.start("-m", "django", "work", "--queue", queue, failpoint=failpoint)

    def produce(self, lane: str, first: int, last: int, failpoint: str = "") -> int:
        return self.start("-m", "tests.durability.produce", lane, str(first), str(last), failpoint=failpoint).wait(60)

    def look(self) -> dict[str, object]:
        import json

        text = subprocess.run(
            [sys.executable, "-c", CHECK], cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True
        ).stdout
        return dict(json.loads(text))

    def settle(self, jobs: int, seconds: float = 60.0) -> dict[str, object]:
        """Wait until ``jobs`` items have gone all the way."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.look()
            if found["done"] == jobs and not found["open"]:
                return found
            if time.monotonic() > deadline:
                log = (self.folder / "log").read_text(errors="replace")[-3000:]
                pytest.fail(f"not settled: {found}\n{log}")
            time.sleep(0.3)


def stop(*workers: subprocess.Popen[bytes]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(15)
        except subprocess.TimeoutExpired:
            worker.kill()
            pytest.fail("a worker did not stop on SIGTERM")


@pytest.fixture(params=["sqlite", "postgres-redis"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ONCOFLOW_", "DATABASE_", "REDIS_"))
        },
        "DJANGO_SETTINGS_MODULE": "tests.durability.settings",
        "ONCOFLOW_DATA_DIR": str(tmp_path),
        "ONCOFLOW_TEST_PEER_FILE": str(tmp_path / "peer.txt"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    if request.param == "postgres-redis":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres_url")
        environment["REDIS_URL"] = request.getfixturevalue("redis_url")
    one = Site(tmp_path, environment)
    for command in (["migrate", "--run-syncdb", "-v0"], ["init_keys", "-v0"]):
        subprocess.run(
            [sys.executable, "-m", "django", *command], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL
        )
    yield one
    shutil.rmtree(tmp_path, ignore_errors=True)


def assert_whole(site: Site, found: dict[str, object], names: list[str]) -> None:
    count = len(names)
    assert found["effects"] == {f"{stage} {name}": 1 for stage in ("make", "follow") for name in names}
    assert found["made"] == count
    assert found["done"] == count
    assert found["deliveries"] == {"delivered": count}
    assert found["objects"] == count
    assert found["unreadable"] == 0
    jobs = found["jobs"]
    assert isinstance(jobs, dict)
    assert set(jobs) == {"effects.make done", "effects.follow done", "foundation.deliver done"}
    assert jobs["effects.make done"] == jobs["effects.follow done"] == count
    arrivals = [line.split() for line in site.peer.read_text().splitlines()]
    for lane in {name[0] for name in names}:
        sequence = [int(number) for subject, number, _, _ in arrivals if subject == f"lane:{lane}"]
        # Repeats of the very same transmission may follow each other; nothing is overtaken, nothing is missing.
        assert sequence == sorted(sequence)
        assert set(sequence) == set(range(1, 1 + sum(name[0] == lane for name in names)))
    keys = {key for _, _, key, _ in arrivals}
    assert keys == {f"deliver:{name}" for name in names}


BOUNDARIES = [
    ("default", "jobs.after_claim"),
    ("default", "jobs.in_commit"),
    ("default", "objects.before_write"),
    ("default", "objects.after_write"),
    ("default", "jobs.after_commit"),
    ("default", "jobs.before_done"),
    ("default", "jobs.after_done"),
    ("default", "jobs.before_wake"),
    ("delivery", "jobs.after_claim"),
    ("delivery", "jobs.in_commit:2"),
    ("delivery", "outbox.before_send"),
    ("delivery", "outbox.after_send"),
    ("delivery", "jobs.after_commit:2"),
    ("delivery", "jobs.before_done"),
]


def test_killed_at_every_boundary(site: Site) -> None:
    """One worker after the other dies at the next boundary; a sound pair then finishes what is left."""
    number = 0
    for queue, failpoint in BOUNDARIES:
        assert site.produce("a", number, number + 2) == 0
        number += 2
        others = [site.worker("default")] if queue == "delivery" else []
        victim = site.worker(queue, failpoint)
        try:
            assert victim.wait(30) == -signal.SIGKILL, f"{failpoint} was not passed"
        finally:
            victim.kill()
            stop(*others)
    workers = [site.worker("default"), site.worker("delivery")]
    try:
        found = site.settle(number)
    finally:
        stop(*workers)
    assert_whole(site, found, [f"a{n:03d}" for n in range(number)])


def test_a_producer_killed_between_commit_and_wake_up(site: Site) -> None:
    """The row is committed, nobody was told: the reaper finds it. The transaction that was cut off leaves nothing."""
    assert site.produce("a", 0, 5, failpoint="jobs.before_wake:3") == -signal.SIGKILL
    workers = [site.worker("default"), site.worker("delivery")]
    try:
        found = site.settle(3)
    finally:
        stop(*workers)
    assert_whole(site, found, ["a000", "a001", "a002"])


def test_killed_at_random_times(site: Site) -> None:
    """Two workers a queue, one of them killed every moment while three lanes are worked on."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    for lane in "abc":
        assert site.produce(lane, 0, 8) == 0
    names = [f"{lane}{n:03d}" for lane in "abc" for n in range(8)]
    workers = [site.worker("default"), site.worker("delivery")]
    try:
        for _ in range(8):
            # A worker needs most of a second to start: let it get somewhere before it dies.
            time.sleep(dice.uniform(0.5, 1.6))
            at = dice.randrange(len(workers))
            workers[at].kill()
            workers[at].wait()
            workers[at] = site.worker(("default", "delivery")[at])
        found = site.settle(len(names))
    finally:
        stop(*workers)
    assert_whole(site, found, names)


def test_a_hung_job_ends_its_worker_and_is_done_by_the_next(site: Site) -> None:
    """The heartbeat of a hanging job lives; only its progress deadline can end it."""
    enqueue = (
        "import django; django.setup()\nfrom oncoflow_site.foundation import jobs\n"
        "jobs.enqueue('effects.hang', subject='s', key='hang', kwargs={})"
    )
    assert site.start("-c", enqueue).wait(30) == 0
    worker = site.worker("default")
    assert worker.wait(30) == 75
    second = site.worker("default")
    try:
        deadline = time.monotonic() + 20
        while site.look()["jobs"] != {"effects.hang done": 1}:
            assert time.monotonic() < deadline
            time.sleep(0.3)
    finally:
        stop(second)


def test_a_stopping_worker_hands_its_job_back(site: Site) -> None:
    """SIGTERM during a long job: the worker ends in time, the attempt is not counted, another worker takes over."""
    enqueue = (
        "import django; django.setup()\nfrom oncoflow_site.foundation import jobs\n"
        "jobs.enqueue('effects.long', subject='s', key='long', kwargs={})"
    )
    assert site.start("-c", enqueue).wait(30) == 0
    worker = site.worker("default")
    deadline = time.monotonic() + 20
    while site.look()["jobs"] != {"effects.long running": 1}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started = time.monotonic()
    worker.terminate()
    assert worker.wait(20) == 0
    assert time.monotonic() - started < 11
    assert site.look()["jobs"] == {"effects.long waiting": 1}
    second = site.worker("default")
    try:
        while Counter(site.look()["jobs"]) != Counter({"effects.long done": 1}):  # type: ignore[arg-type]
            assert time.monotonic() - started < 60
            time.sleep(0.3)
    finally:
        stop(second)
