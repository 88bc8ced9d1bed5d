"""Heartbeat and hang detection for the jobs that run in this process.

Only a worker starts the thread (`start`); elsewhere a job runs on the lease it was claimed with.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import connections

from oncoflow_site.foundation.errors import safe_error_text
from oncoflow_site.foundation.job_context import JobContext

__all__ = ["EXIT_HUNG", "hand_back_all", "held", "holding", "start"]

logger = logging.getLogger(__name__)

EXIT_HUNG = 75
"""Exit status of a worker that ended itself because a job made no progress (``EX_TEMPFAIL``)."""

_lock = threading.Lock()
_held: dict[int, JobContext] = {}


@contextmanager
def held(ctx: JobContext) -> Iterator[None]:
    """Keep the lease of ``ctx`` alive during the block."""
    with _lock:
        _held[id(ctx)] = ctx
    try:
        yield
    finally:
        with _lock:
            del _held[id(ctx)]


def holding() -> int:
    """How many jobs run in this process now."""
    with _lock:
        return len(_held)


def hand_back_all() -> int:
    """Give every job that still runs here back to the queue, its attempt not counted; returns how many."""
    with _lock:
        contexts = list(_held.values())
    return sum(ctx.hand_back() for ctx in contexts)


def beat(renewed: dict[int, float], *, on_hang: Callable[[JobContext], None]) -> None:
    """One round: renew every lease that used up a third of its time; report jobs past their progress deadline."""
    with _lock:
        contexts = list(_held.items())
    moment = time.monotonic()
    for key in renewed.keys() - {key for key, _ in contexts}:
        del renewed[key]
    for key, ctx in contexts:
        if moment - ctx.touched > ctx.spec.progress_deadline_s:
            on_hang(ctx)
            continue
        if moment - renewed.setdefault(key, moment) < ctx.spec.lease_s / 3:
            continue
        try:
            ctx.renew()
            renewed[key] = moment
        except Exception as error:
            logger.warning("lease of job %s not renewed: %s", ctx.job.id, safe_error_text(error))
            connections.close_all()


def _end_hung_worker(ctx: JobContext) -> None:
    """A thread cannot be stopped from outside, so the process ends; its jobs are leased again by others."""
    logger.error("job %s (%s) made no progress in %.0f s; ending this worker", ctx.job.id, ctx.spec.kind,
                 ctx.spec.progress_deadline_s)  # fmt: skip
    try:
        ctx.expire("no progress before its deadline")
    finally:
        os._exit(EXIT_HUNG)


def start(stop: threading.Event, *, every_s: float = 1.0) -> threading.Thread:
    """Start the heartbeat thread of a worker process; it ends when ``stop`` is set and no job is left."""

    def loop() -> None:
        renewed: dict[int, float] = {}
        while not (stop.is_set() and not holding()):
            try:
                beat(renewed, on_hang=_end_hung_worker)
            except Exception as error:
                logger.error("heartbeat: %s", safe_error_text(error))
            time.sleep(every_s)
        connections.close_all()

    thread = threading.Thread(target=loop, name="job-heartbeat", daemon=True)
    thread.start()
    return thread
