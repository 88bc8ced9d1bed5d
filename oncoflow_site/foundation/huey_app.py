"""The three queues. Huey only wakes a worker up; the truth is the `Job` row (see `jobs`).

Huey removes a task from its queue before running it, so a killed worker loses the wake-up, never the work: the reaper
finds the row. The one task here is therefore allowed to be lost, doubled or late.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from huey import Huey  # noqa: TID251

__all__ = ["QUEUES", "pending", "queue", "set_runner", "wake"]

QUEUES = ("default", "gpu", "delivery")

_runner: Callable[[str], object] | None = None


def set_runner(runner: Callable[[str], object]) -> None:
    """Tell what a woken worker does with a job id (`jobs` calls this; it keeps the import one-way)."""
    global _runner
    _runner = runner


@cache
def _build(name: str, pid: int) -> tuple[Huey, Callable[..., object]]:
    # Imported late: it pulls in every broker's client, which takes longer than the rest of a command's start.
    from huey import PriorityRedisHuey, SqliteHuey  # noqa: TID251  (the one place)

    redis_url = getattr(settings, "REDIS_URL", "") or os.environ.get("REDIS_URL", "")
    huey: Huey
    if redis_url:
        # A broker behind a dead route must not hold up whoever has just committed a job.
        redis_url += ("&" if "?" in redis_url else "?") + "socket_connect_timeout=3&socket_timeout=10"
        huey = PriorityRedisHuey(f"oncoflow-{name}", url=redis_url, results=False, blocking=True, read_timeout=1)
    else:
        folder = Path(settings.ONCOFLOW_DATA_DIR) / "queues"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        huey = SqliteHuey(
            f"oncoflow-{name}", filename=str(folder / f"{name}.db"), fsync=True, results=False, timeout=30
        )

    def run_job(job_id: str) -> None:
        if _runner is None:
            raise RuntimeError("no runner: import oncoflow_site.foundation.jobs first")
        _runner(job_id)

    return huey, huey.task(name="run_job")(run_job)


def queue(name: str) -> Huey:
    """The Huey instance of one of `QUEUES`; raises ValueError for another name."""
    if name not in QUEUES:
        raise ValueError(f"unknown queue {name!r}; queues are {', '.join(QUEUES)}")
    return _build(name, os.getpid())[0]


def wake(name: str, job_id: str, priority: int = 0) -> None:
    """Tell a worker of queue ``name`` to look at a job. May raise what the broker's client raises."""
    queue(name)
    task = _build(name, os.getpid())[1]
    task(job_id, priority=priority)


def pending(name: str) -> int:
    """Wake-ups not taken yet."""
    return int(queue(name).pending_count())
