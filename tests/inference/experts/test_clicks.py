"""Clicks: the interactive process, volumes that travel once, what is kept and forgotten, obedience, memory that runs out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.experts.common.out_of_memory import MemoryFallback
from inference.experts.contract import Prompt, Refined, Volumes
from inference.experts.errors import ExpertFailed, InvalidVolumes
from inference.experts.factory import ExpertSpec
from inference.experts.sam.click_enforcement import enforce_clicks
from inference.supervisor.client import ExpertUnavailable, SupervisorClient
from inference.supervisor.server import Supervisor, SupervisorConfig
from oncoflow_site.foundation.byte_lru import ByteLru
from tests.factories.waiting import until

FACTORY = "tests.factories.fake_experts:make"
SHAPE = (9, 10, 11)


def volumes(value: float = 1.0) -> Volumes:
    return Volumes({"T1": np.full(SHAPE, value, np.float32)}, (1.0, 1.0, 1.0), np.ones(SHAPE, bool))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    specs = tuple(ExpertSpec(name, "good", str(tmp_path), factory=FACTORY) for name in ("clicker", "plain"))
    config = SupervisorConfig(specs, "127.0.0.1:0", tmp_path / "key", load_timeout_s=60, interactive_idle_s=1.5)
    running = Supervisor(config)
    running.start()
    yield running
    running.stop()


class Clicking:
    """A client that counts how often it had to read the volumes."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.client = SupervisorClient(supervisor.address, supervisor.key)
        self.read = 0

    def __call__(
        self, *points: tuple[int, int, int, bool], key: str = "one", expert: str = "clicker", scope: str = "slice"
    ) -> Refined | None:
        def load() -> Volumes:
            self.read += 1
            return volumes()

        prompt = Prompt("WT", points, scope=scope) if points else None
        return self.client.refine(
            expert, key, prompt, sequences=["T1"], spacing=(1.0, 1.0, 1.0), load=load, deadline_s=30
        )


@pytest.fixture
def click(supervisor: Supervisor) -> Clicking:
    return Clicking(supervisor)


def test_volumes_travel_once_and_points_are_obeyed(click: Clicking) -> None:
    assert click() is None
    first = click((4, 5, 5, True))
    assert first is not None
    assert (first.origin, first.mask.shape, int(first.mask.sum())) == ((4, 0, 0), (1, 10, 11), 13)
    second = click((4, 5, 5, True), (4, 5, 6, False))
    assert second is not None
    assert not second.mask[0, 5, 6]
    assert click.read == 1
    assert second.notes == (first.notes[0], "loads 1"), "the same process, and nothing was sent to it again"


def test_the_supervisor_has_the_volumes_when_the_process_was_lost(supervisor: Supervisor, click: Clicking) -> None:
    before = click((4, 5, 5, True))
    with pytest.raises(ExpertFailed, match="crashed"):
        click((0, 0, 0, True))
    after = click((4, 5, 5, True))
    assert before is not None
    assert after is not None
    assert after.notes[0] != before.notes[0]
    assert click.read == 1
    # The panel's process of the same expert was not touched.
    assert click.client.health()["experts"]["clicker"]["restarts"] == 0


def test_a_click_does_not_wait_for_the_panels_prediction_by_the_same_expert(click: Clicking) -> None:
    click()
    panel = threading.Thread(target=click.client.run, args=("clicker", volumes(16), 60))
    click.client.run("clicker", volumes(1), 60)
    panel.start()
    until(lambda: click.client.health()["experts"]["clicker"]["state"] == "busy")
    assert click((4, 5, 5, True)) is not None
    assert panel.is_alive()
    assert click.client.health()["experts"]["clicker"]["state"] == "busy"
    panel.join(30)


def test_the_interactive_process_ends_when_nobody_clicks_and_returns(click: Clicking) -> None:
    lane = lambda: click.client.health()["interactive"]["clicker"]  # noqa: E731
    assert lane()["pid"] is None, "nobody has clicked: no second process"
    click((4, 5, 5, True))
    assert lane()["pid"] is not None
    ends = time.monotonic() + 20
    while lane()["pid"] is not None and time.monotonic() < ends:
        time.sleep(0.1)
    assert (lane()["state"], lane()["pid"]) == ("asleep", None)
    assert click((4, 5, 5, True)) is not None
    assert click.read == 1


