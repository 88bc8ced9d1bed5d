"""Real workers, killed with SIGKILL at every boundary between two stages and at random times.

Afterwards nothing is lost and nothing happened twice: every job done, every effect there once, every delivery at its
peer in the order of its lane. The one thing that may double is a transmission whose answer nobody lived to write down;
the peer knows it by its key.
"""

from __future__ import annotations

import contextlib
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


class Process:
    """A process that the helper forked."""

    def __init__(self, site: Site, pid: int) -> None:
        self.site, self.pid = site, pid
        self.status: int | None = None

    def wait(self, seconds: float = 120.0) -> int | None:
        if self.status is None:
            self.status = self.site.tell("wait", self.pid, seconds)
        return self.status

    def signal(self, number: int) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()


class Site:
    """One installation in a folder of its own, and a process inside it that does what the test says."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.peer = folder / "peer.txt"
        self.started: list[Process] = []
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
        assert answer, self.log()
        return json.loads(answer)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def look(self) -> dict[str, Any]:
        return dict(self.tell("look"))

    def start(self, kind: str, *arguments: object, failpoint: str = "") -> Process:
        process = Process(self, self.tell("start", kind, failpoint, *arguments))
        self.started.append(process)
        return process

    def worker(self, queue: str, failpoint: str = "") -> Process:
        return self.start("work", queue, failpoint=failpoint)

    def stop(self, *workers: Process) -> None:
        for worker in workers:
            # Just forked it has not said yet what SIGTERM means to it.
            deadline = time.monotonic() + 30
            while f":{worker.pid}:" not in (self.folder / "log").read_text(errors="replace"):
                assert time.monotonic() < deadline, "a worker did not start\n" + self.log()
                time.sleep(0.02)
        time.sleep(0.5)  # it says so just before it sets its handlers
        for worker in workers:
            worker.signal(signal.SIGTERM)
        for worker in workers:
            assert worker.wait() == 0, "a worker did not stop well on SIGTERM\n" + self.log()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 180.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not condition(found := self.look()):
            if time.monotonic() > deadline:
                pytest.fail(f"it did not happen: {found}\n{self.log()}")
            time.sleep(0.1)
        return found

    def settle(self, items: int) -> dict[str, Any]:
        """Wait until ``items`` have gone all the way."""
        return self.wait_for(lambda found: found["done"] == items and not found["open"])

    def close(self) -> None:
        for process in self.started:
            process.kill()
        self.helper.kill()
        self.helper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(
    params=["sqlite", pytest.param("postgres-redis", marks=[pytest.mark.peer("postgresql"), pytest.mark.peer("redis")])]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    ours = ("ONCOFLOW_", "DATABASE_", "REDIS_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
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
    one.close()


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
    for queue, failpoint in BOUNDARIES:
        if queue == "delivery" and not others:
            others.append(site.worker("default"))
        assert site.worker(queue, failpoint).wait() == -signal.SIGKILL, f"{failpoint} was not passed\n{site.log()}"
    others.append(site.worker("delivery"))
    found = site.settle(count)
    site.stop(*others)
    assert_whole(site, found, [f"a{n:03d}" for n in range(count)])


def test_a_producer_killed_between_commit_and_wake_up(site: Site) -> None:
    """The row is committed, nobody was told: the reaper finds it. What was not committed is not there."""
    producer = site.start("produce", "a", 0, 5, failpoint="jobs.before_wake:3")
    assert producer.wait() == -signal.SIGKILL
    workers = [site.worker("default"), site.worker("delivery")]
    found = site.settle(3)
    site.stop(*workers)
    assert_whole(site, found, ["a000", "a001", "a002"])


def test_killed_at_random_times(site: Site) -> None:
    """A worker for each queue, one of them killed every moment while three lanes are worked on."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    names = [f"{lane}{n:03d}" for lane in "abc" for n in range(25)]
    for lane in "abc":
        site.tell("produce", lane, 0, 25)
    queues = ("default", "delivery")
    workers = [site.worker(queue) for queue in queues]
    for _ in range(15):
        time.sleep(dice.uniform(0.05, 0.6))
        at = dice.randrange(len(workers))
        workers[at].kill()
        workers[at] = site.worker(queues[at])
    found = site.settle(len(names))
    site.stop(*workers)
    assert_whole(site, found, names)


