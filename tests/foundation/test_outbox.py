"""The outbox: order, backoff, refusal, dead letters, revival."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from oncoflow_site.foundation import jobs, outbox
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove, PermanentError, TransientError
from oncoflow_site.foundation.models import Delivery, DeliveryState, Event, Job
from tests.factories.outbox_peer import Peer, put, run_due, state

pytestmark = pytest.mark.django_db


def test_a_delivery_arrives_once(peer: Peer) -> None:
    first, again = put("a"), put("a")
    assert first.pk == again.pk
    jobs.run_pending("delivery")
    assert peer.got == [("a", b"body of a")]
    assert state(first) == DeliveryState.DELIVERED
    assert (first.response_code, first.attempts, first.delivered_at is not None) == ("201", 1, True)
    assert Event.objects.get(kind="delivery.done").payload == {"delivery_id": str(first.pk)}
    run_due()
    assert len(peer.got) == 1


def test_the_payload_is_encrypted_at_rest(peer: Peer) -> None:
    from django.core.files.storage import storages

    stored = put("a").payload_object
    assert stored is not None
    with storages["objects"].open(stored.storage_name) as stream:
        assert b"body" not in stream.read()


def test_a_lane_keeps_its_order_while_others_go_on(peer: Peer) -> None:
    peer.answers = [TransientError("away")]
    one, two = put("one"), put("two")
    other, elsewhere = put("other", subject="report:2"), put("elsewhere", endpoint="second")
    jobs.run_pending("delivery")
    assert [key for key, _ in peer.got] == ["other", "elsewhere"]
    assert (state(one), state(two)) == (DeliveryState.WAITING, DeliveryState.WAITING)
    assert one.last_error == "away"
    assert one.next_attempt_at > now()
    assert (one.sequence, two.sequence, other.sequence, elsewhere.sequence) == (1, 2, 1, 1)
    run_due()
    assert [key for key, _ in peer.got] == ["other", "elsewhere", "one", "two"]


def test_a_refused_delivery_holds_its_lane_until_resent(peer: Peer) -> None:
    peer.answers = [PermanentError("malformed", code="422")]
    one, two = put("one"), put("two")
    jobs.run_pending("delivery")
    run_due()
    assert (state(one), one.response_code, one.last_error) == (DeliveryState.FAILED, "422", "malformed")
    assert state(two) == DeliveryState.WAITING
    assert Event.objects.filter(kind="delivery.dead").count() == 1
    outbox.resend(one)
    run_due()
    assert [key for key, _ in peer.got] == ["one", "two"]
    assert (state(one), one.attempts) == (DeliveryState.DELIVERED, 1)


def test_an_abandoned_delivery_frees_its_lane_for_ever(peer: Peer) -> None:
    peer.answers = [PermanentError("no")]
    one, two = put("one"), put("two")
    jobs.run_pending("delivery")
    outbox.abandon(one)
    jobs.run_pending("delivery")
    assert [key for key, _ in peer.got] == ["two"]
    for delivery in (one, two):
        with pytest.raises(IllegalMove):
            outbox.resend(delivery)
        with pytest.raises(IllegalMove):
            outbox.abandon(delivery)


def test_backoff_grows_and_attempts_end(peer: Peer, settings: Any) -> None:
    settings.ONCOFLOW_DELIVERY_MAX_ATTEMPTS = 4
    peer.answers = [TransientError("away"), ValueError("Doe^Jane"), TransientError("away"), TransientError("gone")]
    one = put("one")
    waits = []
    for _ in range(4):
        run_due()
        one.refresh_from_db()
        waits.append((one.next_attempt_at - now()).total_seconds())
        assert "Doe" not in one.last_error
    assert waits[0] < waits[1] + 1 < waits[2] + 2
    assert (one.state, one.attempts, one.last_error) == (DeliveryState.DEAD, 4, "gone")
    assert Event.objects.filter(kind="delivery.dead").count() == 1
    run_due()
    assert peer.got == []


def test_backoff_is_capped_and_spread() -> None:
    waits = {jobs.backoff(60).total_seconds() for _ in range(50)}
    assert min(waits) >= 450
    assert max(waits) <= 900
    assert len(waits) > 10


def test_an_unknown_transport_is_a_dead_letter() -> None:
    one = put("one", transport="pigeon")
    jobs.run_pending("delivery")
    assert (state(one), one.last_error) == (DeliveryState.FAILED, "there is no transport 'pigeon'")


def test_killed_between_sending_and_writing_down_it_is_sent_again_with_the_same_key(peer: Peer) -> None:
    one = put("one")
    Delivery.objects.filter(pk=one.pk).update(state=DeliveryState.SENDING, attempts=1)
    jobs.run_pending("delivery")
    assert peer.got == [("one", b"body of one")]
    assert (state(one), one.attempts) == (DeliveryState.DELIVERED, 2)


def test_a_delivery_whose_job_died_is_revived(peer: Peer) -> None:
    one = put("one")
    Job.objects.update(state="dead")
    assert outbox.revive() == 0
    assert outbox.revive(patience=timedelta(0)) == 1
    assert outbox.revive(patience=timedelta(0)) == 0
    jobs.run_pending("delivery")
    assert state(one) == DeliveryState.DELIVERED


def test_revival_does_not_let_anything_overtake(peer: Peer) -> None:
    peer.answers = [PermanentError("no")]
    put("one"), put("two")
    jobs.run_pending("delivery")
    Delivery.objects.update(next_attempt_at=now() - timedelta(hours=1))
    assert outbox.revive() == 0


def test_a_rolled_back_transaction_sends_nothing(peer: Peer) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        put("one")
        raise RuntimeError
    jobs.run_pending("delivery")
    assert peer.got == []
    assert not Delivery.objects.exists()
