"""Jobs, events and transports of these tests' own, taken away again after each test."""

from __future__ import annotations

import pytest

from oncoflow_site.foundation import events, huey_app, job_kinds, outbox
from tests.factories.outbox_peer import Peer


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test may register what it likes."""
    monkeypatch.setattr(job_kinds, "_kinds", dict(job_kinds._kinds))
    monkeypatch.setattr(events, "_declared", dict(events._declared))
    monkeypatch.setattr(events, "_followers", {})
    monkeypatch.setattr(events, "_nothing", {})
    monkeypatch.setattr(outbox, "_transports", {})
    for name in huey_app.QUEUES:
        huey_app.queue(name).storage.flush_queue()


@pytest.fixture
def peer() -> Peer:
    one = Peer()
    outbox.register_transport("test", one.send)
    return one
