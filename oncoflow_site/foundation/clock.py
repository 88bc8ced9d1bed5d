"""The one clock of the service."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone

__all__ = ["now"]


def now() -> datetime:
    """Current time, aware, UTC. Hosts that share a database must keep their clocks together (NTP)."""
    return timezone.now()
