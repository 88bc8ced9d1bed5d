"""How long stored objects are kept, by kind. Nothing is removed unless `settings.ONCOFLOW_RETENTION` says so for its kind.

What is removed are the bytes: the row stays, with size and SHA-256, so that what pointed at it can still say what it was.
This module knows kinds only as words. Rooms say what may not go (`protect`) and may define a kind of their own as a
choice among objects (`define`). Beside these a legal hold on a subject (``patient:<id>``) keeps everything of it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.models import Delivery, DeliveryState, LegalHold, StoredObject
from oncoflow_site.foundation.signals import object_removed

__all__ = ["Line", "apply", "define", "hold", "kept_because", "protect", "release"]

Protector = Callable[[Sequence[StoredObject]], Mapping[uuid.UUID, str]]

_BATCH = 200
_protectors: dict[str, Protector] = {}
_kinds: dict[str, Callable[[], QuerySet[StoredObject]]] = {}


@dataclass
class Line:
    """What the policy does to one kind.

    :ivar kept: reason -> how many are old enough and stay all the same.
    """

    kind: str
    days: int
    removed: int = 0
    size: int = 0
    kept: Counter[str] = field(default_factory=Counter)


def protect(name: str, protector: Protector) -> None:
    """Have ``protector`` asked before anything goes: it returns a reason for every object that must stay."""
    _protectors[name] = protector


def define(kind: str, choose: Callable[[], QuerySet[StoredObject]]) -> None:
    """Let ``kind`` in the setting mean what ``choose`` returns, instead of the objects whose kind it is."""
    _kinds[kind] = choose


def hold(subject: str, reason: str, by: str) -> LegalHold:
    """Keep everything of ``subject`` until `release`. :raises ValueError: no reason."""
    if not reason.strip() or ":" not in subject:
        raise ValueError("a legal hold needs a subject, e.g. patient:ID, and a reason")
    return LegalHold.objects.get_or_create(subject=subject, defaults={"reason": reason.strip()[:300], "placed_by": by})[
        0
    ]


def release(subject: str) -> bool:
    """End a legal hold; False where there was none."""
    return bool(LegalHold.objects.filter(subject=subject).delete()[0])


def kept_because(rows: Sequence[StoredObject]) -> dict[uuid.UUID, str]:
    """For each of the objects that must stay, why."""
    held = set(LegalHold.objects.filter(subject__in={row.subject for row in rows}).values_list("subject", flat=True))
    reasons = {row.pk: "a legal hold is on it" for row in rows if row.subject in held}
    open_states = [state for state in DeliveryState.values if state not in ("delivered", "abandoned")]
    waiting = Delivery.objects.filter(payload_object__in=[row.pk for row in rows], state__in=open_states)
    reasons |= dict.fromkeys(waiting.values_list("payload_object_id", flat=True), "it is still to be delivered")
    for protector in _protectors.values():
        for key, reason in protector(rows).items():
            reasons.setdefault(key, reason)
    return reasons


def _due(kind: str, days: int) -> QuerySet[StoredObject]:
    rows = _kinds[kind]() if kind in _kinds else StoredObject.objects.filter(kind=kind)
    return rows.filter(created_at__lt=now() - timedelta(days=days), removed_at__isnull=True).order_by("pk")


def apply(*, dry_run: bool = False, policy: Mapping[str, int] | None = None) -> list[Line]:
    """Remove what is older than its kind is kept for. Safe to repeat, and to run in several processes.

    :param policy: kind -> days; default: the setting. A kind that is not in it is kept.
    """
    lines = []
    for kind, days in (settings.ONCOFLOW_RETENTION if policy is None else policy).items():
        line = Line(kind, days)
        last: uuid.UUID | None = None
        while True:
            rows = _due(kind, days)
            batch = list((rows.filter(pk__gt=last) if last else rows)[:_BATCH])
            if not batch:
                break
            last = batch[-1].pk
            _batch(line, batch, dry_run)
        lines.append(line)
    return lines


def _batch(line: Line, batch: Iterable[StoredObject], dry_run: bool) -> None:
    with transaction.atomic():
        # Looked at under a lock: a second process must not remove, and record, the same once more.
        rows = list(
            StoredObject.objects.select_for_update().filter(pk__in=[one.pk for one in batch], removed_at__isnull=True)
        )
        reasons = kept_because(rows)
        for row in rows:
            if row.pk in reasons:
                line.kept[reasons[row.pk]] += 1
                continue
            line.removed += 1
            line.size += row.size
            if not dry_run:
                objects.remove(row)
                object_removed.send(sender=StoredObject, row=row, kind=line.kind, days=line.days)


def janitor() -> int:
    """`apply` for the workers' rounds."""
    return sum(line.removed for line in apply())
