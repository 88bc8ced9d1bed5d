"""A real PostgreSQL server for tests that need one: started on a free port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import free_port, stop


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).parent if on_path else None


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root; then it runs as the user that its package made."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root and there is no user postgres")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv, needed to run PostgreSQL as user postgres, is not installed")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a fresh server's maintenance database, ``postgresql://postgres@127.0.0.1:<port>/postgres``."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    prefix = _as_postgres()
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-pg-"))
    if prefix:
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", free_port()
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(folder)}
    subprocess.run(
        [*prefix, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"],
        check=True,
        capture_output=True,
        env=environment,
        cwd=folder,
    )
    options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder)}
    # The tests kill our processes, never the server or the machine, so it need not sync.
    options |= {"fsync": "off", "shared_buffers": "32MB", "max_connections": 60}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*prefix, str(programs / "postgres"), "-D", str(data), *(f"--{k}={v}" for k, v in options.items())],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
        )
    try:
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        deadline = time.monotonic() + 30
        while subprocess.run(ready, env=environment, check=False).returncode != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail("PostgreSQL did not start:\n" + (folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        stop(server)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty database of its own for one test."""
    import psycopg
    from psycopg import sql

    name = f"oncoflow_{os.getpid()}_{time.time_ns()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres_server.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
