"""A real Elasticsearch node for tests that need one: ``ELASTICSEARCH_URL`` where it is given, else started here."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import free_port


@pytest.fixture(scope="session")
def elasticsearch_url() -> Iterator[str]:
    """URL of an Elasticsearch node; skips where there is none and none can be started."""
    given = os.environ.get("ELASTICSEARCH_URL")
    if given:
        yield given
        return
    command = Path(os.environ.get("ONCOFLOW_TEST_PEERS", "")) / "start-elasticsearch"
    if not os.environ.get("ONCOFLOW_TEST_PEERS") or not command.is_file():
        pytest.skip("Elasticsearch absent: neither ELASTICSEARCH_URL nor start-elasticsearch in ONCOFLOW_TEST_PEERS")
    if shutil.which("java") is None:
        pytest.skip("Elasticsearch needs Java, which is not installed")
    folder, port = Path(tempfile.mkdtemp(prefix="oncoflow-elasticsearch-")), free_port()
    server = subprocess.Popen(
        [str(command), str(port), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        _wait(server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[str], seconds: float = 300.0) -> None:
    """Until the command says ``ready``."""
    assert server.stdout is not None
    said: list[str] = []
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(timeout=1.0):
                continue
            line = server.stdout.readline()
            said.append(line)
            if line.startswith("ready "):
                return
            if not line:
                break
    if server.poll() is None:
        server.kill()
    pytest.fail("Elasticsearch did not start:\n" + "".join(said)[-2000:])
