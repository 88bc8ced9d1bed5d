"""Instances per second in, durable at the answer, against Orthanc storing the same files from the same sender.

    make bench NAME=intake ARGS="--instances 1000 --size 256"

The sender is DCMTK's storescu: one association with one study, then four at once with a study each. Ours answers after the
bytes are encrypted, synced and their row is committed; Orthanc is the Debian package as configured by default (SQLite,
SyncStorageArea on, no encryption). ``deidentified`` is the rate from the first byte until the last instance of a study has
its de-identified copy, with one worker.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.benchmarks.listener import ROOT, our_listener, send, write_studies
from tests.peers import free_port
from tests.peers.orthanc import installed, running_orthanc

ASSOCIATIONS = (1, 4)
STOW_PARTS = 50


def _ours(folder: Path, arguments: argparse.Namespace, parallel: int) -> float:
    with our_listener() as listener:
        seconds = send(listener.port, _studies(folder, arguments, parallel))
        _check(listener.environment, arguments.instances)
    return arguments.instances / seconds


def _orthanc(folder: Path, arguments: argparse.Namespace, parallel: int) -> float:
    with running_orthanc() as server:
        seconds = send(server.dicom_port, _studies(folder, arguments, parallel), called=server.ae_title)
    return arguments.instances / seconds


def _stow(folder: Path, arguments: argparse.Namespace) -> float:
    """Instances a second by STOW-RS: one connection, requests of `STOW_PARTS` instances, each durable at the answer."""
    with our_listener() as listener:
        listener.manage("create_user", "sender", "--role", "integration", "--no-password")
        token = listener.manage(
            "create_token", "sender", "--name", "bench", "--scope", "system/ImagingStudy.c"
        ).split()[-1]
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "oncoflow_site.asgi:application", "--no-access-log"]
        web = subprocess.Popen(
            [*command, "--log-level", "error", "--port", str(port)], cwd=ROOT, env=listener.environment
        )
        try:
            files = [path.read_bytes() for place in _studies(folder, arguments, 1) for path in sorted(place.iterdir())]
            headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": 'multipart/related; type="application/dicom"; boundary=next',
                "Accept": "application/dicom+json",
            }
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, headers=headers) as client:
                _wait_for(client)
                began = time.perf_counter()
                for start in range(0, len(files), STOW_PARTS):
                    client.post(
                        "/dicomweb/studies", content=_parts(files[start : start + STOW_PARTS])
                    ).raise_for_status()
                seconds = time.perf_counter() - began
            _check(listener.environment, arguments.instances)
        finally:
            web.terminate()
            web.wait()
    return arguments.instances / seconds


def _parts(files: list[bytes]) -> bytes:
    head = b"--next\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + one + b"\r\n" for one in files) + b"--next--\r\n"


def _wait_for(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.get("/health/live").raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _studies(folder: Path, arguments: argparse.Namespace, parallel: int) -> list[Path]:
    place = folder / str(parallel)
    if not place.exists():
        write_studies(place, arguments.instances, size=arguments.size, studies=parallel)
    return sorted(place.iterdir())


def _rows(environment: dict[str, str], where: str = "1") -> int:
    path = Path(environment["ONCOFLOW_DATA_DIR"]) / "oncoflow.sqlite3"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30) as database:
        return int(database.execute(f"select count(*) from imaging_instance where {where}").fetchone()[0])


def _check(environment: dict[str, str], count: int) -> None:
    if (stored := _rows(environment)) != count:
        raise RuntimeError(f"{stored} of {count} instances are there")


def _deidentified(folder: Path, arguments: argparse.Namespace) -> float:
    """Instances a second from the first byte sent to the last de-identified copy."""
    with our_listener(ONCOFLOW_STUDY_QUIET_SECONDS="1") as listener:
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "work", "--queue", "default"],
            cwd=ROOT,
            env=listener.environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            began = time.perf_counter()
            send(listener.port, _studies(folder, arguments, 1))
            deadline = began + 900
            while _rows(listener.environment, "state = 'deidentified'") < arguments.instances:
                if time.perf_counter() > deadline:
                    raise RuntimeError("the instances were not de-identified in time")
                time.sleep(0.2)
            return float(arguments.instances / (time.perf_counter() - began))
        finally:
            worker.kill()
            worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256, help="rows and columns of a slice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-deidentify", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, float | int | str | None] = {"bench": "intake", "instances": arguments.instances}
    result["kilobytes_each"] = round(arguments.size * arguments.size * 2 / 1000)
    with tempfile.TemporaryDirectory(prefix="oncoflow-bench-") as name:
        folder = Path(name)
        print(f"{'door':<34}{'associations':>13}{'instances/s':>14}")
        for parallel in ASSOCIATIONS:
            rates: dict[str, list[float]] = {"ours": [], "orthanc": []} if installed() else {"ours": []}
            for _ in range(arguments.repeats):  # in turns, so that a busy moment meets both
                rates["ours"].append(_ours(folder, arguments, parallel))
                if "orthanc" in rates:
                    rates["orthanc"].append(_orthanc(folder, arguments, parallel))
            for who, values in rates.items():
                middle = statistics.median(values)
                print(f"{'C-STORE, ' + who:<34}{parallel:>13}{middle:>14.1f}")
                result[f"cstore_{who}_{parallel}"] = round(middle, 1)
        rate = _stow(folder, arguments)
        print(f"{'STOW-RS, ours':<34}{1:>13}{rate:>14.1f}")
        result["stow_ours_1"] = round(rate, 1)
        if not arguments.no_deidentify:
            rate = _deidentified(folder, arguments)
            print(f"{'C-STORE to de-identified, ours':<34}{1:>13}{rate:>14.1f}")
            result["deidentified_per_s"] = round(rate, 1)
    ratios = [
        float(result[f"cstore_ours_{n}"]) / float(result[f"cstore_orthanc_{n}"])  # type: ignore[arg-type]
        for n in ASSOCIATIONS
        if f"cstore_orthanc_{n}" in result
    ]
    for number, ratio in zip(ASSOCIATIONS, ratios, strict=False):
        result[f"ratio_orthanc_{number}"] = round(ratio, 3)
    # The worse of the two decides.
    result["ratio_orthanc"] = round(min(ratios), 3) if ratios else None
    print(json.dumps(result))


if __name__ == "__main__":
    main()
