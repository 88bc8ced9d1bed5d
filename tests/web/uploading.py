"""A client of the upload interface, and files to bring in."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from django.test import Client

from tests.factories.dicom_files import study_files

STREAM = "application/offset+octet-stream"


def pairs(**values: str) -> str:
    """``Upload-Metadata``."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


class Sender:
    """Speaks tus through Django's test client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def post(self, path: str, body: Any = None) -> Any:
        return self.client.post(path, body if body is not None else {}, content_type="application/json")

    def begin(self, **declaration: Any) -> dict[str, Any]:
        answer = self.post("/api/uploads/", declaration)
        assert answer.status_code == 201, answer.content
        state: dict[str, Any] = answer.json()
        return state

    def announce(self, upload: str, size: int, *, body: bytes = b"", **metadata: str) -> Any:
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size), "Upload-Metadata": pairs(**metadata)}
        if body:
            return self.client.post(f"/api/uploads/{upload}/files/", body, content_type=STREAM, headers=headers)
        return self.client.post(f"/api/uploads/{upload}/files/", b"", content_type="application/json", headers=headers)

    def patch(self, place: str, offset: int, body: bytes) -> Any:
        headers = {"Tus-Resumable": "1.0.0", "Upload-Offset": str(offset)}
        return self.client.patch(place, body, content_type=STREAM, headers=headers)

    def send(self, upload: str, name: str, data: bytes, **metadata: str) -> str:
        """The whole file in two parts; where it is."""
        answer = self.announce(upload, len(data), filename=name, **metadata)
        assert answer.status_code == 201, answer.content
        place = str(answer.headers["Location"])
        half = len(data) // 2
        for offset, part in ((0, data[:half]), (half, data[half:])):
            if part:
                answer = self.patch(place, offset, part)
                assert answer.status_code == 204, answer.content
        assert answer.headers["Upload-Offset"] == str(len(data))
        return place

    def complete(self, upload: str, **declaration: Any) -> Any:
        return self.post(f"/api/uploads/{upload}/complete", declaration)

    def state(self, upload: str) -> dict[str, Any]:
        answer = self.client.get(f"/api/uploads/{upload}/")
        assert answer.status_code == 200, answer.content
        state: dict[str, Any] = answer.json()
        return state


def archive(*, extra: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """A zip of a study, its members named to climb out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, data in enumerate(study_files(slices=2, **options)):
            packed.writestr(f"../../../../tmp/oncoflow-climbs-{number}.dcm", data)
        for name, data in (extra or {}).items():
            packed.writestr(name, data)
    return out.getvalue()


def nifti(folder: Path, *, value: float = 1.0) -> bytes:
    """A small NIfTI, gzipped."""
    path = folder / f"{value}.nii.gz"
    nib.Nifti1Image(np.full((5, 6, 7), value, np.float32), np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(path)
    return path.read_bytes()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
