"""A listener of ours in a process of its own, with a data directory of its own, for the benchmarks of the DICOM door."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.factories.dicom_files import as_file, dataset
from tests.peers import free_port

__all__ = ["CALLED", "CALLING", "OurListener", "our_listener", "send", "write_studies"]

ROOT = Path(__file__).resolve().parents[2]
CALLING, CALLED = "BENCH", "ONCOFLOW"
SEQUENCES = ("T1", "T1c", "T2", "FLAIR")


@dataclass
class OurListener:
    """A running listener. ``environment`` starts further processes of the same installation."""

    port: int
    process: subprocess.Popen[str]
    environment: dict[str, str]

    def manage(self, *arguments: str) -> str:
        """Output of ``manage.py`` with ``arguments``."""
        return _manage(self.environment, *arguments)

    def restart(self) -> None:
        """Start it again on its port, after it ended."""
        self.process = _listen(self.environment, self.port)

    def rss_mb(self) -> float:
        """Resident memory of the process in MB (10**6 bytes)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        return float("nan")


def _manage(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def _listen(environment: dict[str, str], port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "manage.py", "dicom_listener", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline().startswith("DICOM listener"):
        process.kill()
        process.wait()
        raise RuntimeError("the listener did not start")
    return process


@contextmanager
def our_listener(**settings: str) -> Iterator[OurListener]:
    """Start it and wait until it listens; everything of it is removed afterwards. ``settings``: environment."""
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-bench-"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONCOFLOW_")}
    environment = {**kept, "ONCOFLOW_DATA_DIR": str(folder), "ONCOFLOW_LOG_LEVEL": "ERROR", **settings}
    listener = None
    try:
        _manage(environment, "init_keys")
        _manage(environment, "migrate", "--verbosity", "0")
        _manage(environment, "add_dicom_peer", CALLING)
        port = free_port()
        listener = OurListener(port, _listen(environment, port), environment)
        yield listener
    finally:
        if listener is not None:
            listener.process.terminate()
            try:
                listener.process.wait(20)
            except subprocess.TimeoutExpired:
                listener.process.kill()
                listener.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def write_studies(folder: Path, count: int, *, size: int, studies: int = 1) -> list[Path]:
    """``count`` MR slices of ``size`` x ``size`` voxels of 16 bits, four series a study, one folder a study."""
    folders = []
    for study in range(1, studies + 1):
        place = folder / f"study-{study}"
        place.mkdir(parents=True)
        folders.append(place)
        for number in range(count // studies):
            sequence = SEQUENCES[number % 4]
            one = dataset(
                study=f"1.2.3.{study}", series=str(number % 4 + 1), number=number // 4 + 1, sequence=sequence, size=size
            )
            (place / f"{number:05}.dcm").write_bytes(as_file(one))
    return folders


def send(port: int, folders: list[Path], *, called: str = CALLED) -> float:
    """Seconds that one storescu (DCMTK) a folder takes, all at once. :raises RuntimeError: one was refused something."""
    program = shutil.which("storescu")
    if program is None:
        raise RuntimeError("DCMTK (storescu) is not installed")
    began = time.perf_counter()
    running = [
        subprocess.Popen(
            [program, "-aet", CALLING, "-aec", called, "+sd", "127.0.0.1", str(port), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for folder in folders
    ]
    errors = [one.communicate()[1] for one in running]
    seconds = time.perf_counter() - began
    if any(one.returncode for one in running):
        raise RuntimeError(errors[0].decode(errors="replace")[-500:])
    return seconds
