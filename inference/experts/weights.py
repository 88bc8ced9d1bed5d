"""A weights folder: model.json, which pins every other file by its SHA-256, and the comparison of both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

from inference.experts.contract import ModelIdentity
from inference.experts.documents import ModelDocument
from inference.experts.errors import WeightsMismatch, WeightsMissing

__all__ = ["DISTRIBUTION", "read_model_json", "sha256_of", "verify_weights"]

DISTRIBUTION = "distribution.json"
"""File of a weights folder: what the images it was trained on look like (`inference.domain_shift.distribution`)."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_model_json(folder: Path) -> ModelDocument:
    """model.json of a weights folder. Raises WeightsMissing when absent or unreadable."""
    try:
        data = json.loads((folder / "model.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsMissing(f"{folder.name}: model.json is missing or unreadable") from error
    if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
        raise WeightsMissing(f"{folder.name}: model.json names no files")
    return cast(ModelDocument, data)


def verify_weights(folder: Path, pinned_sha256: str | None = None) -> ModelIdentity:
    """Compare every file that model.json names with its SHA-256, and model.json with `pinned_sha256` if given.

    Raises WeightsMissing or WeightsMismatch.
    """
    data = read_model_json(folder)
    own = sha256_of(folder / "model.json")
    if pinned_sha256 is not None and own != pinned_sha256:
        raise WeightsMismatch(f"{folder.name}: model.json differs from the pinned SHA-256")
    root = folder.resolve()
    for name, expected in data["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise WeightsMismatch(f"{folder.name}: model.json names a file outside its folder")
        if not path.is_file():
            raise WeightsMissing(f"{folder.name}: {name} is missing")
        if sha256_of(path) != expected:
            raise WeightsMismatch(f"{folder.name}: {name} differs from its SHA-256 in model.json")
    try:
        return ModelIdentity(str(data["name"]), str(data["version"]), own, str(data["architecture"]))
    except KeyError as error:
        raise WeightsMissing(f"{folder.name}: model.json lacks {error.args[0]}") from error
