"""The process manager with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from oncoflow_site.foundation.process_manager import ProcessManager

SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(60)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
PARENT = (
    "import subprocess, time\np = subprocess.Popen(['sleep', '60'])\nprint('child', p.pid, flush=True)\ntime.sleep(60)"
)


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has collected yet is not running any more.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def managed(
    programs: dict[str, str], lines: list[str], grace_s: float = 5.0
) -> tuple[ProcessManager, threading.Thread]:
    processes = {name: [sys.executable, "-c", text] for name, text in programs.items()}
    manager = ProcessManager(processes, write=lines.append, grace_s=grace_s)
    thread = threading.Thread(target=manager.run)
    thread.start()
    return manager, thread


def test_what_dies_is_started_again_and_all_stop_cleanly() -> None:
    lines: list[str] = []
    manager, thread = managed({"one": SLEEPER, "other": SLEEPER}, lines)
    try:
        wait_for(lambda: lines.count("one   | up") == 1 and lines.count("other | up") == 1)
        first = manager.pids()
        os.kill(first["one"], signal.SIGKILL)
        wait_for(lambda: lines.count("one   | up") == 2)
        second = manager.pids()
        assert second["one"] != first["one"]
        assert second["other"] == first["other"]
        assert any("ended with status -9; starting again in 1 s" in line for line in lines)
    finally:
        manager.stop()
        thread.join(15)
    assert not thread.is_alive()
    assert not any(alive(pid) for pid in (*first.values(), *second.values()))
    assert not any("killed" in line for line in lines)


def test_what_does_not_stop_is_killed() -> None:
    lines: list[str] = []
    manager, thread = managed({"stubborn": STUBBORN}, lines, grace_s=0.5)
    wait_for(lambda: "stubborn | up" in lines)
    pid = manager.pids()["stubborn"]
    manager.stop()
    thread.join(10)
    assert not alive(pid)
    assert any("did not stop" in line for line in lines)


def test_children_of_children_do_not_outlive_them() -> None:
    lines: list[str] = []
    manager, thread = managed({"parent": PARENT}, lines)
    try:
        wait_for(lambda: any("| child" in line for line in lines))
        grandchild = int(next(line for line in lines if "| child" in line).split()[-1])
        assert alive(grandchild)
        os.kill(manager.pids()["parent"], signal.SIGKILL)
        wait_for(lambda: not alive(grandchild))
    finally:
        manager.stop()
        thread.join(15)


def test_pauses_grow_while_it_keeps_dying_and_a_missing_program_is_said() -> None:
    lines: list[str] = []
    manager = ProcessManager(
        {"dies": [sys.executable, "-c", "raise SystemExit(3)"], "missing": ["/no/such/program"]}, write=lines.append
    )
    thread = threading.Thread(target=manager.run)
    thread.start()
    wait_for(lambda: any("starting again in 2 s" in line for line in lines))
    manager.stop()
    thread.join(10)
    assert any("missing" in line and "cannot be started" in line for line in lines)
    assert any("ended with status 3; starting again in 1 s" in line for line in lines)


def test_children_end_when_the_manager_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom oncoflow_site.foundation.process_manager import ProcessManager\n"
        f"ProcessManager({{'one': [sys.executable, '-c', {SLEEPER!r}]}}).run()"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, cwd=root, text=True
    ) as manager:
        assert manager.stdout is not None
        line = manager.stdout.readline()
        while "process" not in line:
            line = manager.stdout.readline()
        pid = int(line.split()[-1])
        while "up" not in manager.stdout.readline():
            pass
        assert alive(pid)
        manager.kill()
        wait_for(lambda: not alive(pid))
