"""The outbox: everything that leaves the house, kept until it has arrived.

A delivery is a row (and an encrypted payload) made in the transaction of what it tells. Deliveries of one (endpoint,
subject) form a lane: a later one never overtakes an earlier one, so one that was refused (``failed``) or gave up
(``dead``) holds its lane until a person sends it again or abandons it. Lanes do not wait for each other. While the way
to an endpoint is at fault (`oncoflow_site.foundation.endpoints`) its deliveries wait, which costs them no attempts.

A peer may get the same delivery twice (we can be killed after it answered and before we wrote it down); its
``idempotency_key`` is the same then, and the transport passes it on in its protocol's own way.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, Max, OuterRef, QuerySet

from oncoflow_site.foundation import endpoints, events, failpoints, jobs, objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import (
    EndpointError,
    IllegalMove,
    PermanentError,
    TransientError,
    UserVisibleError,
    safe_error_text,
)
from oncoflow_site.foundation.models import (
    DELIVERY_MACHINE,
    Delivery,
    DeliveryAttempt,
    DeliveryState,
    Job,
    JobState,
    StoredObject,
)
from oncoflow_site.foundation.request_id import current_request_id

__all__ = [
    "DELIVERY_DEAD",
    "DELIVERY_DONE",
    "DeliveryResult",
    "abandon",
    "enqueue_delivery",
    "register_transport",
    "resend",
    "resume_endpoint",
    "revive",
    "transports",
    "write_payload",
]

logger = logging.getLogger(__name__)

DELIVERY_DONE: Final = events.declare_event("delivery.done", "an endpoint has taken a delivery")
DELIVERY_DEAD: Final = events.declare_event("delivery.dead", "a delivery was refused or gave up; a person must look")

_SETTLED = DELIVERY_MACHINE.terminal
_WAKE_AT_ONCE: Final = 200


@dataclass(frozen=True)
class DeliveryResult:
    """The endpoint has taken it.

    :param response_code: e.g. ``"201"`` or ``"AA"``.
    """

    response_code: str = ""


Transport = Callable[[Delivery, bytes], DeliveryResult]

_transports: dict[str, Transport] = {}


def register_transport(name: str, send: Transport) -> None:
    """Make ``send(delivery, payload)`` the way of transport ``name``.

    It returns when the endpoint has taken the payload, raises `TransientError` to try again, `EndpointError` when the way
    to the endpoint is at fault and `PermanentError` when the endpoint refuses it for good, with the peer's answer code.
    Its texts name no patient. Keep it under five minutes.
    """
    _transports[name] = send


def transports() -> tuple[str, ...]:
    """Names of the registered transports."""
    return tuple(sorted(_transports))


def write_payload(payload: bytes, *, patient_subject: str) -> StoredObject:
    """Write what is to be sent, encrypted under the patient's data key; outside any transaction."""
    return objects.write(payload, subject=patient_subject, kind="delivery")


def enqueue_delivery(
    *,
    endpoint: str,
    transport: str,
    subject: str,
    key: str,
    payload: StoredObject,
    headers: Mapping[str, Any] | None = None,
) -> Delivery:
    """Put ``payload`` into the outbox in the caller's transaction; the row that has ``key`` already is returned as it
    is, and the payload is not kept.

    :param subject: what the delivery is about, e.g. ``"report:<uuid>"``: order is kept per endpoint and subject.
    :param key: idempotency key, unique for ever.
    :param payload: what `write_payload` has written before the transaction.
    :param headers: for the transport, plain JSON, free of identity.
    """
    known = Delivery.objects.filter(idempotency_key=key).first()
    if known is not None:
        return known
    with transaction.atomic():
        for attempt in range(20):
            last = Delivery.objects.filter(endpoint=endpoint, subject=subject).aggregate(last=Max("sequence"))["last"]
            try:
                with transaction.atomic():
                    objects.keep(payload)
                    delivery = Delivery.objects.create(
                        endpoint=endpoint,
                        transport=transport,
                        subject=subject,
                        sequence=(last or 0) + 1,
                        idempotency_key=key,
                        payload_object=payload,
                        headers=dict(headers or {}),
                        request_id=current_request_id(),
                    )
                break
            except IntegrityError:
                # Somebody else took the key, or the number in the lane.
                known = Delivery.objects.filter(idempotency_key=key).first()
                if known is not None:
                    return known
                if attempt == 19:
                    raise
        _wake(delivery)
    return delivery


