"""From an issued report version to the outbox."""

from __future__ import annotations

from oncoflow_site.foundation.jobs import JobContext

__all__ = ["deliver"]


def deliver(ctx: JobContext, *, version_id: str) -> None:
    """Enqueue."""
