"""DICOMweb over HTTP on this machine: metadata of a series, frames, whole files, a search, and STOW-RS in.

    make bench NAME=dicomweb ARGS="--instances 200 --size 256"

Metadata is set against what it would take without the index: every file of the series decrypted and its header parsed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

BOUNDARY = "bench"


def _set_up() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-bench-"))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "oncoflow_site.settings",
        "ONCOFLOW_DATA_DIR": str(folder),
        "ONCOFLOW_LOG_LEVEL": "ERROR",
        "ONCOFLOW_STUDY_QUIET_SECONDS": "3600",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("init_keys", stdout=StringIO())
    call_command("migrate", verbosity=0)
    return folder


def _median(action: Callable[[], Any], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import httpx
    from pydicom import dcmread

    from clinical.models import User
    from fhir_api.access.tokens import create_token
    from imaging.models import PublishedInstance
    from oncoflow_site.foundation import objects
    from tests.factories.dicom_files import as_file, dataset
    from tests.factories.published_studies import bring
    from tests.peers import served_site

    count, size = arguments.instances, arguments.size
    files = [as_file(dataset(number=number, size=size)) for number in range(1, count + 1)]
    user = User.objects.create_user("bench", password=None, role="integration")
    token = create_token(user, "bench")[1]
    study = bring(files)
    rows = list(PublishedInstance.objects.select_related("object"))
    assert len(rows) == count
    client = httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=120)

    def get(path: str, accept: str = "*/*") -> bytes:
        answer = client.get(f"{site}/dicomweb{path}", headers={"Accept": accept})
        answer.raise_for_status()
        return answer.content

    def every_file() -> None:
        for row in rows:
            dcmread(BytesIO(objects.get(row.object)), stop_before_pixels=True).to_json()

    series = f"/studies/{study.deidentified_uid}/series/{rows[0].series_instance_uid}"
    frames = [f"{series}/instances/{row.sop_instance_uid}/frames/1" for row in rows[:50]]
    octets = 'multipart/related; type="application/octet-stream"'
    sent = [as_file(dataset(study="1.2.3.77", number=number, size=size)) for number in range(1, count + 1)]
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + one for one in sent) + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    with served_site() as site:
        get(f"{series}/metadata")
        found = {
            "metadata_s": _median(lambda: get(f"{series}/metadata")),
            "every_file_s": _median(every_file, 3),
            "search_s": _median(lambda: get("/studies")),
            "instances_s": _median(lambda: get(f"/studies/{study.deidentified_uid}/instances"), 3),
            "frame_s": _median(lambda: [get(one, octets) for one in frames], 3) / len(frames),
            "series_s": _median(lambda: get(series, 'multipart/related; type="application/dicom"'), 3),
        }
        began = time.perf_counter()
        client.post(f"{site}/dicomweb/studies", content=body, headers={"Content-Type": kind}).raise_for_status()
        found["stow_per_s"] = count / (time.perf_counter() - began)
    megabytes = sum(row.object.size for row in rows) / 1e6
    return {
        "bench": "dicomweb",
        "instances": count,
        "size": size,
        **{name: round(value, 4) for name, value in found.items()},
        "series_mb_per_s": round(megabytes / found["series_s"], 1),
        "ratio_every_file": round(found["every_file_s"] / found["metadata_s"], 1),
    }


def main() -> None:
    """Run it, print a table and one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, help="rows and columns of a slice")
    arguments = parser.parse_args()
    folder = _set_up()
    try:
        result = _measure(arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in result.items():
        print(f"{name:>20}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
