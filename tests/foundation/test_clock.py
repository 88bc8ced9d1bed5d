"""Days, zones, and how exactly a date was given."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fhir_api.hl7v2.oru import performed_at, timestamp
from fhir_api.r4.server.inbound import _dated
from oncoflow_site.foundation.clock import DatedMoment, Precision, local, offset_name
from oncoflow_site.foundation.figures import date_text, moment_text
from tests.factories.outgoing_reports import facts


def test_a_day_is_the_day_on_which_it_was_at_the_site(settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    early = datetime(2026, 10, 18, 22, 30, tzinfo=UTC)  # 07:30 on the 19th in Tokyo
    assert date_text(local(early)) == "19 October 2026"
    assert moment_text(local(early)) == "19 October 2026, 07:30 UTC+09:00"
    assert offset_name(early) == "UTC"
    settings.TIME_ZONE = "America/New_York"
    assert local(early).isoformat() == "2026-10-18T18:30:00-04:00"
    assert local(datetime(2026, 12, 1, 2, tzinfo=UTC)).isoformat() == "2026-11-30T21:00:00-05:00"  # winter's offset


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "UTC", "Asia/Tokyo", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    ("sent", "precision", "text"),
    [
        ("2026", Precision.YEAR, "2026"),
        ("2026-05", Precision.MONTH, "May 2026"),
        ("2026-05-01", Precision.DAY, "1 May 2026"),
    ],
)
def test_a_partial_date_stays_what_it_was_everywhere(settings, zone, sent, precision, text):
    settings.TIME_ZONE = zone
    dated = _dated(sent)
    assert dated is not None
    assert (dated.precision, dated.text, dated.isoformat()) == (precision, text, sent)
    # as the database gives it back: the same instant, in UTC
    stored = DatedMoment(dated.moment.astimezone(UTC), dated.precision)
    assert (stored.text, stored.isoformat()) == (text, sent)


@pytest.mark.parametrize(
    "sent",
    ["", "2026-13", "2026-02-30", "05/01/2026", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-05-01T10:00:00",
     "0001", None, 2026],
)  # fmt: skip
def test_what_is_no_date_is_none(settings, sent):
    settings.TIME_ZONE = "Asia/Tokyo"
    assert _dated(sent) is None


def test_a_time_keeps_its_moment():
    dated = _dated("2026-05-01T23:30:00-05:00")
    assert dated is not None
    assert dated.precision == Precision.TIME
    assert dated.moment.astimezone(UTC) == datetime(2026, 5, 2, 4, 30, tzinfo=UTC)


def test_hl7_carries_the_sites_time_with_its_offset(settings):
    settings.TIME_ZONE = "America/New_York"
    assert timestamp(datetime(2026, 7, 1, 3, 0, 5, tzinfo=UTC)) == "20260630230005-0400"


def test_a_study_of_a_day_has_no_time_in_hl7_and_fhir(settings):
    settings.TIME_ZONE = "UTC"
    told = facts(performed_at=datetime(2026, 3, 1, 12, tzinfo=UTC), performed_on_day=True)
    assert performed_at(told) == "20260301"
    assert told.performed.isoformat() == "2026-03-01"
