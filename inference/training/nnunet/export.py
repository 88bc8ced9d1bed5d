"""A trained nnU-Net as the folder that its own predictor loads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from inference.training.common.export import half_state

__all__ = ["write_nnunet_folder"]


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
