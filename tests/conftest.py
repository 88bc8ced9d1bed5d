"""What every test shares: keys, an empty object store, and the real parts that fixtures start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [f"tests.peers.{path.stem}" for path in sorted((Path(__file__).parent / "peers").glob("[a-z]*.py"))]


@pytest.fixture(scope="session", autouse=True)
def _keysets() -> None:
    """Fresh keysets for this test process."""
    from django.conf import settings

    from oncoflow_site.foundation.keys import create_keysets

    path = Path(settings.ONCOFLOW_KEYSET)
    if not path.exists():
        create_keysets(path)


@pytest.fixture
def test_data() -> Path:
    """The folder of real test data; skips where it is absent."""
    folder = os.environ.get("ONCOFLOW_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real test data absent: ONCOFLOW_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture
def test_peers() -> Path:
    """The folder of commands that start real peers; skips where it is absent."""
    folder = os.environ.get("ONCOFLOW_TEST_PEERS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real peers absent: ONCOFLOW_TEST_PEERS names no folder")
    return Path(folder)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep account of the real parts: a test names them with ``@pytest.mark.peer``, a fixture by its own name."""
    where = os.environ.get("ONCOFLOW_PARTS_REPORT")
    parts = dict(report.user_properties).get("parts")
    if not where or not parts or os.environ.get("PYTEST_XDIST_WORKER"):
        return  # with xdist the controller sees every report once more
    reason = ""
    if report.skipped:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix(
            "Skipped: "
        )
    elif report.when != "call":
        return
    with Path(where).open("a", encoding="utf-8") as file:
        for part in str(parts).split(","):
            file.write(json.dumps({"part": part, "outcome": "skipped" if reason else "used", "reason": reason}) + "\n")


# fixture -> the real part behind it
FIXTURE_PARTS = {
    "postgres": "postgresql",
    "postgres_url": "postgresql",
    "redis_url": "redis",
    "redis_server": "redis",
    "orthanc": "orthanc",
    "dcmtk": "dcmtk",
    "chromium": "chromium",
    "ohif": "ohif",
    "poppler": "poppler",
    "tesseract": "tesseract",
    "s3_bucket": "moto",
    "moto_server": "moto",
    "azure_container": "azurite",
    "azurite": "azurite",
    "elasticsearch": "elasticsearch",
    "elasticsearch_url": "elasticsearch",
    "hapi_fhir": "hapi-fhir",
    "fhir_validator": "fhir-validator",
    "hapi_hl7": "hapi-hl7",
    "test_data": "test-data",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("torch"):
            # To one worker, one after another: two torch processes slow each other more than twofold.
            item.add_marker(pytest.mark.xdist_group("torch"))
        parts = {FIXTURE_PARTS[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURE_PARTS}
        parts |= {str(mark.args[0]) for mark in item.iter_markers("peer")}
        if parts:
            item.user_properties.append(("parts", ",".join(sorted(parts))))
