"""Whether the way to an endpoint is open, apart from what becomes of each delivery.

An endpoint at fault is stopped: its deliveries wait, which costs them no attempts. From time to time one of them goes as a probe
(half-open); once the peer answers, all go on in the order in which they were made. A person is called once a stop.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db.models import F

from oncoflow_site.foundation import events, jobs
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EndpointError, TransientError, safe_error_text
from oncoflow_site.foundation.models import ENDPOINT_MACHINE, Delivery, EndpointState, EndpointStatus

__all__ = ["ENDPOINT_RESUMED", "ENDPOINT_STOPPED", "admit", "note_answer", "note_failure", "probe_soon", "stopped"]

ENDPOINT_STOPPED: Final = events.declare_event("endpoint.stopped", "nothing can be delivered to an endpoint")
ENDPOINT_RESUMED: Final = events.declare_event("endpoint.resumed", "an endpoint that was stopped answers again")

_FAILURES_IN_A_ROW: Final = 5
_PROBES_BEFORE_ALARM: Final = 5  # about a minute
_PROBE_LEASE: Final = timedelta(minutes=6)  # longer than an attempt may take


def stopped() -> dict[str, EndpointStatus]:
    """Endpoints that are not up, by name."""
    return {row.endpoint: row for row in EndpointStatus.objects.exclude(state=EndpointState.UP)}


def admit(endpoint: str) -> bool:
    """Whether a delivery may go now. To a stopped endpoint one may, as its probe, once that is due. In a transaction."""
    row = EndpointStatus.objects.filter(endpoint=endpoint).first()
    if row is None or row.state == EndpointState.UP:
        return True
    due = EndpointStatus.objects.filter(pk=row.pk, next_probe_at__lte=now())
    return bool(ENDPOINT_MACHINE.apply(due, "probe", next_probe_at=now() + _PROBE_LEASE))


def probe_soon(endpoint: str) -> bool:
    """Let the next delivery to a stopped endpoint go as its probe at once; False where it is not stopped."""
    rows = EndpointStatus.objects.filter(endpoint=endpoint).exclude(state=EndpointState.UP)
    return bool(rows.update(next_probe_at=now()))


def note_answer(endpoint: str) -> bool:
    """The peer answered. True where this ends a stop: the caller wakes what waited. In a transaction."""
    rows = EndpointStatus.objects.filter(endpoint=endpoint)
    if ENDPOINT_MACHINE.apply(rows, "resume", failures=0, last_failed=None, probes=0, alarmed=False):
        events.emit(ENDPOINT_RESUMED, subject=f"endpoint:{endpoint}")
        return True
    rows.filter(failures__gt=0).update(failures=0, last_failed=None)
    return False


def note_failure(delivery: Delivery, error: Exception) -> bool:
    """An attempt failed without a final answer. True where the endpoint is stopped now, or was. In a transaction."""
    row, _ = EndpointStatus.objects.get_or_create(endpoint=delivery.endpoint)
    rows = EndpointStatus.objects.filter(pk=row.pk)
    if row.state == EndpointState.UP and not isinstance(error, EndpointError):
        # One delivery that fails again and again says something about itself; several in a row about the endpoint.
        rows.exclude(last_failed=delivery.pk).update(failures=F("failures") + 1, last_failed=delivery.pk)
        row.refresh_from_db()
        if row.failures < _FAILURES_IN_A_ROW:
            return False
    probing = row.state == EndpointState.PROBING
    probes = row.probes + 1 if probing else 0
    wait = jobs.backoff(probes + 1)
    if isinstance(error, TransientError) and error.retry_after is not None:
        wait = max(wait, timedelta(seconds=min(error.retry_after, 86_400.0)))
    fields = {
        "reason": safe_error_text(error),
        "code": str(getattr(error, "code", ""))[:50],
        "probes": probes,
        "next_probe_at": now() + wait,
        "stopped_at": row.stopped_at if probing and row.stopped_at else now(),
    }
    if ENDPOINT_MACHINE.apply(rows, "stop", **fields):
        lasting = not getattr(error, "passing", True) or probes >= _PROBES_BEFORE_ALARM
        if getattr(error, "alarm", True) and lasting and rows.filter(alarmed=False).update(alarmed=True):
            text = f"{delivery.endpoint} {fields['code']}".strip()
            events.emit(ENDPOINT_STOPPED, subject=f"endpoint:{delivery.endpoint}", code=text[:60])
    return True
