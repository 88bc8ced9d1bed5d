"""Experts on one device compute one after another, the urgent first."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from inference.experts.contract import Volumes
from inference.experts.factory import ExpertSpec
from inference.supervisor.client import SupervisorClient
from inference.supervisor.device_turns import DeviceTurns
from inference.supervisor.server import Supervisor, SupervisorConfig
from tests.factories.waiting import until


def test_one_at_a_time_the_urgent_first_and_who_left_takes_none() -> None:
    turns, order = DeviceTurns(1), list[str]()
    assert turns.take(0, lambda: False)

    def want(name: str, priority: int) -> None:
        assert turns.take(priority, lambda: False)
        order.append(name)
        turns.give_back()

    threads = []
    for name, priority in (("first", 0), ("second", 0), ("urgent", 9)):
        threads.append(threading.Thread(target=want, args=(name, priority)))
        threads[-1].start()
        until(lambda: turns.waiting == len(threads))
    assert not turns.take(99, lambda: True), "nobody waits for it any more"
    assert order == []
    turns.give_back()
    for one in threads:
        one.join(10)
    assert order == ["urgent", "first", "second"]
    assert turns.take(0, lambda: False)


def test_any_number_without_a_limit() -> None:
    turns = DeviceTurns(0)
    assert all(turns.take(0, lambda: False) for _ in range(5))


@pytest.mark.slow
def test_two_experts_do_not_compute_at_once_and_a_crash_gives_the_turn_back(tmp_path: Path) -> None:
    specs = tuple(ExpertSpec(n, "good", str(tmp_path), factory="tests.factories.fake_experts:make") for n in ("a", "b"))
    supervisor = Supervisor(SupervisorConfig(specs, "127.0.0.1:0", tmp_path / "key", load_timeout_s=60, at_once=1))
    supervisor.start()
    try:
        client = SupervisorClient(supervisor.address, supervisor.key)

        def study(wish: float) -> Volumes:
            image = np.full((3, 4, 5), wish, np.float32)
            return Volumes({"T1": image}, (1.0, 1.0, 1.0), np.ones(image.shape, bool))

        for name in ("a", "b"):
            client.run(name, study(1), 60)
        spans: dict[str, float] = {}

        def ask(name: str) -> None:
            client.run(name, study(15), 60)  # takes a second
            spans[name] = time.monotonic()

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b")]
        for one in threads:
            one.start()
        for one in threads:
            one.join(30)
        assert abs(spans["a"] - spans["b"]) > 0.9, "one after the other"
        with pytest.raises(Exception, match="crashed"):
            client.run("a", study(11), 60)
        assert client.run("b", study(1), 60).model.name == "b"
    finally:
        supervisor.stop()
