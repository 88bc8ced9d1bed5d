"""An installation with worker processes of its own, which a test kills and looks into."""

from __future__ import annotations

import contextlib
import json
import os
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
