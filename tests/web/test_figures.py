"""Numbers, words and the plot on the pages, and which steps of a study are told."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from clinical.models import User
from oncoflow_site.api.steps import current_steps
from oncoflow_site.foundation.models import Job
from oncoflow_site.web.plot import Point, volume_plot
from oncoflow_site.web.templatetags import figures


@pytest.mark.parametrize("empty", [None, ""])
def test_what_was_not_assessed_says_so(empty: Any) -> None:
    for shown in (figures.ml, figures.mm, figures.percent, figures.dice, figures.seconds, figures.response):
        assert shown(empty) == "not assessed"


def test_numbers_carry_their_unit_and_are_rounded_as_in_the_report() -> None:
    assert figures.ml(15200.4) == "15.2\u00a0ml"
    assert figures.ml(1520.4) == "1.52\u00a0ml"
    assert figures.mm(0.0) == "0\u00a0mm"
    assert figures.percent(-22.58) == "−23\u00a0%"
    assert figures.percent(3) == "+3.0\u00a0%"
    assert figures.dice(0.967) == "0.96"
    assert figures.response("SD") == "SD (stable disease)"
    assert figures.response("not assessed") == "not assessed"


def test_words() -> None:
    assert figures.reasons("agreement 0.348; lowest in ET\nThe mask is doubtful.\n ") == [
        "Agreement 0.348; lowest in ET.",
        "The mask is doubtful.",
    ]
    assert figures.badge("<b>") == '<span class="badge ">&lt;b&gt;</span>'
    assert figures.badge("held", "held for a radiologist") == '<span class="badge warn">held for a radiologist</span>'
    assert figures.sex("F") == "female"
    assert figures.sex("") == "sex not known"


def test_the_plot_has_every_point_and_dates_that_do_not_overlap() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    points = [Point(begin + timedelta(days=7 * n), {"WT": 60e3 + n, "TC": None, "ET": 10e3}) for n in range(20)]
    svg = volume_plot(points)
    assert svg.count("<circle") == 20 + 1  # and one in the legend
    assert svg.count("<rect") == 20 + 2
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">', svg)]
    assert 2 <= len(places) < 20
    assert min(b - a for a, b in itertools.pairwise(places)) > 90
    assert "14 May 2026" in svg  # the newest is always dated
    assert volume_plot([Point(begin, {"WT": None, "TC": None, "ET": None})]) == ""


def make_job(study: Any, kind: str, state: str, number: int) -> Job:
    return Job.objects.create(
        kind=kind, queue="default", subject=study.subject, idempotency_key=f"step-{number}", state=state,
        created_at=timezone.now() + timedelta(seconds=number),
    )  # fmt: skip


def test_a_study_that_is_done_waits_for_nothing(make_study: Any) -> None:
    study = make_study()
    told = (
        ("imaging.complete_study", "done"),
        ("imaging.prepare_study", "done"),
        ("inference.run_expert", "failed"),
        ("imaging.complete_study", "done"),
        ("imaging.prepare_study", "done"),  # an image came late: what went before does not count any more
        ("inference.run_expert", "done"),
        ("inference.run_expert", "done"),
        ("inference.conclude_panel", "waiting"),  # stands guard until the deadline
        ("inference.conclude_panel", "done"),
    )
    for number, (kind, state) in enumerate(told):
        make_job(study, kind, state, number)
    assert [(step.kind.split(".")[1], step.state) for step in current_steps(study)] == [
        ("complete_study", "done"), ("prepare_study", "done"), ("run_expert", "done"), ("run_expert", "done"),
        ("conclude_panel", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("band", "kind", "said"),
    [
        ("manual", "consensus", "Do not rely on these numbers"),
        ("hold", "consensus", "These numbers are held"),
        ("manual", "person", ""),
        ("issue", "consensus", ""),
    ],
)
def test_doubtful_numbers_say_so(
    band: str, kind: str, said: str, make_study: Any, make_measurement: Any, radiologist: User, client_of: Any
) -> None:
    study = make_study()
    make_measurement(study, band=band, kind=kind)
    page = client_of(radiologist).get(f"/studies/{study.pk}/").text
    assert (said in page) if said else ("Do not rely" not in page and "are held" not in page)
