"""Through which door files come in, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from imaging.models import Study, StudySource

__all__ = ["Door", "Ingested"]


@dataclass
class Ingested:
    """What came of it.

    :ivar studies: studies that were filed or found, in order.
    :ivar counts: stored, duplicate, quarantined, refused, ignored.
    :ivar notes: sentences to show; file names are shown as given by the person, nothing from inside files.
    """

    studies: list[Study] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("stored", "duplicate", "quarantined", "refused", "ignored"), 0)
    )
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Door:
    """Through which door files come in.

    :param source: what the study keeps as its source.
    :param peer: who brought it, at most 64 characters, no identity.
    :param audit_source: how the audit record calls the door.
    :param complete: these files are all there is of their studies: no quiet period.
    :param since: when an attempt before this one, which was killed, began: what it stored is no duplicate.
    """

    source: StudySource = StudySource.INGEST
    peer: str = "ingest"
    audit_source: str = "command"
    complete: bool = True
    since: datetime | None = None
