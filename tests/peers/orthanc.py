"""A real Orthanc with its DICOMweb plugin for tests that need another DICOM node: on free ports, gone afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.peers import free_port, stop

PROGRAMS = ("Orthanc", "/usr/sbin/Orthanc", "orthanc")
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")


@dataclass
class Orthanc:
    """A running Orthanc.

    :ivar url: its REST address; DICOMweb is at ``<url>/dicom-web/`` where the plugin is installed.
    """

    url: str
    dicom_port: int
    ae_title: str
    dicomweb: bool

    def upload(self, data: bytes) -> dict[str, Any]:
        """Store one DICOM file; its answer."""
        answer = httpx.post(f"{self.url}/instances", content=data, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    def add_modality(self, name: str, ae_title: str, host: str, port: int) -> None:
        """Make another node known to it."""
        body = {"AET": ae_title, "Host": host, "Port": port}
        httpx.put(f"{self.url}/modalities/{name}", json=body, timeout=30).raise_for_status()

    def store(self, modality: str, resource: str) -> dict[str, Any]:
        """C-STORE a study of its own to another node; its answer."""
        answer = httpx.post(f"{self.url}/modalities/{modality}/store", json={"Resources": [resource]}, timeout=60)
        answer.raise_for_status()
        return dict(answer.json())


def installed() -> str | None:
    """Path of the program, None where it is not installed."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def running_orthanc(**options: Any) -> Iterator[Orthanc]:
    """An Orthanc of its own on free ports, gone afterwards.

    :param options: entries of its configuration file beside (or instead of) those that a test needs.
    """
    program = installed()
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-orthanc-"))
    http, dicom = free_port(), free_port()
    plugins = sorted({str(path.resolve()) for place in PLUGINS for path in Path(place).glob("libOrthancDicomWeb.so*")})
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": plugins[:1],
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "OverwriteInstances": True,
        "StorageCompression": False,
        **options,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{http}"
    auth = next(iter(settings.get("RegisteredUsers", {}).items()), None)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"{url}/system", timeout=2, auth=auth).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        "Orthanc did not start:\n" + (folder / "log").read_text(errors="replace")[-2000:]
                    ) from None
                time.sleep(0.1)
        yield Orthanc(url, dicom, str(settings["DicomAet"]), bool(plugins))
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def orthanc_server() -> Iterator[Orthanc]:
    """One Orthanc for the session."""
    if installed() is None:
        pytest.skip("Orthanc is not installed")
    with running_orthanc() as server:
        yield server


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """The Orthanc, emptied for this test."""
    for study in httpx.get(f"{orthanc_server.url}/studies", timeout=30).json():
        httpx.delete(f"{orthanc_server.url}/studies/{study}", timeout=30)
    return orthanc_server
