"""How many experts compute at once: on one device they would only be in each other's way.

What waits is ready to begin: its process is there and its volumes have arrived. So while one expert computes, the answer of
the one before it is stored and the next one is prepared.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

__all__ = ["DeviceTurns"]


class DeviceTurns:
    """`count` turns at a time, 0 for any number. The urgent go first, then who came first."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._limited = count > 0
        self._waiting: list[tuple[int, int]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()

    def take(self, priority: int, unwanted: Callable[[], bool]) -> bool:
        """Wait for a turn; False, and none taken, once `unwanted` says so. The larger priority is the more urgent."""
        if not self._limited:
            return True
        with self._changed:
            mine = (-priority, next(self._order))
            heapq.heappush(self._waiting, mine)
            try:
                while not (self._free and self._waiting[0] == mine):
                    if unwanted():
                        return False
                    self._changed.wait(0.5)
                self._free -= 1
                return True
            finally:
                self._waiting.remove(mine)
                heapq.heapify(self._waiting)
                self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    def give_back(self) -> None:
        """End a turn that was taken."""
        if self._limited:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
