"""A small pipeline: make -> (event) -> follow -> store an object, deliver it."""

from __future__ import annotations

import os
import time

from oncoflow_site.foundation import events, jobs, objects, outbox
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.models import Delivery, Job
from tests.durability.effects.models import Effect

MADE = events.declare_event("effects.made")
events.follow(MADE, "effects.follow", ("name",))
for _silent in ("delivery.done", "delivery.dead", "job.failed"):
    events.nothing_follows(_silent)


@jobs.job("effects.make", lease_s=1.5, max_attempts=50)
def make(ctx: jobs.JobContext, *, name: str) -> None:
    """Finishes by itself after its commit, so it may run twice and has to look."""
    if Effect.objects.filter(name=name, stage="make").exists():
        return
    time.sleep(0.01)
    ctx.progress(0.5)
    with ctx.commit():
        Effect.objects.create(name=name, stage="make")
        events.emit(MADE, subject=f"lane:{name[0]}", name=name)


@jobs.job("effects.follow", queue="default", lease_s=1.5, max_attempts=50)
def follow(ctx: jobs.JobContext, *, name: str) -> None:
    """Finishes in its commit, so it has no need to look."""
    stored = objects.write(name.encode(), subject="patient:1", kind="effect")
    payload = outbox.write_payload(name.encode(), patient_subject="patient:1")
    with ctx.commit(done=True):
        Effect.objects.create(name=name, stage="follow")
        objects.keep(stored)
        outbox.enqueue_delivery(
            endpoint="peer",
            transport="file",
            subject=f"lane:{name[0]}",
            key=f"deliver:{name}",
            payload=payload,
        )


def send(delivery: Delivery, payload: bytes) -> outbox.DeliveryResult:
    """The peer is a file: one line an arrival."""
    line = f"{delivery.subject} {delivery.sequence} {delivery.idempotency_key} {payload.decode()}\n"
    descriptor = os.open(os.environ["ONCOFLOW_TEST_PEER_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return outbox.DeliveryResult("201")


outbox.register_transport("file", send)


@jobs.job("effects.hang", lease_s=1.5, progress_deadline_s=1.0)
def hang(ctx: jobs.JobContext) -> None:
    """Hangs the first time."""
    if ctx.job.attempts == 1:
        time.sleep(3600)


@jobs.job("effects.long", lease_s=30)
def long(ctx: jobs.JobContext) -> None:
    """Takes for ever the first time."""
    if ctx.job.fence == 1:
        time.sleep(3600)


@jobs.job("effects.turn", lease_s=1.5, max_attempts=50, locks=lambda name: f"lane:{name[0]}")
def turn(ctx: jobs.JobContext, *, name: str) -> None:
    """Works on its lane for a moment; the peer's file tells who was inside when."""
    path = os.environ["ONCOFLOW_TEST_PEER_FILE"]
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{name} {ctx.job.fence} in\n".encode())
    time.sleep(0.03)
    os.write(descriptor, f"{name} {ctx.job.fence} out\n".encode())
    os.close(descriptor)
    with ctx.commit(done=True):
        Effect.objects.create(name=name, stage="turn")


def bury(job: Job, *, name: str) -> None:
    """The subject of a doomed job gets its end."""
    Effect.objects.create(name=name, stage=f"buried {job.state}")


@jobs.job("effects.doomed", lease_s=1.5, max_attempts=3, on_dead=bury)
def doomed(ctx: jobs.JobContext, *, name: str) -> None:
    """Never works."""
    raise PermanentError("doomed")
