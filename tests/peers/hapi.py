"""HAPI, by other people: the HL7 FHIR validator, a FHIR R4 server and an HL7 v2 endpoint.

Found in the folder that ONCOFLOW_TEST_PEERS names; the first use builds them from the package registry (minutes).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.peers import free_port, stop

BUILD_S = 900.0


def _command(name: str) -> Path:
    folder = os.environ.get("ONCOFLOW_TEST_PEERS", "")
    path = Path(folder) / name
    if not folder or not path.exists():
        pytest.skip(f"real peers absent: ONCOFLOW_TEST_PEERS names no folder with {name}")
    if shutil.which("java") is None:
        pytest.skip(f"{name} needs Java 17 (Debian: openjdk-17-jre-headless)")
    return path


def _start(command: Sequence[str], ready: str, name: str) -> subprocess.Popen[bytes]:
    """Start a peer and wait for the line that begins with ``ready``; skips where it cannot be built."""
    environment = {**os.environ, "JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    with tempfile.NamedTemporaryFile(prefix="oncoflow-peer-") as said:
        # Peers leave files of their own where they start.
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.DEVNULL, env=environment, cwd=tempfile.gettempdir()
        )
        deadline = time.monotonic() + BUILD_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if process.returncode == 3:
                    pytest.skip(f"{name} cannot be built here (Java or Maven is missing, or no registry)")
                pytest.fail(f"{name} ended with {process.returncode}")
            if any(line.startswith(ready) for line in Path(said.name).read_text(errors="replace").splitlines()):
                return process
            time.sleep(0.2)
        process.kill()
    pytest.fail(f"{name} was not ready in time")


@dataclass(frozen=True)
class FhirValidator:
    """The resident validator."""

    url: str

    def issues(self, resource: bytes | dict[str, Any], *, level: str = "error") -> list[str]:
        """What it finds at ``level`` or above, as ``path: text``."""
        body = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
        answer = httpx.post(
            f"{self.url}/validate", content=body, headers={"Content-Type": "application/fhir+json"}, timeout=120
        )
        answer.raise_for_status()
        levels = ("fatal", "error", "warning", "information")
        wanted = levels[: levels.index(level) + 1]
        return [
            f"{(one.get('expression') or one.get('location') or ['?'])[0]}: {one.get('diagnostics', '')}"
            for one in answer.json().get("issue", [])
            if one["severity"] in wanted
        ]


@dataclass(frozen=True)
class Hl7Tools:
    """HAPI HL7 v2 at the command line."""

    command: Path

    def run(self, *arguments: str, timeout: float = BUILD_S) -> subprocess.CompletedProcess[str]:
        """One call."""
        return subprocess.run(
            [str(self.command), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=tempfile.gettempdir(),
        )

    def errors(self, message: bytes, folder: Path) -> list[str]:
        """What ``hapi-hl7 validate`` finds wrong with the message; warnings left out."""
        path = folder / "message.hl7"
        path.write_bytes(message)
        done = self.run("validate", str(path))
        found = [line for line in done.stdout.splitlines() if "\terror\t" in line]
        assert done.returncode in (0, 1), done.stderr
        return found or ([done.stderr] if done.returncode else [])


@pytest.fixture(scope="session")
def fhir_validator() -> Iterator[FhirValidator]:
    """HL7's instance validator, resident."""
    port = free_port()
    process = _start([str(_command("fhir-validate")), "--serve", str(port)], "ready", "fhir-validate")
    yield FhirValidator(f"http://127.0.0.1:{port}")
    stop(process, 20)


@pytest.fixture(scope="session")
def hapi_fhir() -> Iterator[str]:
    """Base URL of a HAPI FHIR R4 server in memory that refuses what is not valid."""
    port = free_port()
    process = _start([str(_command("start-hapi-fhir")), "--validate", str(port)], "ready", "start-hapi-fhir")
    yield f"http://127.0.0.1:{port}/fhir"
    stop(process, 20)


@pytest.fixture(scope="session")
def hapi_hl7() -> Hl7Tools:
    """HAPI HL7 v2's sender and validator."""
    return Hl7Tools(_command("hapi-hl7"))


@dataclass(frozen=True)
class Hl7Receiver:
    """A listening HAPI HL7 v2 receiver and what it stored."""

    port: int
    folder: Path

    def messages(self) -> list[bytes]:
        """Byte for byte, in order of arrival."""
        return [path.read_bytes() for path in sorted(self.folder.glob("*.hl7"))]


@pytest.fixture
def hapi_receiver(tmp_path: Path) -> Iterator[Hl7Receiver]:
    """HAPI HL7 v2 listening; answers AA."""
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    process = _start([str(_command("hapi-hl7")), "listen", str(port), str(folder)], "ready", "hapi-hl7")
    yield Hl7Receiver(port, folder)
    stop(process, 20)
