"""What every test shares: keys, an empty object store, and the real parts that fixtures start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    f"tests.peers.{path.stem}"
    for path in sorted((Path(__file__).parent / "peers").glob("[a-z]*.py"))
]


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
