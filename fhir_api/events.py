"""Facts the doors record. ``delivery.*`` and ``job.failed`` are the foundation's."""

from __future__ import annotations

__all__: list[str] = []
