"""How the endpoints stand: state, depth and age of what waits, and a test that sends no report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import Count, Min, Q

from audit.services import Actor, record
from fhir_api.delivery.deliver import never_delivered
from fhir_api.delivery.transports import check_endpoint
from fhir_api.models import Endpoint
from oncoflow_site.foundation import endpoints, events, outbox
from oncoflow_site.foundation.errors import PermanentError, TransientError
from oncoflow_site.foundation.models import Delivery, DeliveryState, EndpointState, EndpointStatus

__all__ = ["EndpointStanding", "endpoint_standings", "host_of", "moved", "try_endpoint"]

ENDPOINT_MOVED: Final = events.declare_event("endpoint.moved", "reports go to another address than before")


def host_of(address: str) -> str:
    """Scheme, host and port of a URL, or host:port: what may stand in an audit row."""
    url = urlsplit(address)
    host = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{host}" if host else address.strip()


def moved(endpoint: Endpoint, old_address: str) -> dict[str, str | bool]:
    """An endpoint's address was changed and saved. Another host gets no credential that was made for the one before, and
    compliance is told. In a transaction. Returns what goes on record; empty where the host is the same."""
    old, new = host_of(old_address), host_of(endpoint.address)
    if old == new:
        return {}
    dropped = bool(endpoint.credential)
    if dropped:
        endpoint.credential = None
        endpoint.save(update_fields=["credential"])
    events.emit(ENDPOINT_MOVED, subject=f"endpoint:{endpoint.name}", code=endpoint.name[:60])
    return {"old_host": old, "new_host": new, "credential_dropped": dropped}


@dataclass(frozen=True)
class EndpointStanding:
    """One endpoint as an administrator sees it.

    :param state: up, stopped, probing or off. :param reason: what stopped it, and when.
    :param waiting: deliveries that wait; ``oldest`` is when the first of them was made. :param refused: failed or dead.
    :param never: issued versions that it was never offered.
    """

    endpoint: Endpoint
    state: str
    reason: str
    stopped_at: datetime | None
    next_probe_at: datetime | None
    waiting: int
    oldest: datetime | None
    refused: int
    never: int


def endpoint_standings() -> list[EndpointStanding]:
    """Every endpoint, by name."""
    statuses = {row.endpoint: row for row in EndpointStatus.objects.all()}
    queued = Q(state__in=(DeliveryState.WAITING, DeliveryState.SENDING))
    depths = {
        row["endpoint"]: row
        for row in Delivery.objects.values("endpoint")
        .order_by("endpoint")
        .annotate(
            waiting=Count("id", filter=queued),
            oldest=Min("created_at", filter=queued),
            refused=Count("id", filter=Q(state__in=(DeliveryState.FAILED, DeliveryState.DEAD))),
        )
    }
    standings = []
    for endpoint in Endpoint.objects.order_by("name"):
        status, depth = statuses.get(endpoint.name), depths.get(endpoint.name)
        broken = status is not None and status.state != EndpointState.UP
        standings.append(
            EndpointStanding(
                endpoint=endpoint,
                state=(status.state if status and broken else "up") if endpoint.active else "off",
                reason=status.reason if status and broken else "",
                stopped_at=status.stopped_at if status and broken else None,
                next_probe_at=status.next_probe_at if status and broken else None,
                waiting=depth["waiting"] if depth else 0,
                oldest=depth["oldest"] if depth else None,
                refused=depth["refused"] if depth else 0,
                never=never_delivered(endpoint).count(),
            )
        )
    return standings


def try_endpoint(endpoint: Endpoint, *, actor: Actor, source: str) -> str:
    """Ask the endpoint whether it is there and lets us in; where it is, what waits goes on at once. On the record.

    Returns what is wrong, empty where nothing is. No report is sent by the test itself.
    """
    problem = ""
    try:
        check_endpoint(endpoint)
    except (TransientError, PermanentError) as error:
        problem = str(error)
    with transaction.atomic():
        record(
            "endpoint.test",
            action="E",
            resource=f"endpoint:{endpoint.pk}",
            actor=actor,
            source=source,
            outcome=4 if problem else 0,
            detail={"endpoint": endpoint.name},
        )
        if not problem and endpoint.active:
            # The next delivery is the proof: an endpoint may be there and still not let reports in.
            endpoints.probe_soon(endpoint.name)
    if not problem and endpoint.active:
        outbox.revive()
    return problem
