"""Places where a test may kill this very process, to prove that nothing is lost there, or hold it up, to bring two
things into an order.

``ONCOFLOW_FAILPOINT=name`` or ``name:3`` makes the first (third) passage through ``hit("name")`` end the process with
SIGKILL, as a power cut would: no handler runs, nothing is flushed. ``name@folder`` makes passage number n write the file
``n.reached`` in that folder and wait until there is a file ``n``. Without the variable a passage costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

__all__ = ["arm", "hit"]

_armed = ""
_left = 0
_passed = 0
_gates: Path | None = None
_lock = threading.Lock()


def arm(text: str) -> None:
    """Arm the point ``name``, ``name:count`` or ``name@folder``; empty disarms."""
    global _armed, _left, _passed, _gates
    name, _, folder = text.partition("@")
    _armed, _, count = name.partition(":")
    _left, _passed = int(count or "1"), 0
    _gates = Path(folder) if folder else None


def hit(name: str) -> None:
    """Pass the point ``name``."""
    if name != _armed or not _armed:
        return
    if _gates is not None:
        _wait(_gates)
        return
    global _left
    with _lock:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()


def _wait(gates: Path, seconds: float = 300.0) -> None:
    global _passed
    with _lock:
        _passed += 1
        number = _passed
    (gates / f"{number}.reached").touch()
    deadline = time.monotonic() + seconds
    while not (gates / str(number)).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


arm(os.environ.get("ONCOFLOW_FAILPOINT", ""))
