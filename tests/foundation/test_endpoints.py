"""The way to an endpoint: stopped apart from its deliveries, probed, resumed in order, one alarm a stop."""

from __future__ import annotations

from datetime import timedelta

import pytest

from oncoflow_site.foundation import jobs, outbox
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EndpointError, IllegalMove, PermanentError, TransientError
from oncoflow_site.foundation.models import (
    ENDPOINT_MACHINE,
    Delivery,
    DeliveryState,
    EndpointStatus,
    Event,
    Job,
)
from tests.factories.outbox_peer import Peer, put, run_due, state

pytestmark = pytest.mark.django_db

ENDPOINT = {
    "stop": {"up": "stopped", "probing": "stopped"},
    "probe": {"stopped": "probing", "probing": "probing"},
    "resume": {"stopped": "up", "probing": "up"},
}


@pytest.mark.parametrize(("state", "event"), list(ENDPOINT_MACHINE.pairs()))
def test_every_pair(state: str, event: str) -> None:
    target = ENDPOINT[event].get(state)
    if target is None:
        with pytest.raises(IllegalMove):
            ENDPOINT_MACHINE.next(state, event)
    else:
        assert ENDPOINT_MACHINE.next(state, event) == target


def status(endpoint: str = "emr") -> EndpointStatus:
    return EndpointStatus.objects.get(endpoint=endpoint)


def probe() -> None:
    """The time of the next probe has come."""
    EndpointStatus.objects.update(next_probe_at=now() - timedelta(seconds=1))
    outbox.revive(timedelta(0))
    jobs.run_pending("delivery")


def alarms() -> int:
    return Event.objects.filter(kind="endpoint.stopped").count()


def test_not_let_in_stops_the_endpoint_with_one_alarm_and_no_delivery(peer: Peer) -> None:
    peer.answers = [EndpointError("401", code="401", passing=False) for _ in range(30)]
    rows = [put(f"{n}", subject=f"report:{n}") for n in range(6)]
    elsewhere = put("elsewhere", endpoint="second", transport="pigeon")
    jobs.run_pending("delivery")
    for _ in range(20):
        probe()
    assert [(state(row), row.attempts) for row in rows] == [("waiting", 0)] * 6
    assert (status().state, status().probes, alarms()) == ("stopped", 20, 1)
    assert state(elsewhere) == DeliveryState.FAILED, "another endpoint goes its own way"
    assert len(peer.answers) == 30 - 21, "one delivery at a time finds out"


def test_after_a_week_everything_goes_in_the_order_in_which_it_was_made(peer: Peer) -> None:
    peer.answers = [EndpointError("nobody there", code="connection") for _ in range(40)]
    wanted = []
    for number in range(4):
        for version in range(3):
            put(f"{number}.{version}", subject=f"report:{number}")
            wanted.append(f"{number}.{version}")
        jobs.run_pending("delivery")
    for _ in range(39):
        EndpointStatus.objects.update(next_probe_at=now() - timedelta(seconds=1))
        Job.objects.filter(state="waiting").update(run_after=now())
        outbox.revive(timedelta(0))
        jobs.run_pending("delivery")
        if not peer.answers:
            break
    assert not Delivery.objects.exclude(state="waiting", attempts=0).exists()
    probe()
    for _ in range(3):
        outbox.revive(timedelta(0))
        jobs.run_pending("delivery")
    got = [key for key, _ in peer.got]
    assert sorted(got) == wanted
    for number in range(4):
        assert [key for key in got if key.startswith(f"{number}.")] == [f"{number}.{version}" for version in range(3)]
    assert [key for key in got if key.endswith(".0")] == ["0.0", "1.0", "2.0", "3.0"]
    assert (status().state, alarms(), Event.objects.filter(kind="endpoint.resumed").count()) == ("up", 1, 1)


def test_a_blip_calls_nobody(peer: Peer) -> None:
    peer.answers = [EndpointError("nobody there", code="connection") for _ in range(3)]
    row = put("a")
    jobs.run_pending("delivery")
    for _ in range(3):
        probe()
    assert (state(row), row.attempts, status().state, alarms()) == ("delivered", 1, "up", 0)
    assert [one.outcome for one in row.history.all()] == ["waiting"] * 3 + ["delivered"]


