"""From a verified weights folder to the segment-anything network that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.experts.errors import WeightsMismatch
from inference.experts.sam.contract import SamBackend

__all__ = ["make_backend"]


def make_backend(folder: Path, model: Mapping[str, Any], device: str) -> SamBackend:
    """The network of a verified weights folder, by model.json's `library`: sam2 (also where none is named) or transformers.

    Raises WeightsMissing, WeightsMismatch.
    """
    library = str(model.get("library", "sam2"))
    if library == "sam2":
        from inference.experts.sam.sam2_package import Sam2Package

        return Sam2Package(folder, model, device)
    if library == "transformers":
        from inference.experts.sam.huggingface import load_huggingface

        return load_huggingface(folder, model, device)
    raise WeightsMismatch(f"{folder.name}: model.json names the unknown library {library!r}")
