"""The OHIF viewer as its makers publish it (npm), prepared by our own command: fetched once into a cache, checked by its hash."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from django.core.management import call_command

from tests.peers import cache_folder

VERSION = "3.13.2"
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="


def _whole(package: Path) -> bool:
    if not package.is_file():
        return False
    return base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() == SHA512


@pytest.fixture(scope="session")
def ohif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ONCOFLOW_VIEWER_DIR; skips where npm is absent or the package cannot be fetched."""
    package = cache_folder("ohif") / f"ohif-app-{VERSION}.tgz"
    if not _whole(package):
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("OHIF is not in the cache, and npm is not installed")
        command = [npm, "pack", f"@ohif/app@{VERSION}", "--silent", "--pack-destination", str(package.parent)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm cannot fetch OHIF ({type(error).__name__})")
        if not _whole(package):
            pytest.fail("the OHIF package is not the one that was checked")
    folder = tmp_path_factory.mktemp("ohif") / "viewer"
    call_command("install_viewer", str(package), to=str(folder), stdout=open(os.devnull, "w"))  # noqa: SIM115
    return folder
