"""Which experts may stay in memory: when all together hold more than they may, who was used least recently gives its place.

An expert that gave its place starts again with its next request. Held is what the kernel counts for a process (PSS: its own
pages and its share of those that it shares with the template), and on a GPU what its allocator has reserved there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["HeldMemory", "MemoryBudget", "Resident", "folder_bytes", "machine_bytes", "pss_bytes"]

SHARE = 0.75
DEVICE_SHARE = 0.9
GOING_S = 10.0


@dataclass(frozen=True)
class HeldMemory:
    """Bytes in main memory and on the device; device_total: how much the device has, 0 without one."""

    memory: int = 0
    device: int = 0
    device_total: int = 0


class Resident(Protocol):
    """What is asked of an expert's worker."""

    served: float

    @property
    def resident(self) -> bool:
        """Whether its process is there."""
        ...

    @property
    def idle(self) -> bool:
        """Whether it could go now."""
        ...

    def held(self) -> HeldMemory:
        """What its process holds, or would by the last time it ran, or by the size of its weights."""
        ...

    def give_place(self) -> None:
        """End the process soon, unless a request comes first."""
        ...


class MemoryBudget:
    """The workers of a supervisor and the memory they may hold together, bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._all: list[Resident] = []
        self._starting: set[int] = set()
        self._lock = threading.Lock()

    def add(self, one: Resident) -> None:
        """Count this worker too."""
        self._all.append(one)

    def make_room(self, one: Resident, patience_s: float, stopping: Callable[[], bool]) -> None:
        """Before `one` starts. Waits for others that are at work; starts anyway once nobody is left who could go."""
        ends = time.monotonic() + patience_s
        with self._lock:
            self._starting.add(id(one))
        while not stopping() and time.monotonic() < ends and self._too_much():
            if not self._send_away(one):
                if not any(other.resident and not other.idle for other in self._all if other is not one):
                    return
                time.sleep(0.2)

    def settle(self, one: Resident) -> None:
        """After `one` started or answered: what it holds is known now."""
        with self._lock:
            self._starting.discard(id(one))
        while self._too_much() and self._send_away(one):
            pass

    def _too_much(self) -> bool:
        counted = [one.held() for one in self._all if one.resident or id(one) in self._starting]
        total = max((held.device_total for held in counted), default=0)
        on_device = sum(held.device for held in counted)
        return sum(held.memory for held in counted) > self.limit or bool(total and on_device > DEVICE_SHARE * total)

    def _send_away(self, keep: Resident) -> bool:
        """The one that was used least recently of those that are idle; False when there is none."""
        with self._lock:  # two that look for room at once must not both send the same one away and count it twice
            idle = [one for one in self._all if one is not keep and one.resident and one.idle]
            if not idle:
                return False
            going = min(idle, key=lambda one: one.served)
            going.give_place()
            ends = time.monotonic() + GOING_S
            while going.resident and going.idle and time.monotonic() < ends:
                time.sleep(0.02)
            return not going.resident


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 when it is gone or the kernel does not tell."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take: the first guess at what its model will hold."""
    total = 0
    with suppress(OSError):
        for path in folder.rglob("*"):
            if path.is_file():
                total += path.stat().st_size
    return total


def machine_bytes() -> int:
    """Three quarters of the memory that the machine, or the container around this process, has."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        whole = min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    return int(SHARE * whole)