def test_who_cannot_answer_says_so(click: Clicking) -> None:
    with pytest.raises(InvalidVolumes, match="takes no prompts"):
        click((4, 5, 5, True), expert="plain")
    with pytest.raises(ExpertUnavailable, match="no expert of that name"):
        click((4, 5, 5, True), expert="nobody")


def test_a_panels_volumes_travel_once_for_all_experts(supervisor: Supervisor) -> None:
    client = SupervisorClient(supervisor.address, supervisor.key)
    for expert in ("plain", "clicker"):
        assert client.run(expert, volumes(1), 60, key="set").model.name == expert
    held = supervisor.volumes.bytes
    assert held == 5 * int(np.prod(SHAPE))
    # A key stands for volumes that never change: what is sent under it later is not even looked at.
    client.run("plain", volumes(2), 60, key="set")
    assert supervisor.volumes.bytes == held


def test_least_recently_used_goes_first() -> None:
    kept: ByteLru[str, bytes] = ByteLru(10, len)
    for name in "abc":
        kept.put(name, b"1234")
        kept.get("a")
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (b"1234", None, b"1234")
    assert (kept.bytes, len(kept)) == (8, 2)
    kept.put("large", b"x" * 11)
    assert kept.get("large") is None
    kept.put("a", b"12")
    assert kept.bytes == 6
    kept.clear()
    assert (kept.bytes, len(kept)) == (0, 0)


@pytest.mark.torch
def test_memory_that_runs_out_is_asked_for_in_smaller_parts_then_on_the_cpu() -> None:
    import torch

    moved: list[str] = []
    memory = MemoryFallback("cuda:0", 4, moved.append)

    def step(batch: int) -> str:
        if memory.device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"done with {batch}"

    assert memory.run(step) == "done with 1"
    assert moved == ["cpu"]
    assert [note.split(":")[0] for note in memory.notes] == ["memory ran out"] * 2 + ["memory ran out on cuda"]
    memory.begin()
    assert (moved, memory.batch, memory.notes) == (["cpu", "cuda:0"], 4, [])
    with pytest.raises(ExpertFailed, match="memory ran out"):
        memory.run(lambda batch: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(ZeroDivisionError):
        memory.run(lambda batch: 1 / 0)


def test_clicks_that_the_network_ignores_change_what_looks_like_them() -> None:
    picture = np.full((3, 40, 40), 0.2, np.float32)
    picture[:, 10:20, 10:20] = 0.8  # the lesion
    picture[:, 10:20, 20:26] = 0.5  # what the network takes with it
    answer = np.zeros((40, 40), np.float32)
    answer[10:20, 10:26] = 0.9
    answer[30:35, 30:35] = 0.9  # another lesion
    inside, outside = (15.0, 15.0, True), (23.0, 15.0, False)
    found, ignored = enforce_clicks(picture, answer, [inside], None)
    assert ignored == 0
    assert np.array_equal(found >= 0.5, (answer >= 0.5) & (np.arange(40) < 26)[None]), "the clicked lesion alone"
    found, ignored = enforce_clicks(picture, answer, [inside, outside], None)
    assert ignored == 1
    assert found[15, 15] >= 0.5
    assert found[15, 23] < 0.5
    assert (found[11:19, 11:19] >= 0.5).all(), "what looks otherwise stays"
    assert (found[12:18, 21:25] < 0.5).all()
    found, _ = enforce_clicks(picture, answer, [], (28.0, 28.0, 37.0, 37.0))
    assert np.array_equal(np.argwhere(found >= 0.5).min(0), [30, 30])
    found, ignored = enforce_clicks(picture, np.zeros_like(answer), [inside], None)
    assert ignored == 1
    assert found[15, 15] >= 0.5
    assert not (found[:, 22:] >= 0.5).any()
