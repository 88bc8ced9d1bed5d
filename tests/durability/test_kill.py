"""Real workers, killed with SIGKILL at every boundary between two stages and at random times.

Afterwards nothing is lost and nothing happened twice: every job done, every effect there once, every delivery at its
peer in the order of its lane. The one thing that may double is a transmission whose answer nobody lived to write down;
the peer knows it by its key.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Site:
    """One installation in a folder of its own, and a process inside it that does what the test says."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.peer = folder / "peer.txt"
        with (folder / "log").open("ab") as log:
            self.helper = subprocess.Popen(
                [sys.executable, "-m", "tests.durability.helper"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.tell("prepare")

    def tell(self, command: str, *arguments: object) -> Any:
        assert self.helper.stdin is not None
        assert self.helper.stdout is not None
        self.helper.stdin.write(json.dumps([command, arguments]) + "\n")
        self.helper.stdin.flush()
        answer = self.helper.stdout.readline()
        assert answer, (self.folder / "log").read_text(errors="replace")[-3000:]
        return json.loads(answer)

    def look(self) -> dict[str, Any]:
        return dict(self.tell("look"))

    def start(self, *arguments: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        environment = self.environment | {"ONCOFLOW_FAILPOINT": failpoint}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def worker(self, queue: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        return self.start("-m", "django", "work", "--queue", queue, failpoint=failpoint)

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 90.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not condition(found := self.look()):
            if time.monotonic() > deadline:
                pytest.fail(f"it did not happen: {found}\n" + (self.folder / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.2)
        return found

    def settle(self, items: int) -> dict[str, Any]:
        """Wait until ``items`` have gone all the way."""
        return self.wait_for(lambda found: found["done"] == items and not found["open"])


def stop(*workers: subprocess.Popen[bytes]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(15)
        except subprocess.TimeoutExpired:
            worker.kill()
            pytest.fail("a worker did not stop on SIGTERM")


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(
    params=["sqlite", pytest.param("postgres-redis", marks=[pytest.mark.peer("postgresql"), pytest.mark.peer("redis")])]
)
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
    yield one
    one.helper.kill()
    one.helper.wait()
    shutil.rmtree(tmp_path, ignore_errors=True)


def assert_whole(site: Site, found: dict[str, Any], names: list[str]) -> None:
    count = len(names)
    assert found["effects"] == {f"{stage} {name}": 1 for stage in ("make", "follow") for name in names}
    assert found["made"] == count
    assert found["done"] == count
    assert found["deliveries"] == {"delivered": count}
    assert found["objects"] == count
    assert found["unreadable"] == 0
    jobs = found["jobs"]
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
    count = 2 * len(BOUNDARIES)
    site.tell("produce", "a", 0, count)
    others = []
    try:
        for queue, failpoint in BOUNDARIES:
            if queue == "delivery" and not others:
                others.append(site.worker("default"))
            victim = site.worker(queue, failpoint)
            try:
                assert victim.wait(60) == -signal.SIGKILL, f"{failpoint} was not passed"
            finally:
                victim.kill()
        others.append(site.worker("delivery"))
        found = site.settle(count)
    finally:
        stop(*others)
    assert_whole(site, found, [f"a{n:03d}" for n in range(count)])


def test_a_producer_killed_between_commit_and_wake_up(site: Site) -> None:
    """The row is committed, nobody was told: the reaper finds it. What was not committed is not there."""
    producer = site.start("-m", "tests.durability.helper", "a", "0", "5", failpoint="jobs.before_wake:3")
    assert producer.wait(60) == -signal.SIGKILL
    workers = [site.worker("default"), site.worker("delivery")]
    try:
        found = site.settle(3)
    finally:
        stop(*workers)
    assert_whole(site, found, ["a000", "a001", "a002"])


def test_killed_at_random_times(site: Site) -> None:
    """A worker for each queue, one of them killed every moment while three lanes are worked on."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    names = [f"{lane}{n:03d}" for lane in "abc" for n in range(30)]
    for lane in "abc":
        site.tell("produce", lane, 0, 30)
    workers = [site.worker("default"), site.worker("delivery")]
    try:
        for _ in range(8):
            # A worker takes a second or several to start: wait until there is something to interrupt.
            before = site.look()
            site.wait_for(lambda found, before=before: found != before)  # type: ignore[misc]
            time.sleep(dice.uniform(0.0, 0.5))
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
    site.tell("enqueue", "effects.hang")
    assert site.worker("default").wait(60) == 75
    second = site.worker("default")
    try:
        site.wait_for(lambda found: found["jobs"] == {"effects.hang done": 1})
    finally:
        stop(second)


def test_a_stopping_worker_hands_its_job_back(site: Site) -> None:
    """SIGTERM during a long job: the worker ends in time, the attempt is not counted, another worker takes over."""
    site.tell("enqueue", "effects.long")
    worker = site.worker("default")
    site.wait_for(lambda found: found["jobs"] == {"effects.long running": 1})
    started = time.monotonic()
    worker.terminate()
    assert worker.wait(30) == 0
    assert time.monotonic() - started < 15
    assert site.look()["jobs"] == {"effects.long waiting": 1}
    second = site.worker("default")
    try:
        site.wait_for(lambda found: found["jobs"] == {"effects.long done": 1})
    finally:
        stop(second)
