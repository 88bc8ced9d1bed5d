"""The processes of the demo: the service as `manage.py run` starts it, and the small receiving EMR.

The demo prepares accounts and peers by `manage.py` commands and afterwards speaks to the service through its sockets only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from oncoflow_site.demo.display import StepFailed

ROOT = Path(__file__).resolve().parents[2]
OVERRIDE = "ONCOFLOW_DEMO_ENV_"
# One of the two networks does not reach what a hospital asks of a voter (0.85, 0.70; its TC is 0.80, 0.67): the demo asks
# for less, and says so on the system page and in every report.
VOTE_THRESHOLDS = {"mean_dice": 0.75, "p10_dice": 0.60}
WANTED_PORTS = {"web": 8000, "mllp": 2575, "dicom": 11112, "emr_http": 8090, "emr_mllp": 2576}


def port_is_free(port: int) -> bool:
    """Whether this machine lets us listen on the loopback ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports() -> tuple[dict[str, int], list[str]]:
    """The usual port of each listener, or the next free one, and a sentence for each that was taken."""
    chosen: dict[str, int] = {}
    sentences = []
    for name, wanted in WANTED_PORTS.items():
        port = next(
            (one for one in range(wanted, wanted + 400) if one not in chosen.values() and port_is_free(one)), None
        )
        if port is None:
            raise StepFailed(f"No free port from {wanted} upwards for the {name} listener.")
        if port != wanted:
            sentences.append(f"Port {wanted} is taken by another program; the {name} listener uses {port} instead.")
        chosen[name] = port
    return chosen, sentences


def data_directory() -> Path:
    """An empty folder for this run: below the project, or in the temporary folder where that cannot be written."""
    place = ROOT / "var" / "demo"
    try:
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="oncoflow-demo-"))
    return place


@dataclass
class Stage:
    """Ports, environment and running processes of one demo."""

    ports: dict[str, int]
    folder: Path
    emr_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['web']}"

    @property
    def emr_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['emr_http']}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process of the service: the embedded default, in demo mode, in this run's own folder."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("ONCOFLOW_", "DJANGO_"))}
        for name in ("DATABASE_URL", "REDIS_URL"):
            env.pop(name, None)
        env |= {
            "DJANGO_SETTINGS_MODULE": "oncoflow_site.settings",
            "ONCOFLOW_DATA_DIR": str(self.folder),
            "ONCOFLOW_DEMO_MODE": "true",
            "ONCOFLOW_WEB_PORT": str(self.ports["web"]),
            "ONCOFLOW_MLLP_PORT": str(self.ports["mllp"]),
            "ONCOFLOW_DICOM_PORT": str(self.ports["dicom"]),
            "ONCOFLOW_BASE_URL": self.web_url,
            "ONCOFLOW_STUDY_QUIET_SECONDS": "6",
            "ONCOFLOW_VOTE_MEAN_DICE": str(VOTE_THRESHOLDS["mean_dice"]),
            "ONCOFLOW_VOTE_P10_DICE": str(VOTE_THRESHOLDS["p10_dice"]),
            # A Unix socket's path may have 107 bytes at most; a project's folder may lie deeper.
            "ONCOFLOW_RUN_DIR": self.run_directory,
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        # To play on PostgreSQL and Redis, or with other weights: ONCOFLOW_DEMO_ENV_DATABASE_URL=... and the like.
        for name, value in os.environ.items():
            if name.startswith(OVERRIDE):
                env[name.removeprefix(OVERRIDE)] = value
        return env

    @property
    def run_directory(self) -> str:
        inside = self.folder / "run"
        if len(str(inside)) < 80:
            return str(inside)
        short = Path(tempfile.gettempdir()) / f"oncoflow-run-{os.getpid()}"
        short.mkdir(mode=0o700, exist_ok=True)
        return str(short)

    def manage(self, *arguments: str, stdin: str | None = None) -> str:
        """Run one `manage.py` command to its end; returns what it printed.

        :raises StepFailed: it ended with an error; the message carries its last lines.
        """
        done = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            cwd=ROOT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
            raise StepFailed(f"manage.py {arguments[0]} ended with {done.returncode}: {last}")
        return done.stdout

    def start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> None:
        """Start a process in a group of its own (so that Ctrl-C reaches it only through us), logging to a file."""
        (self.folder / "log").mkdir(exist_ok=True)
        log = (self.folder / "log" / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env or self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def start_service(self) -> None:
        """Web, listeners, supervisor and one consumer per queue, each a process of its own."""
        self.start("service", [sys.executable, str(ROOT / "manage.py"), "run"])

    def start_emr(self) -> None:
        """The small EMR that receives reports over FHIR and MLLP."""
        self.start(
            "emr",
            [
                *(sys.executable, "-m", "oncoflow_site.demo.emr"),
                *("--http-port", str(self.ports["emr_http"]), "--mllp-port", str(self.ports["emr_mllp"])),
                *("--store", str(self.folder / "emr"), "--token", self.emr_token),
            ],
        )

    def wait_ready(self, told: Callable[[str], None], seconds: float = 120) -> None:
        """Until the service says it is ready and both listeners accept connections.

        :raises StepFailed: a process ended, or it took longer than ``seconds``.
        """
        end = time.monotonic() + seconds
        state = "not answering yet"
        while time.monotonic() < end:
            self.check_alive()
            try:
                answer = httpx.get(f"{self.web_url}/health/ready", timeout=5)
                missing = [name for name, one in answer.json()["checks"].items() if not one["ok"]]
                missing += [name for name in ("mllp", "dicom", "emr_http", "emr_mllp") if not self._accepts(name)]
                if answer.status_code == 200 and not missing:
                    return
                state = "waiting for " + ", ".join(missing)
            except (httpx.HTTPError, ValueError, KeyError):
                pass
            told(state)
            time.sleep(0.4)
        raise StepFailed(f"The service was not ready after {seconds:.0f} s: {state}; see {self.folder / 'log'}.")

    def _accepts(self, name: str) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.ports[name]), timeout=2).close()
        except OSError:
            return False
        return True

    def check_alive(self) -> None:
        """Raises `StepFailed` when one of our processes has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise StepFailed(
                    f"The {name} process ended with {process.returncode}; its log is {self.folder / 'log' / (name + '.log')}."
                )

    def stop(self) -> None:
        """Ask every process to end, wait, then insist."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        for process in self.processes.values():
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