def _wake(delivery: Delivery) -> None:
    """Create the job that attempts ``delivery`` when it is due. The caller holds a transaction."""
    number = delivery.wakeups + 1
    if Delivery.objects.filter(pk=delivery.pk, wakeups=delivery.wakeups).update(wakeups=number):
        delivery.wakeups = number
        jobs.enqueue(
            "foundation.deliver",
            subject=delivery.subject,
            key=f"delivery:{delivery.pk}:{number}",
            kwargs={"delivery_id": delivery.pk},
            run_after=delivery.next_attempt_at,
        )


def _ahead(delivery: Delivery) -> bool:
    lane = Delivery.objects.filter(endpoint=delivery.endpoint, subject=delivery.subject)
    return lane.filter(sequence__lt=delivery.sequence).exclude(state__in=_SETTLED).exists()


def _row(delivery: Delivery) -> QuerySet[Delivery]:
    return Delivery.objects.filter(pk=delivery.pk)


def _wake_next(delivery: Delivery) -> None:
    lane = Delivery.objects.filter(endpoint=delivery.endpoint, subject=delivery.subject)
    follower = lane.filter(sequence__gt=delivery.sequence).exclude(state__in=_SETTLED).order_by("sequence").first()
    if follower is not None and follower.state == DeliveryState.WAITING:
        _wake(follower)


@jobs.job("foundation.deliver", queue="delivery", max_attempts=5, lease_s=60, progress_deadline_s=360)
def deliver(ctx: jobs.JobContext, *, delivery_id: str) -> None:
    """One attempt at one delivery. Before: waiting or sending. After: delivered, waiting for its next time, failed,
    dead.

    Returns without sending when the delivery is settled, not due, something in its lane is ahead of it, or its endpoint is
    stopped: whatever changes that makes a new job for this.
    """
    delivery = Delivery.objects.get(pk=delivery_id)
    if delivery.state not in DELIVERY_MACHINE.sources("send") or delivery.next_attempt_at > now() or _ahead(delivery):
        return
    send = _transports.get(delivery.transport)
    with ctx.commit():
        if _ahead(delivery) or not DELIVERY_MACHINE.apply(_row(delivery), "send", attempts=delivery.attempts + 1):
            return
        if not endpoints.admit(delivery.endpoint):
            DELIVERY_MACHINE.apply(_row(delivery), "postpone", attempts=delivery.attempts)
            return
    delivery.refresh_from_db()
    try:
        if send is None:
            raise PermanentError(f"there is no transport {delivery.transport!r}")
        payload = objects.get(delivery.payload_object) if delivery.payload_object else b""
        failpoints.hit("outbox.before_send")
        result = send(delivery, payload)
        failpoints.hit("outbox.after_send")
    except Exception as error:
        logger.warning("delivery %s to %s: %s", delivery.id, delivery.endpoint, safe_error_text(error))
        _settle_failure(ctx, delivery, error)
        return
    with ctx.commit(done=True):
        code = result.response_code[:50]
        if DELIVERY_MACHINE.apply(_row(delivery), "accept", delivered_at=now(), last_error="", response_code=code):
            _keep_history(delivery, DeliveryState.DELIVERED, code)
            events.emit(DELIVERY_DONE, subject=delivery.subject, delivery_id=delivery.id)
            _wake_next(delivery)
        resume_endpoint(delivery.endpoint)


def _keep_history(delivery: Delivery, outcome: str, code: str, error: str = "") -> None:
    DeliveryAttempt.objects.create(delivery=delivery, outcome=outcome, response_code=code, error=error)


def _settle_failure(ctx: jobs.JobContext, delivery: Delivery, error: Exception) -> None:
    text, code = safe_error_text(error), str(getattr(error, "code", ""))[:50]
    limit = int(getattr(settings, "ONCOFLOW_DELIVERY_MAX_ATTEMPTS", 200))
    final = isinstance(error, (PermanentError, UserVisibleError))
    with ctx.commit(done=True):
        fields = {"last_error": text, "response_code": code}
        if final and code:
            resume_endpoint(delivery.endpoint)  # it is there, and has said no to this one
            stopped = False
        else:
            stopped = endpoints.note_failure(delivery, error) if not final else _not_asked(delivery, error)
        ended = 0
        if final:
            ended = DELIVERY_MACHINE.apply(_row(delivery), "refuse", **fields)
        elif isinstance(error, EndpointError):
            # It keeps its place: it was not its fault.
            DELIVERY_MACHINE.apply(_row(delivery), "postpone", attempts=delivery.attempts - 1, **fields)
        elif delivery.attempts >= limit:
            ended = DELIVERY_MACHINE.apply(_row(delivery), "exhaust", **fields)
        else:
            wait = jobs.backoff(delivery.attempts)
            if isinstance(error, TransientError) and error.retry_after is not None:
                wait = max(wait, timedelta(seconds=min(error.retry_after, 86_400.0)))
            if DELIVERY_MACHINE.apply(_row(delivery), "postpone", next_attempt_at=now() + wait, **fields):
                delivery.refresh_from_db()
                if not stopped:
                    _wake(delivery)
        delivery.refresh_from_db()
        _keep_history(delivery, delivery.state, code, text)
        if ended:
            events.emit(DELIVERY_DEAD, subject=delivery.subject, delivery_id=delivery.id)


