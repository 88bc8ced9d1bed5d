"""dcmtk's archive (dcmqrscp): a PACS that answers C-FIND and C-MOVE and knows nothing of DICOMweb."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import free_port, stop

CONFIGURATION = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 8
HostTable BEGIN
service = ({ae_title}, 127.0.0.1, {service_port})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (200, 64mb) ANY
AETable END
"""


@dataclass(frozen=True)
class Archive:
    """A running one. ``port``: of DIMSE on the loopback interface."""

    port: int
    ae_title: str = "ARCHIVE"

    def store(self, files: Sequence[bytes]) -> None:
        """Bring files in with storescu."""
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(files):
                (Path(folder) / f"{number}.dcm").write_bytes(data)
            command = ["storescu", "-R", "-aec", self.ae_title, "127.0.0.1", str(self.port), "+sd", folder]
            subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def running_archive(ae_title: str, service_port: int) -> Iterator[Archive]:
    """An empty archive that may send to ``ae_title`` at ``service_port``. Skips where dcmtk is not installed."""
    program = shutil.which("dcmqrscp")
    if program is None:
        pytest.skip("dcmtk (dcmqrscp) is not installed")
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-dcmqrscp-"))
    port = free_port()
    (folder / "db").mkdir()
    text = CONFIGURATION.format(port=port, ae_title=ae_title, service_port=service_port, folder=folder / "db")
    (folder / "cfg").write_text(text)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(folder / "cfg")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        echo = ["echoscu", "-aec", "ARCHIVE", "127.0.0.1", str(port)]
        while subprocess.run(echo, check=False, capture_output=True).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("dcmqrscp did not start:\n" + (folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        yield Archive(port)
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)
