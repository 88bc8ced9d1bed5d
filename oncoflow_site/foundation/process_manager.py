"""The embedded process manager: several processes of one service under one command.

Each child has a process group of its own, so that nothing it started outlives it, and is told by the kernel to end when
the manager is killed. A child that ends is started again, with growing pauses while it keeps ending young.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

__all__ = ["ProcessManager"]

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_STABLE_S = 60.0
_MAX_PAUSE_S = 30.0


def _death_signal() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # SIGTERM, not SIGKILL: a worker hands its jobs back, a listener finishes its association.
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class _Child:
    name: str
    argv: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float = 0.0
    pause_s: float = 1.0
    starts: int = 0
    reader: threading.Thread | None = field(default=None, repr=False)


class ProcessManager:
    """Starts, watches, restarts and stops processes.

    :param processes: name -> argument list.
    :param write: takes one line of a child's output, already prefixed with its name.
    :param grace_s: seconds a child has to stop after SIGTERM before it is killed.
    """

    def __init__(
        self,
        processes: Mapping[str, Sequence[str]],
        *,
        write: Callable[[str], object] = print,
        grace_s: float = 10.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._children = [_Child(name, list(argv)) for name, argv in processes.items()]
        self._width = max((len(child.name) for child in self._children), default=0)
        self._write, self._grace_s = write, grace_s
        self._environment = dict(environment or os.environ) | {"PYTHONUNBUFFERED": "1"}
        self._stop = threading.Event()
        self._print_lock = threading.Lock()
        self._before_exec = _death_signal()

    def stop(self) -> None:
        """Ask `run` to stop everything and return."""
        self._stop.set()

    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now, by name."""
        return {
            child.name: child.process.pid
            for child in self._children
            if child.process is not None and child.process.poll() is None
        }

    def run(self) -> None:
        """Keep everything running until `stop`.

        Call it in the main thread: children die with the thread that made them.
        """
        try:
            while not self._stop.is_set():
                for child in self._children:
                    self._tend(child)
                self._stop.wait(0.2)
        finally:
            self._stop_all()

    def _say(self, name: str, line: str) -> None:
        with self._print_lock:
            self._write(f"{name:<{self._width}} | {line}")

    def _tend(self, child: _Child) -> None:
        moment = time.monotonic()
        if child.process is not None:
            status = child.process.poll()
            if status is None:
                return
            self._kill_group(child, signal.SIGKILL)
            if moment - child.started >= _STABLE_S:
                child.pause_s = 1.0
            self._say(child.name, f"ended with status {status}; starting again in {child.pause_s:.0f} s")
            child.process, child.start_at = None, moment + child.pause_s
            child.pause_s = min(child.pause_s * 2, _MAX_PAUSE_S)
        if moment >= child.start_at:
            self._start(child)

    def _start(self, child: _Child) -> None:
        child.started = time.monotonic()
        child.starts += 1
        try:
            child.process = subprocess.Popen(
                list(child.argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=self._before_exec,
            )
        except OSError as error:
            self._say(child.name, f"cannot be started: {error.strerror}; trying again in {child.pause_s:.0f} s")
            child.start_at = child.started + child.pause_s
            child.pause_s = min(child.pause_s * 2, _MAX_PAUSE_S)
            return
        self._say(child.name, f"started, process {child.process.pid}")
        if child.process.stdout is not None:
            child.reader = threading.Thread(target=self._read, args=(child.name, child.process.stdout), daemon=True)
            child.reader.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                self._say(name, line.decode("utf-8", "replace").rstrip("\r\n"))

    @staticmethod
    def _kill_group(child: _Child, number: int) -> None:
        if child.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, number)

    def _stop_all(self) -> None:
        # Last started, first stopped: doors and workers go before what they use only matters to logs, not to data.
        running = [child for child in reversed(self._children) if child.process is not None]
        for child in running:
            if child.process is not None and child.process.poll() is None:
                # Only the process itself: it knows best how to stop its own children.
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        for child in running:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(child.name, f"did not stop in {self._grace_s:.0f} s; killed")
            self._kill_group(child, signal.SIGKILL)
            child.process.wait()
            if child.reader is not None:
                child.reader.join(timeout=1.0)
            self._say(child.name, "stopped")