def _not_asked(delivery: Delivery, error: Exception) -> bool:
    """A delivery failed here, before the peer was asked: as a probe it found nothing out."""
    return delivery.endpoint in endpoints.stopped() and endpoints.note_failure(delivery, error)


def _heads(rows: QuerySet[Delivery]) -> QuerySet[Delivery]:
    """Those of ``rows`` that nothing in their lane is ahead of."""
    ahead = Delivery.objects.filter(
        endpoint=OuterRef("endpoint"), subject=OuterRef("subject"), sequence__lt=OuterRef("sequence")
    )
    return rows.filter(~Exists(ahead.exclude(state__in=_SETTLED)))


def resume_endpoint(endpoint: str) -> bool:
    """The endpoint answers (again): end its stop and wake what waited, oldest first; `revive` wakes what is left of many.

    False where it was not stopped. In a transaction.
    """
    if not endpoints.note_answer(endpoint):
        return False
    due = Delivery.objects.filter(endpoint=endpoint, state=DeliveryState.WAITING, next_attempt_at__lte=now())
    for row in _heads(due).order_by("created_at", "id")[:_WAKE_AT_ONCE]:
        _wake(row)
    return True


def resend(delivery: Delivery | uuid.UUID | str) -> Delivery:
    """Send a failed or dead delivery again, with its attempts counted anew. :raises IllegalMove: it is neither."""
    with transaction.atomic():
        row = _get(delivery)
        if not DELIVERY_MACHINE.apply(_row(row), "resend", attempts=0, next_attempt_at=now()):
            raise IllegalMove(f"a delivery that is {row.state} cannot be sent again")
        row.refresh_from_db()
        _wake(row)
    return row


def abandon(delivery: Delivery | uuid.UUID | str) -> Delivery:
    """Give a waiting, failed or dead delivery up, so that its lane goes on.

    For ever. :raises IllegalMove: it is neither.
    """
    with transaction.atomic():
        row = _get(delivery)
        if not DELIVERY_MACHINE.apply(_row(row), "abandon"):
            raise IllegalMove(f"a delivery that is {row.state} cannot be abandoned")
        row.refresh_from_db()
        _wake_next(row)
    return row


def _get(delivery: Delivery | uuid.UUID | str) -> Delivery:
    return Delivery.objects.get(pk=delivery.pk if isinstance(delivery, Delivery) else delivery)


def revive(patience: timedelta = timedelta(seconds=30)) -> int:
    """Make a job for each delivery that is due, heads its lane and has none: its job died, or two transactions crossed. Of a
    stopped endpoint only the one that is its next probe, when that is due.

    The worker of queue ``delivery`` calls this every few seconds. Returns how many.
    """
    stopped = endpoints.stopped()
    open_states = Delivery.objects.filter(state__in=(DeliveryState.WAITING, DeliveryState.SENDING))
    late = open_states.filter(next_attempt_at__lte=now() - patience).exclude(endpoint__in=list(stopped))
    due = list(_heads(late).order_by("next_attempt_at", "created_at")[:_WAKE_AT_ONCE])
    for name, status in stopped.items():
        if status.next_probe_at <= now():
            waiting = open_states.filter(endpoint=name, next_attempt_at__lte=now())
            due += _heads(waiting).order_by("next_attempt_at", "created_at")[:1]
    count = 0
    for row in due:
        alive = Job.objects.filter(
            idempotency_key=f"delivery:{row.pk}:{row.wakeups}", state__in=(JobState.WAITING, JobState.RUNNING)
        )
        if alive.exists():
            continue
        with transaction.atomic():
            _wake(row)
        count += 1
    return count