def test_a_hung_job_ends_its_worker_and_is_done_by_the_next(site: Site) -> None:
    """The heartbeat of a hanging job lives; only its progress deadline can end it."""
    site.tell("enqueue", "effects.hang")
    assert site.worker("default").wait() == 75
    second = site.worker("default")
    site.wait_for(lambda found: found["jobs"] == {"effects.hang done": 1})
    site.stop(second)


def test_a_stopping_worker_hands_its_job_back(site: Site) -> None:
    """SIGTERM during a long job: the worker ends in time, the attempt is not counted, another worker takes over."""
    site.tell("enqueue", "effects.long")
    worker = site.worker("default")
    site.wait_for(lambda found: found["jobs"] == {"effects.long running": 1})
    site.stop(worker)
    assert site.look()["jobs"] == {"effects.long waiting": 1}
    second = site.worker("default")
    site.wait_for(lambda found: found["jobs"] == {"effects.long done": 1})
    site.stop(second)


def test_jobs_of_one_lock_take_turns_though_their_workers_are_killed(site: Site) -> None:
    """Three workers of two threads, one of them killed every moment: inside a lane nobody meets anybody, in order."""
    names = [f"{lane}{number:03d}" for number in range(12) for lane in "ab"]
    site.tell("enqueue", "effects.turn", *names)
    workers = [site.worker("default") for _ in range(3)]
    for at in (0, 1, 2, 0):
        time.sleep(0.4)
        workers[at].kill()
        workers[at] = site.worker("default")
    found = site.wait_for(lambda found: found["jobs"] == {"effects.turn done": len(names)})
    site.stop(*workers)
    assert found["effects"] == {f"turn {name}": 1 for name in names}
    for lane in "ab":
        lines = [line.split() for line in site.peer.read_text().splitlines() if line.startswith(lane)]
        for number, (name, fence, what) in enumerate(lines):
            if what == "out":  # who goes out is who came in last: between the two nobody else did
                assert lines[number - 1] == [name, fence, "in"]
        left = [name for name, _, what in lines if what == "out"]
        # Killed after it went out and before it was written down, it goes in once more, still before the others.
        assert list(dict.fromkeys(left)) == [name for name in names if name[0] == lane]


def test_what_follows_from_the_end_of_a_job_survives_a_kill(site: Site) -> None:
    """Killed between the end of the job and what becomes of its subject, both are there afterwards, once."""
    site.tell("enqueue", "effects.doomed", "a000")
    assert site.worker("default", "jobs.in_death").wait() == -signal.SIGKILL
    found = site.look()
    assert (found["jobs"], found["effects"]) == ({"effects.doomed running": 1}, {})
    second = site.worker("default")
    found = site.wait_for(lambda found: found["jobs"] == {"effects.doomed failed": 1})
    site.stop(second)
    assert found["effects"] == {"buried failed a000": 1}


def test_the_command_itself(site: Site) -> None:
    """``manage.py work`` as it is run in production does the same work."""
    site.tell("produce", "a", 0, 2)
    with (site.folder / "log").open("ab") as log:
        commands = [
            subprocess.Popen(
                [sys.executable, "-m", "django", "work", "--queue", queue],
                cwd=ROOT,
                env=site.environment,
                stdout=log,
                stderr=log,
            )
            for queue in ("default", "delivery")
        ]
    try:
        found = site.settle(2)
        for command in commands:
            command.terminate()
        assert [command.wait(120) for command in commands] == [0, 0]
    finally:
        for command in commands:
            command.kill()
            command.wait()
    assert_whole(site, found, ["a000", "a001"])
