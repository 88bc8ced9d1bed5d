"""Tesseract, which reads text in pixels."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def tesseract() -> str:
    """Path of the binary; skips where it is not installed."""
    path = shutil.which("tesseract")
    if path is None:
        pytest.skip("tesseract is not installed")
    return path
