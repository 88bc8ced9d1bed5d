"""An endpoint that answers as told, and deliveries to it."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction

from oncoflow_site.foundation import jobs, outbox
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import Delivery, Job


class Peer:
    """An endpoint that answers as told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.answers: list[Exception] = []

    def send(self, delivery: Delivery, payload: bytes) -> outbox.DeliveryResult:
        if self.answers:
            raise self.answers.pop(0)
        self.got.append((delivery.idempotency_key, payload))
        return outbox.DeliveryResult("201")


def put(key: str, *, subject: str = "report:1", endpoint: str = "emr", transport: str = "test") -> Delivery:
    payload = outbox.write_payload(f"body of {key}".encode(), patient_subject="patient:1")
    with transaction.atomic():
        return outbox.enqueue_delivery(
            endpoint=endpoint,
            transport=transport,
            subject=subject,
            key=key,
            payload=payload,
            headers={"content-type": "text/plain"},
        )


def run_due() -> None:
    """Let time pass for everything that waits."""
    Delivery.objects.update(next_attempt_at=now() - timedelta(seconds=1))
    Job.objects.filter(state="waiting").update(run_after=now() - timedelta(seconds=1))
    jobs.run_pending("delivery")


def state(delivery: Delivery) -> str:
    delivery.refresh_from_db()
    return delivery.state
