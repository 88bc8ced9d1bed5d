"""What the trainings share: a time budget, bfloat16 working weights, a moving average, checkpoints, a log."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = [
    "Average",
    "Budget",
    "Log",
    "WorkingCopy",
    "load_checkpoint",
    "save_checkpoint",
    "set_threads",
    "tuning_parser",
]


def set_threads(threads: int) -> None:
    """Threads for torch in this process."""
    torch.set_num_threads(max(1, threads))


def tuning_parser(prog: str, doc: str | None, cases: int) -> argparse.ArgumentParser:
    """The command line of what sets a trained model's operating point on the last cases of the training split."""
    p = argparse.ArgumentParser(prog=f"python -m {prog}", description=(doc or "").split("\n")[0])
    p.add_argument("--model", type=Path, required=True, help="weights folder; changed in place")
    p.add_argument("--dataset", type=Path, required=True, help="the dataset folder it was trained from")
    p.add_argument("--cases", type=int, default=cases, help="how many of the training split's last cases")
    p.add_argument("--threads", type=int, default=1)
    return p


class Budget:
    """Wall-clock budget that survives a resume. The learning rate follows the time spent, not a count of steps,

    because a shared machine does not promise a number of steps.
    """

    def __init__(self, minutes: float, spent_s: float = 0.0) -> None:
        self.total_s = minutes * 60
        self.before_s = spent_s
        self.started = time.monotonic()

    @property
    def spent_s(self) -> float:
        return self.before_s + time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Share of the budget that is used up, 0..1."""
        return min(1.0, self.spent_s / self.total_s)

    def rate(self, step: int, base: float, warmup_steps: int = 40, power: float = 0.9) -> float:
        """Polynomial decay over time with a linear warm-up over steps."""
        return base * min(1.0, (step + 1) / warmup_steps) * max(0.01, (1 - self.fraction) ** power)


class _Float32(nn.Module):
    """Runs a module without parameters in float32 and gives back the type that came in."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x.float())
        return y.to(x.dtype)


class _Conv3d(nn.Conv3d):
    """A convolution that leaves bfloat16 where two planes are left, as at the bottom of a patch of 32 voxels.

    There oneDNN (torch 2.15, 3x3x3, stride 1) returns a weight gradient that is partly memory it never wrote.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] != 2:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)


class WorkingCopy:
    """A bfloat16 copy of a float32 network: forward and backward run on the copy, the optimiser on the original.

    Twice as fast as float32 and faster than autocast on CPUs with avx512_bf16, where the casts around each norm cost
    a quarter of the step.
    """

    def __init__(self, master: nn.Module, work: nn.Module) -> None:
        self.master = master
        for module in list(work.modules()):
            if type(module) is nn.Conv3d:
                module.__class__ = _Conv3d
            for name, child in module.named_children():
                if isinstance(child, nn.AvgPool3d):  # torch has no bfloat16 kernel for it on CPUs
                    setattr(module, name, _Float32(child))
        self.work = work.to(torch.bfloat16)
        self.pairs = list(zip(master.parameters(), self.work.parameters(), strict=True))
        self.pull()

    def pull(self) -> None:
        """Copy the master's weights to the working copy."""
        with torch.no_grad():
            for own, copy in self.pairs:
                copy.copy_(own)

    def push_gradients(self) -> None:
        """Move the working copy's gradients to the master in float32."""
        for own, copy in self.pairs:
            own.grad = None if copy.grad is None else copy.grad.float()
            copy.grad = None


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

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.values = {name: state["values"][name].to(own.device) for name, own in self.values.items()}


class Log:
    """Lines of JSON in OUT/log.jsonl, and a readable line on stdout."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"

    def write(self, **values: Any) -> None:
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        with self.path.open("a") as handle:
            handle.write(json.dumps(rounded) + "\n")
        print(" ".join(f"{k}={v}" for k, v in rounded.items()), flush=True)


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
