"""Real workers, killed with SIGKILL at every boundary between two stages and at random times.

Afterwards nothing is lost and nothing happened twice: every job done, every effect there once, every delivery at its
peer in the order of its lane. The one thing that may double is a transmission whose answer nobody lived to write down;
the peer knows it by its key.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.durability.site import ROOT, Site, site

__all__ = ["site"]  # fixtures


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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
