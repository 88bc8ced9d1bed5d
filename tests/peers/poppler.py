"""Poppler's own reading of our PDFs: pages as pictures (pdftoppm), words (pdftotext), signatures (pdfsig)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image


@dataclass(frozen=True)
class Poppler:
    """The programs, working in ``folder``."""

    folder: Path

    def _file(self, pdf: bytes) -> Path:
        path = self.folder / "document.pdf"
        path.write_bytes(pdf)
        return path

    def picture(self, pdf: bytes, page: int = 1, dpi: int = 60) -> Image.Image:
        """One page as it prints."""
        stem = self.folder / "page"
        arguments = ["-png", "-r", str(dpi), "-f", str(page), "-singlefile", str(self._file(pdf)), str(stem)]
        subprocess.run(["pdftoppm", *arguments], check=True, capture_output=True)
        return Image.open(stem.with_suffix(".png")).convert("RGB")

    def text(self, pdf: bytes) -> str:
        """All words, blanks collapsed."""
        done = subprocess.run(["pdftotext", "-layout", self._file(pdf), "-"], check=True, capture_output=True)
        return " ".join(done.stdout.decode("utf-8").split())

    def signatures(self, pdf: bytes) -> str:
        """What pdfsig says of every signature; certificates are not judged (a demonstration authority is unknown to it)."""
        done = subprocess.run(["pdfsig", "-nocert", self._file(pdf)], capture_output=True, check=False)
        return done.stdout.decode("utf-8", "replace")


@pytest.fixture
def poppler(tmp_path: Path) -> Poppler:
    """Poppler's programs; skips where they are absent."""
    missing = [name for name in ("pdftoppm", "pdftotext", "pdfsig") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"poppler is not installed ({', '.join(missing)})")
    return Poppler(tmp_path)
