"""A worker process: one queue's consumer, its heartbeat and its reaper."""

from __future__ import annotations

import logging
import os
import socket
import threading
from datetime import timedelta

from django.conf import settings
from django.db import connections
from huey.consumer import Consumer  # noqa: TID251  (the worker is where the queue is consumed)

from oncoflow_site.foundation import huey_app, janitors, jobs, leases, objects, outbox, retention
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import safe_error_text
from oncoflow_site.foundation.models import WorkerHeartbeat

__all__ = ["DEFAULT_THREADS", "housekeeping", "serve", "sign_of_life"]

logger = logging.getLogger(__name__)

# Two for the gpu: the supervisor computes one at a time, and what one thread stores costs the device no time.
DEFAULT_THREADS = {"default": 2, "gpu": 2, "delivery": 2}
_FORGET_WORKER_AFTER = timedelta(days=1)

janitors.register("orphaned objects", objects.janitor, every_s=6 * 3600.0)
janitors.register("retention", retention.janitor, every_s=6 * 3600.0)


def sign_of_life(worker: str, queue: str) -> None:
    """Write that ``worker`` is alive; forget those silent for a day."""
    WorkerHeartbeat.objects.update_or_create(worker=worker, defaults={"queue": queue, "beat_at": now()})
    WorkerHeartbeat.objects.filter(beat_at__lt=now() - _FORGET_WORKER_AFTER).delete()


def housekeeping(queue: str, worker: str) -> None:
    """One round: sign of life, lost jobs back, due jobs woken, deliveries revived."""
    sign_of_life(worker, queue)
    if queue == "delivery":
        outbox.revive()
    jobs.reap(queue)


def _keep_house(queue: str, worker: str, stop: threading.Event, every_s: float) -> None:
    rounds = janitors.Janitors()
    while not stop.is_set():
        try:
            housekeeping(queue, worker)
            if queue == "default":
                rounds.round()
        except Exception as error:
            # The database may be away for a while; a worker that gives up here would leave lost jobs lying.
            logger.warning("housekeeping of queue %s: %s", queue, safe_error_text(error))
            connections.close_all()
        stop.wait(every_s)
    connections.close_all()


def serve(queue: str, *, threads: int | None = None) -> int:
    """Work on ``queue`` until SIGTERM or SIGINT; returns the exit status.

    On a signal no new job is taken; running ones get eight seconds to end, after which they are handed back
    (the attempt not counted) and the process ends.
    """
    every_s = float(getattr(settings, "ONCOFLOW_REAP_SECONDS", 5.0))
    shutdown_s = float(getattr(settings, "ONCOFLOW_SHUTDOWN_SECONDS", 8.0))
    worker = f"{socket.gethostname()[:80]}:{os.getpid()}:{queue}"
    stop = threading.Event()
    leases.start(stop)
    keeper = threading.Thread(target=_keep_house, args=(queue, worker, stop, every_s), name="housekeeping", daemon=True)
    keeper.start()
    consumer = Consumer(
        huey_app.queue(queue),
        workers=threads or DEFAULT_THREADS[queue],
        periodic=False,
        initial_delay=0.05,
        max_delay=0.5,
        graceful_signal="TERM",
        shutdown_timeout=shutdown_s,
    )
    logger.info("worker %s started", worker)
    consumer.run()
    stop.set()
    keeper.join(timeout=2.0)
    handed_back = leases.hand_back_all()
    WorkerHeartbeat.objects.filter(worker=worker).delete()
    logger.info("worker %s stopped, %d jobs handed back", worker, handed_back)
    if handed_back:
        # Their threads still run; nothing they do now can be committed, so do not wait for them.
        logging.shutdown()
        os._exit(0)
    return 0
