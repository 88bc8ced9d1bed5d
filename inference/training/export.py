"""Turn a training's result into a weights folder that the repository can hold.

Weights are stored as float16 (half the size, no measurable loss of Dice); model.json pins every file's SHA-256.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from inference.experts.base import REGIONS, SEQUENCES, sha256_of

__all__ = ["LEAST_MM3", "half_state", "write_model_json", "write_nnunet_folder"]


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


def write_nnunet_folder(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    *,
    trainer: str = "nnUNetTrainer",
    configuration: str = "3d_fullres",
    fold: str = "0",
    mirroring_axes: Sequence[int] | None = (0, 1, 2),
) -> None:
    """A trained-model folder as nnU-Net's own nnUNetPredictor loads it."""
    place = folder / f"fold_{fold}"
    place.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "network_weights": half_state(state),
        "trainer_name": trainer,
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": None if mirroring_axes is None else tuple(mirroring_axes),
    }
    partial = place / "checkpoint_final.pth.partial"
    torch.save(checkpoint, partial)
    os.replace(partial, place / "checkpoint_final.pth")
    for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def write_model_json(
    folder: Path,
    *,
    name: str,
    version: str,
    kind: str,
    architecture: str,
    files: list[str],
    training: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """model.json: which model this is, what it was trained on, and the SHA-256 of each of its files."""
    data = {
        "name": name,
        "version": version,
        "kind": kind,
        "architecture": architecture,
        "channels": list(SEQUENCES),
        "regions": list(REGIONS),
        "files": {file: sha256_of(folder / file) for file in files},
        "training": dict(training),
        "trained_on": str(training.get("trained_on", "not stated")),
        "evaluation": "evaluation.json",
        **(extra or {}),
    }
    (folder / "model.json").write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    return data
