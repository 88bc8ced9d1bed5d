"""Command lines of the trainings and of what sets a trained model's operating point; the command that repeats a training."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

__all__ = ["add_arguments", "command_of", "set_threads", "tuning_parser"]


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


def add_arguments(p: argparse.ArgumentParser, *, minutes: float, validate_every: float) -> None:
    """The arguments that every training has."""
    p.add_argument("--dataset", type=Path, required=True, help="nnU-Net raw dataset folder")
    p.add_argument("--out", type=Path, required=True, help="checkpoints, log and export/ go here")
    p.add_argument("--minutes", type=float, default=minutes, help="wall-clock budget, resumed time included")
    p.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt if it is there")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workers", type=int, default=0, help="processes that draw batches; 0: the training itself")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    p.add_argument("--cache", type=Path, default=None, help="folder for preprocessed cases")
    p.add_argument("--save-every", type=float, default=3.0, help="minutes between checkpoints")
    p.add_argument(
        "--validate-every", type=float, default=validate_every, help="minutes between quick validations and exports"
    )
    p.add_argument("--version", default="1.0.0")
    p.add_argument("--trained-on", default="not stated", help='for example "simulated patients only"')


ALWAYS_RECORDED = ("minutes", "seed", "threads", "batch_size")
NEVER_RECORDED = ("dataset", "out", "cache", "resume", "save_every", "validate_every", "trained_on", "name", "version")


def command_of(module: str, p: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The command that repeats this training, for model.json. No path of this machine is in it."""
    parts = ["python -m", module]
    for name, value in vars(arguments).items():
        if name in NEVER_RECORDED or (name not in ALWAYS_RECORDED and value == p.get_default(name)):
            continue
        parts.append("--" + name.replace("_", "-"))
        if value is not True:
            parts.append(
                value.name if isinstance(value, Path) else f"{value:g}" if isinstance(value, float) else str(value)
            )
    return " ".join(parts)
