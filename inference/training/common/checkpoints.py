"""Moving average of a network's weights, and checkpoints that a kill cannot spoil."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

__all__ = ["Average", "load_checkpoint", "save_checkpoint"]


class AverageState(TypedDict):
    """What a checkpoint keeps of an `Average`."""

    steps: int
    values: dict[str, torch.Tensor]


class Average:
    """Exponential moving average of weights; the window grows from a few steps to about 1 / (1 - decay)."""

    def __init__(self, network: nn.Module, decay: float = 0.995) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {k: v.detach().clone() for k, v in network.named_parameters()}

    def update(self, network: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in network.named_parameters():
                self.values[name].lerp_(value, 1 - decay)

    def copy_to(self, network: nn.Module) -> None:
        with torch.no_grad():
            for name, value in network.named_parameters():
                value.copy_(self.values[name])

    def state(self) -> AverageState:
        return {"steps": self.steps, "values": self.values}

    def restore(self, state: AverageState) -> None:
        self.steps = int(state["steps"])
        self.values = {name: state["values"][name].to(own.device) for name, own in self.values.items()}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename, so that a kill leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint's state, or None when there is none."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