def test_switched_off_on_purpose_calls_nobody_and_costs_nothing(peer: Peer) -> None:
    peer.answers = [EndpointError("off", code="off", alarm=False) for _ in range(9)]
    row = put("a")
    jobs.run_pending("delivery")
    for _ in range(8):
        probe()
    assert (state(row), row.attempts, alarms()) == ("waiting", 0, 0)


def test_the_peers_wish_to_be_left_alone_is_respected(peer: Peer) -> None:
    peer.answers = [EndpointError("503", code="503", retry_after=3600)]
    put("a")
    jobs.run_pending("delivery")
    assert timedelta(minutes=59) < status().next_probe_at - now() <= timedelta(hours=1)
    outbox.revive(timedelta(0))
    jobs.run_pending("delivery")
    assert peer.got == []


def test_several_deliveries_that_fail_in_a_row_open_the_circuit_one_alone_does_not(peer: Peer) -> None:
    peer.answers = [TransientError("500", code="500") for _ in range(20)]
    alone = put("alone")
    for _ in range(8):
        run_due()
    assert (state(alone), alone.attempts, status().state) == ("waiting", 8, "up")
    for number in range(4):
        put(f"{number}", subject=f"report:{number + 2}")
    jobs.run_pending("delivery")
    assert status().state == "stopped"
    before = len(peer.answers)
    run_due()
    assert len(peer.answers) == before, "the next probe is not due"
    peer.answers = []
    probe()
    run_due()
    outbox.revive(timedelta(0))
    jobs.run_pending("delivery")
    assert not Delivery.objects.exclude(state="delivered").exists()


def test_a_refusal_is_an_answer_and_ends_the_stop(peer: Peer) -> None:
    peer.answers = [EndpointError("gone", code="connection"), PermanentError("malformed", code="422")]
    bad, good = put("bad"), put("good", subject="report:2")
    jobs.run_pending("delivery")
    probe()
    jobs.run_pending("delivery")
    assert (state(bad), state(good), status().state) == ("failed", "delivered", "up")


def test_what_fails_here_says_nothing_about_the_endpoint(peer: Peer) -> None:
    peer.answers = [EndpointError("gone", code="connection"), PermanentError("its key was destroyed")]
    bad, good = put("bad"), put("good", subject="report:2")
    jobs.run_pending("delivery")
    probe()
    assert (state(bad), state(good), status().state, status().probes) == ("failed", "waiting", "stopped", 1)


def test_a_probe_that_was_killed_is_made_again(peer: Peer) -> None:
    peer.answers = [EndpointError("gone", code="connection")]
    row = put("a")
    jobs.run_pending("delivery")
    EndpointStatus.objects.update(state="probing")
    Delivery.objects.update(state="sending", attempts=1)
    probe()
    assert (state(row), status().state) == ("delivered", "up")


def test_many_that_wait_behind_a_refused_one_hide_no_late_one(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_WAKE_AT_ONCE", 3)
    peer.answers = [PermanentError("no", code="422") for _ in range(4)]
    for number in range(4):
        put(f"{number}.0", subject=f"report:{number}"), put(f"{number}.1", subject=f"report:{number}")
    jobs.run_pending("delivery")
    late = put("late", subject="report:late")
    Job.objects.filter(state="waiting").update(state="dead")
    assert outbox.revive(timedelta(0)) == 1
    jobs.run_pending("delivery")
    assert state(late) == "delivered"


def test_sent_again_it_keeps_its_history(peer: Peer) -> None:
    peer.answers = [PermanentError("malformed", code="422")]
    row = put("a")
    jobs.run_pending("delivery")
    outbox.resend(row)
    run_due()
    assert [(one.outcome, one.response_code, one.error) for one in row.history.all()] == [
        ("failed", "422", "malformed"),
        ("delivered", "201", ""),
    ]
