"""Object stores for the tests: S3 (and SQS) by moto's server, Azure Blob by Azurite; each a real server on a free port."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages

from tests.peers import cache_folder, free_port, stop

# Azurite's own account, the same for everybody (https://learn.microsoft.com/azure/storage/common/storage-use-azurite).
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def configure(settings: Any, **options: dict[str, Any]) -> None:
    """Put these storages in place of those of the settings, by alias."""
    settings.STORAGES = settings.STORAGES | options
    storages._storages.clear()
    storages.__dict__.pop("backends", None)


def local(folder: Path) -> dict[str, Any]:
    """A storage in a folder."""
    return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(folder)}}


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """Address of a fresh moto server: S3 and SQS."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``s3_bucket(location="")``: a Django storage in a bucket of this test's own."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    bucket = f"oncoflow-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=moto_server, region_name="us-east-1").create_bucket(Bucket=bucket)

    def make(location: str = "") -> dict[str, Any]:
        options = {
            "bucket_name": bucket,
            "endpoint_url": moto_server,
            "region_name": "us-east-1",
            "addressing_style": "path",
            "signature_version": "s3v4",
            "location": location,
            "file_overwrite": False,
            "default_acl": None,
            "object_parameters": {"ServerSideEncryption": "AES256"},
        }
        return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}

    return make


def _azurite_program() -> str:
    """The command; from a cache folder of npm's outside the repository where it is not installed. Skips without npm."""
    if found := shutil.which("azurite-blob"):
        return found
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Azurite is not installed, nor npm to install it")
    cache = cache_folder("npm")
    program = cache / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        command = [npm, "install", "--prefix", str(cache), "--no-audit", "--no-fund", "--silent", "azurite@3"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, check=False, capture_output=True, timeout=400)
    if not program.exists():
        pytest.skip("npm could not install Azurite")
    return str(program)


@pytest.fixture(scope="session")
def azurite() -> Iterator[str]:
    """Connection string of a fresh Azurite."""
    program, port = _azurite_program(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="oncoflow-azurite-"))
    arguments = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, *arguments, "--skipApiVersionCheck", "--disableTelemetry"], stdout=log, stderr=log
        )
    try:
        from azure.core.exceptions import AzureError
        from azure.storage.blob import BlobServiceClient

        address = f"http://127.0.0.1:{port}/{_ACCOUNT}"
        connection = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};BlobEndpoint={address};"
        client = BlobServiceClient.from_connection_string(connection, retry_total=0)
        deadline = time.monotonic() + 60
        while True:
            try:
                client.get_service_properties()
                break
            except AzureError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("Azurite did not start:\n" + (folder / "log").read_text(errors="replace")[-2000:])
                time.sleep(0.1)
        yield connection
    finally:
        stop(server)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def azure_container(azurite: str) -> Callable[..., dict[str, Any]]:
    """``azure_container(location="")``: a Django storage in a container of this test's own."""
    from azure.storage.blob import BlobServiceClient

    container = f"oncoflow-{uuid.uuid4().hex[:12]}"
    BlobServiceClient.from_connection_string(azurite).create_container(container)

    def make(location: str = "") -> dict[str, Any]:
        options = {
            "connection_string": azurite,
            "azure_container": container,
            "location": location,
            "overwrite_files": False,
            "azure_ssl": False,
        }
        return {"BACKEND": "storages.backends.azure_storage.AzureStorage", "OPTIONS": options}

    return make


def storage_options(request: pytest.FixtureRequest, kind: str, location: str = "") -> dict[str, Any]:
    """A fresh storage of ``kind`` (local, s3 or azure); skips where its server cannot run."""
    if kind == "local":
        return local(request.getfixturevalue("tmp_path") / (location or "store"))
    fixture, part = {"s3": ("s3_bucket", "moto"), "azure": ("azure_container", "azurite")}[kind]
    # The account of real parts reads the names of a test's fixtures; this one is asked for while it runs.
    named = {*filter(None, str(dict(request.node.user_properties).get("parts", "")).split(",")), part}
    request.node.user_properties.append(("parts", ",".join(sorted(named))))
    options: dict[str, Any] = request.getfixturevalue(fixture)(location)
    return options
