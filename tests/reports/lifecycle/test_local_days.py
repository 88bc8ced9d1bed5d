"""The signed report says the day on which the examination was, where it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from reports.services import load_content, load_pdf
from tests.factories.reports import draft, release, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def test_a_morning_in_tokyo_is_not_the_day_before(
    settings: Any, make_study: Any, make_measurement: Any, signing: Any
) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    version = release(draft(make_measurement(make_study(performed_at=datetime(2026, 10, 18, 22, 30, tzinfo=UTC)))))
    assert load_content(version).study.performed_at.isoformat() == "2026-10-19T07:30:00+09:00"
    text = text_of(load_pdf(version))
    assert "19 October 2026, 07:30" in text
    assert "UTC+09:00" in text
    assert "18 October" not in text


def test_a_day_without_a_time_stays_a_day(make_study: Any, make_measurement: Any, signing: Any) -> None:
    noon = datetime(2026, 10, 19, 12, tzinfo=UTC)
    version = release(draft(make_measurement(make_study(performed_at=noon, performed_on_day=True))))
    text = text_of(load_pdf(version))
    assert "19 October 2026" in text
    assert "12:00" not in text
