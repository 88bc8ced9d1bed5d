"""A listening MLLP server, a listed peer, and messages as an EMR sends them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from fhir_api.hl7v2.intake import receive, refuse_too_large
from fhir_api.hl7v2.mllp import MllpLimits, MllpServer
from fhir_api.models import Peer
from tests.factories.hl7_messages import Wire


@pytest.fixture
def hl7_peer(db: None) -> Peer:
    """The sender EMR/HOSP, listed."""
    return Peer.objects.create(name="emr", sending_application="EMR", sending_facility="HOSP")


@pytest.fixture
def mllp_port(transactional_db: None) -> Iterator[int]:
    """A server on a free port, in a thread, with small limits."""
    loop = asyncio.new_event_loop()
    limits = MllpLimits(frame_bytes=8 << 20, frame_s=5.0, idle_s=20.0, connections=8)
    server = MllpServer(receive, too_large=refuse_too_large, limits=limits)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), loop).result(10)
    yield port
    asyncio.run_coroutine_threadsafe(server.stop(3), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def wire(mllp_port: int) -> Iterator[Callable[[], Wire]]:
    """Opens connections and closes them at the end."""
    opened: list[Wire] = []

    def connect() -> Wire:
        opened.append(Wire(mllp_port))
        return opened[-1]

    yield connect
    for one in opened:
        one.socket.close()
