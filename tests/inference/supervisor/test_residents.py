"""Experts that need more memory together than there is: who was used least recently gives its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.experts.contract import Volumes
from inference.experts.factory import ExpertSpec
from inference.supervisor.client import SupervisorClient
from inference.supervisor.memory_budget import DEVICE_SHARE, HeldMemory, MemoryBudget, folder_bytes, machine_bytes
from inference.supervisor.server import Supervisor, SupervisorConfig

FACTORY = "tests.factories.fake_experts:make"
MIB = 1 << 20


class Fake:
    """A worker of which the test says everything."""

    def __init__(self, residents: MemoryBudget, *, served: float, memory: int = 0, device: int = 0) -> None:
        self.served = served
        self.resident, self.idle = True, True
        self._held = HeldMemory(memory, device, 1000 if device else 0)
        residents.add(self)

    def held(self) -> HeldMemory:
        return self._held

    def give_place(self) -> None:
        self.resident = False


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_the_least_recently_used_idle_one_goes_and_no_more_than_needed() -> None:
    residents = MemoryBudget(limit=300)
    old, middle, young = (Fake(residents, served=float(t), memory=100) for t in (1, 2, 3))
    residents.settle(young)
    assert [one.resident for one in (old, middle, young)] == [True, True, True], "300 of 300 is not too much"
    coming = Fake(residents, served=0.0, memory=150)
    coming.resident = False
    old.idle = False
    residents.make_room(coming, 5, lambda: False)
    assert [one.resident for one in (old, middle, young)] == [True, False, False], "who is at work stays"


def test_a_start_waits_for_one_at_work_but_not_for_ever() -> None:
    residents = MemoryBudget(limit=100)
    working = Fake(residents, served=1.0, memory=80)
    working.idle = False
    coming = Fake(residents, served=0.0, memory=80)
    coming.resident = False
    timer = threading.Timer(0.5, lambda: setattr(working, "idle", True))
    timer.start()
    residents.make_room(coming, 30, lambda: False)
    assert not working.resident
    working.resident, working.idle = True, False
    started = time.monotonic()
    residents.make_room(coming, 0.5, lambda: False)
    assert time.monotonic() - started < 5
    alone = MemoryBudget(limit=10)
    residents.make_room(Fake(alone, served=0, memory=80), 30, lambda: False)  # nobody could go: it starts all the same


def test_a_full_gpu_counts_as_well() -> None:
    residents = MemoryBudget(limit=10_000)
    old = Fake(residents, served=1.0, memory=1, device=500)
    young = Fake(residents, served=2.0, memory=1, device=int(1000 * DEVICE_SHARE) - 499)
    residents.settle(young)
    assert (old.resident, young.resident) == (False, True)


def test_what_is_measured(tmp_path: Path) -> None:
    (tmp_path / "fold").mkdir()
    (tmp_path / "fold" / "weights").write_bytes(b"x" * 1000)
    assert folder_bytes(tmp_path) == 1000
    assert folder_bytes(tmp_path / "absent") == 0
    assert 100 * MIB < machine_bytes() < 1 << 50


@pytest.mark.slow
def test_experts_take_turns_in_memory_that_holds_two_of_three(tmp_path: Path) -> None:
    specs = tuple(ExpertSpec(name, "holds-150", str(tmp_path), factory=FACTORY) for name in ("a", "b", "c"))
    image = np.ones((3, 4, 5), np.float32)
    study = Volumes({"T1": image}, (1.0, 1.0, 1.0), np.ones(image.shape, bool))
    supervisor = Supervisor(
        SupervisorConfig(specs, "127.0.0.1:0", tmp_path / "key", load_timeout_s=60, memory_bytes=420 * MIB)
    )
    supervisor.start()
    try:
        client = SupervisorClient(supervisor.address, supervisor.key)

        def experts() -> dict[str, Any]:
            return dict(client.health()["experts"])

        wait_for(lambda: sorted(one["state"] for one in experts().values()) == ["asleep", "ready", "ready"])
        for name in ("a", "b", "c", "a"):
            assert client.run(name, study, 60).model.name == name
        wait_for(lambda: experts()["b"]["state"] == "asleep")
        found = experts()
        assert {name: one["state"] for name, one in found.items()} == {"a": "ready", "b": "asleep", "c": "ready"}
        assert found["b"]["pid"] is None
        assert found["b"]["memory_bytes"] == 0
        assert found["a"]["memory_bytes"] > 150 * MIB
        assert sum(one["memory_bytes"] for one in found.values()) <= 420 * MIB
        assert all(one["restarts"] == 0 or name != "c" for name, one in found.items())
        time.sleep(1.5)
        assert experts()["b"]["state"] == "asleep", "who gave its place comes back with a request only"
    finally:
        supervisor.stop()
