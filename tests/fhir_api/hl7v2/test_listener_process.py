"""The MLLP listener as the process it is in service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_listener_starts_without_torch_and_stops_cleanly(tmp_path):
    environment = {**os.environ, "ONCOFLOW_DATA_DIR": str(tmp_path), "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"}
    environment["DJANGO_SETTINGS_MODULE"] = "oncoflow_site.settings"
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from django.core.management import execute_from_command_line as run\n"
        "run(['manage.py', 'mllp_listener', '--port', '0'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("mllp: listening on 127.0.0.1:")
        with socket.create_connection(("127.0.0.1", int(line.rsplit(":", 1)[1])), timeout=10):
            process.send_signal(signal.SIGTERM)
            said, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert said.split() == ["False"]
