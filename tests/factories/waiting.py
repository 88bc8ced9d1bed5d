"""Waiting for what must come, instead of sleeping for as long as it mostly takes."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["until"]


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Return as soon as ``true`` holds. :raises AssertionError: it has not within ``seconds``."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "what was waited for did not come"
        time.sleep(0.01)
