"""Cleaning up at intervals: what rooms register is done by every worker of the queue ``default``, each as often as it says.

A janitor may run in several processes at once and at any time; it looks at rows again before it deletes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from oncoflow_site.foundation.errors import safe_error_text

__all__ = ["Janitors", "register"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Janitor:
    name: str
    work: Callable[[], int]
    every_s: float


_registered: dict[str, _Janitor] = {}


def register(name: str, work: Callable[[], int], *, every_s: float) -> None:
    """Have ``work`` done about every ``every_s`` seconds; it returns how many things it removed."""
    _registered[name] = _Janitor(name, work, every_s)


class Janitors:
    """The rounds of one worker. The first one is at a random time, so that workers do not clean all at once."""

    def __init__(self) -> None:
        started = time.monotonic()
        self._due = {name: started + random.uniform(60.0, one.every_s) for name, one in _registered.items()}

    def round(self) -> None:
        """Do what is due. What fails is logged and tried again at its next time."""
        for name, due in self._due.items():
            if time.monotonic() < due:
                continue
            janitor = _registered[name]
            self._due[name] = time.monotonic() + janitor.every_s
            try:
                logger.info("janitor %s removed %d", name, janitor.work())
            except Exception as error:
                logger.warning("janitor %s: %s", name, safe_error_text(error))
