"""Real parts that fixtures start for the tests that need them."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """End a peer; kill it when it does not end in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cache_folder(name: str) -> Path:
    """A folder outside the repository for what is fetched once, made if need be."""
    base = os.environ.get("ONCOFLOW_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "oncoflow-tests" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def served_site(port: int | None = None) -> Iterator[str]:
    """The whole service of this process behind uvicorn, as it runs in production; gives its address."""
    import uvicorn

    from oncoflow_site.asgi import application

    chosen = port or free_port()
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=chosen,
        log_level="warning",
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the service did not start")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{chosen}"
    finally:
        server.should_exit = True
        thread.join(20)
