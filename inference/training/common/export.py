"""Turn a training's result into a weights folder that the repository can hold.

Weights are stored as float16 (half the size, no measurable loss of Dice); model.json pins every file's SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from imaging.brats.regions import REGIONS
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.documents import TrainingRecord
from inference.experts.weights import sha256_of

__all__ = ["LEAST_MM3", "half_state", "write_model_json"]


def half_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float16 copy of a state dict in which tensors that shared memory still do.

    nnU-Net's decoder holds its encoder, and each block its convolution twice: unshared, the file triples.
    """
    seen: dict[int, torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        pointer = value.data_ptr()
        if pointer not in seen or value.numel() == 0:
            seen[pointer] = value.detach().to(torch.float16 if value.is_floating_point() else value.dtype).clone()
        out[name] = seen[pointer]
    return out


LEAST_MM3 = {"WT": 300, "TC": 150, "ET": 100}
"""Smallest islands worth keeping, for models whose operating point nobody has set (calibrate.py sets it for an nnU-Net)."""


def write_model_json(
    folder: Path,
    *,
    name: str,
    version: str,
    kind: str,
    architecture: str,
    files: list[str],
    training: TrainingRecord,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write model.json: which model this is, what it was trained on, and the SHA-256 of each of its files."""
    data = {
        "name": name,
        "version": version,
        "kind": kind,
        "architecture": architecture,
        "channels": list(PANEL_SEQUENCES),
        "regions": list(REGIONS),
        "files": {file: sha256_of(folder / file) for file in files},
        "training": dict(training),
        "trained_on": str(training.get("trained_on", "not stated")),
        "evaluation": "evaluation.json",
        **(extra or {}),
    }
    (folder / "model.json").write_text(json.dumps(data, indent=1) + "\n", "utf-8")
