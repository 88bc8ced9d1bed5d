"""The one clock of the service, the zone of its site, and how exactly a date was given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timezone
from enum import StrEnum
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils import timezone as django_timezone

__all__ = ["DatedMoment", "Precision", "local", "now", "offset_name", "site_zone"]


def now() -> datetime:
    """Current time, aware, UTC. Hosts that share a database must keep their clocks together (NTP)."""
    return django_timezone.now()


def site_zone() -> ZoneInfo:
    """The time zone of the hospital (ONCOFLOW_TIME_ZONE): what a time without an offset means, and what people are shown."""
    return ZoneInfo(str(settings.TIME_ZONE or "UTC"))


def local(moment: datetime) -> datetime:
    """The same moment with the site's offset of that day, so that its day is the day on which it was there."""
    return moment.astimezone(site_zone())


def offset_name(moment: datetime) -> str:
    """``UTC+09:00``, ``UTC`` for none: a zone's abbreviation (CST, IST) would name several."""
    return timezone(moment.utcoffset() or UTC.utcoffset(None)).tzname(None)


class Precision(StrEnum):
    """How exactly a date was given (FHIR dateTime, HL7 DTM): a day is not midnight, a year is not its first of January."""

    YEAR = "year"
    MONTH = "month"
    DAY = "day"
    TIME = "time"


@dataclass(frozen=True)
class DatedMoment:
    """A date as given. ``moment`` is aware: the first instant, in the site's zone, of a date without a time."""

    moment: datetime
    precision: Precision = Precision.TIME

    @classmethod
    def of_parts(cls, year: int, month: int | None = None, day: int | None = None) -> DatedMoment:
        """A date without a time. :raises ValueError: there is no such date, or it lies at the edge of the calendar."""
        precision = Precision.DAY if day else Precision.MONTH if month else Precision.YEAR
        moment = datetime(year, month or 1, day or 1, tzinfo=site_zone())
        try:
            moment.astimezone(UTC)
        except OverflowError:
            raise ValueError("outside the calendar") from None
        return cls(moment, precision)

    @property
    def text(self) -> str:
        """For people: ``2026``, ``May 2026``, ``21 May 2026`` (the site's day)."""
        shown = local(self.moment)
        if self.precision == Precision.YEAR:
            return f"{shown:%Y}"
        return f"{shown:%B %Y}" if self.precision == Precision.MONTH else f"{shown.day} {shown:%B %Y}"

    def isoformat(self) -> str:
        """As FHIR writes it: no more of it than was given, an offset where there is a time."""
        shown = local(self.moment)
        return {
            Precision.YEAR: f"{shown:%Y}",
            Precision.MONTH: f"{shown:%Y-%m}",
            Precision.DAY: f"{shown:%Y-%m-%d}",
        }.get(self.precision, shown.isoformat())
