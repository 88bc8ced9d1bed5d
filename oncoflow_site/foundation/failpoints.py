"""Places where a test may kill this very process, to prove that nothing is lost there.

``ONCOFLOW_FAILPOINT=name`` or ``name:3`` makes the first (third) passage through ``hit("name")`` end the process with
SIGKILL, as a power cut would: no handler runs, nothing is flushed. Without the variable a passage costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["arm", "hit"]

_armed = ""
_left = 0
_lock = threading.Lock()


def arm(text: str) -> None:
    """Arm the point ``name`` or ``name:count``; empty disarms."""
    global _armed, _left
    _armed, _, count = text.partition(":")
    _left = int(count or "1")


def hit(name: str) -> None:
    """Pass the point ``name``."""
    if name != _armed or not _armed:
        return
    global _left
    with _lock:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()


arm(os.environ.get("ONCOFLOW_FAILPOINT", ""))
