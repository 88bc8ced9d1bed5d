"""How long a click takes with the demo weights, through the supervisor, on 240 x 240 x 155 voxels.

    make bench NAME=refine

Wall clock and CPU seconds of the interactive process: getting ready, the first click on a slice, later clicks on it (target:
300 ms on two cores), a carry to the neighbouring slices; and the memory that the second process adds (PSS).
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.contract import Prompt, Volumes
from inference.experts.factory import ExpertSpec
from inference.supervisor.client import SupervisorClient
from inference.supervisor.memory_budget import pss_bytes
from inference.supervisor.server import Supervisor, SupervisorConfig

SHAPE = (155, 240, 240)
WEIGHTS = Path(__file__).resolve().parents[2] / "inference" / "weights" / "sam2-small"
LATER = 20
CENTRE = (80, 110, 150)


def study() -> Volumes:
    """A head with one bright lesion around CENTRE."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    brain = ((z - 77) / 70.0) ** 2 + ((y - 120) / 92.0) ** 2 + ((x - 120) / 72.0) ** 2 < 1
    far = sum(((a - c) / 22.0) ** 2 for a, c in zip((z, y, x), CENTRE, strict=True))
    noise = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), 1.5)
    images = {}
    for number, name in enumerate(PANEL_SEQUENCES):
        image = 300 + 200 * noise + np.where(far < 1, 250.0 if name in ("FLAIR", "T2") else -60.0, 0.0) + 10 * number
        images[name] = np.where(brain, np.maximum(image, 1.0), 0).astype(np.float32)
    return Volumes(images, (1.0, 1.0, 1.0), np.broadcast_to(brain, SHAPE).copy())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        spec = ExpertSpec("sam2-small", "sam", str(WEIGHTS), threads=2)
        supervisor = Supervisor(SupervisorConfig((spec,), str(Path(folder) / "socket"), key))
        supervisor.start()
        try:
            measure(supervisor)
        finally:
            supervisor.stop()


def measure(supervisor: Supervisor) -> None:
    """Ask, print the table and the line of JSON."""
    volumes, client = study(), SupervisorClient(supervisor.address, supervisor.key)
    loaded = 0

    def load() -> Volumes:
        nonlocal loaded
        loaded += 1
        return volumes

    def click(prompt: Prompt | None) -> None:
        client.refine(
            "sam2-small", "study", prompt, sequences=PANEL_SEQUENCES, spacing=volumes.spacing, load=load, deadline_s=300
        )

    def timed(action: Callable[[], None]) -> tuple[float, float]:
        pid = supervisor.lanes["sam2-small"].health()["pid"]
        before, started = cpu_seconds(pid) if pid else 0.0, time.perf_counter()
        action()
        wall = time.perf_counter() - started
        return wall, cpu_seconds(supervisor.lanes["sam2-small"].health()["pid"]) - before

    z, y, x = CENTRE
    ready = timed(lambda: click(None))
    first = [timed(lambda n=n: click(Prompt("WT", ((z + n, y, x, True),), scope="slice"))) for n in (0, 2, 4, 6, 8)]  # type: ignore[misc]
    later = [
        timed(lambda n=n: click(Prompt("WT", ((z, y, x, True), (z, y - 40 + n, x + 30, False)), scope="slice")))  # type: ignore[misc]
        for n in range(LATER)
    ]
    carry = timed(lambda: click(Prompt("WT", ((z, y, x, True),), scope="volume")))
    pid = supervisor.lanes["sam2-small"].health()["pid"]
    rows = [
        ("getting ready (start, volumes)", *ready),
        ("first click on a slice, median of 5", *(statistics.median(c) for c in zip(*first, strict=True))),
        (f"later click, median of {LATER}", *(statistics.median(c) for c in zip(*later, strict=True))),
        (f"later click, slowest of {LATER}", *(max(c) for c in zip(*later, strict=True))),
        ("carried to the neighbouring slices", *carry),
    ]
    for name, wall, cpu in rows:
        print(f"{name:40} {1000 * wall:9.0f} ms wall {1000 * cpu:9.0f} ms CPU")
    print(
        f"{'memory of the interactive process':40} {pss_bytes(pid) / 2**20:9.0f} MiB; volumes were sent {loaded} time(s)"
    )
    median = [statistics.median(c) for c in zip(*later, strict=True)]
    print(
        json.dumps(
            {
                "first_ms": round(1000 * rows[1][1]),
                "later_ms": round(1000 * median[0]),
                "later_cpu_ms": round(1000 * median[1]),
                "later_worst_ms": round(1000 * rows[3][1]),
                "carry_s": round(carry[0], 2),
                "ready_s": round(ready[0], 2),
                "process_mib": round(pss_bytes(pid) / 2**20),
                "volumes_sent": loaded,
            }
        )
    )


if __name__ == "__main__":
    main()
