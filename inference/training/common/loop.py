"""The loop that the three trainings share: rate over time, moving average, checkpoints, validation, the exported record.

A training gives it the network, how one step learns, how the averaged network is judged and how it is written down.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from inference.experts.documents import TrainingRecord
from inference.training.common.checkpoints import Average, load_checkpoint, save_checkpoint
from inference.training.common.progress import Budget, Log

__all__ = ["Loop", "endless"]


T = TypeVar("T")
VALIDATION_CASES = 8
"""Where files lie and what the record says elsewhere; the rest of what differs from its default changes the weights."""


class _Endless(IterableDataset[T], Generic[T]):
    def __init__(self, make: Callable[[int], Callable[[], T]], seed: int) -> None:
        self.make = make
        self.seed = seed

    def __iter__(self) -> Iterator[T]:
        worker = get_worker_info()
        draw = self.make(self.seed if worker is None else self.seed + 1_000_003 * (worker.id + 1))
        if worker is not None:
            torch.set_num_threads(1)
        while True:
            yield draw()


def endless(make: Callable[[int], Callable[[], T]], seed: int, workers: int, device: torch.device) -> Iterator[T]:
    """Batches without end. make: from a seed, what draws one batch; called once in every worker process."""
    loader: Any = DataLoader(
        _Endless(make, seed),
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


class Loop:
    """One training, from where its checkpoint left it.

    :param network: float32; what is averaged and exported. :param more: further modules that learn and are thrown away.
    :param clip: largest norm of the gradient. :param command: what repeats this run, for the record.
    ``step`` counts steps, earlier runs included.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        log: Log,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        command: str,
        more: Mapping[str, nn.Module] | None = None,
        warmup_steps: int = 40,
        clip: float = 1.0,
    ) -> None:
        self.arguments = arguments
        self.log = log
        self.network = network
        self.optimiser = optimiser
        self.parts: dict[str, nn.Module] = {"network": network, **(more or {})}
        self.warmup_steps = warmup_steps
        self.clip = clip
        self.average = Average(network)
        self.averaged = copy.deepcopy(network)
        self.file = Path(arguments.out) / "checkpoint.pt"
        self.step, spent = 0, 0.0
        self.commands: list[str] = []
        state = load_checkpoint(self.file) if arguments.resume else None
        if state is not None:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            optimiser.load_state_dict(state["optimiser"])
            self.average.restore(state["average"])
            self.step, spent = int(state["step"]), float(state["spent_s"])
            self.commands = list(state.get("commands", []))
        if command not in self.commands[-1:]:
            self.commands.append(command)
        self.budget = Budget(arguments.minutes, spent)
        self.parameters = sum(p.numel() for p in network.parameters())
        log.write(event="start", parameters=self.parameters, step=self.step, spent_s=spent)

    def record(self, cases: int) -> TrainingRecord:
        """What model.json says of the training. A run resumed with other options names the commands before it too."""
        a = self.arguments
        record: TrainingRecord = {"command": self.commands[-1]}
        if self.commands[1:]:
            record["earlier_commands"] = self.commands[:-1]
        return {
            **record,
            "seed": a.seed,
            "steps": self.step,
            "seconds": round(self.budget.spent_s),
            "device": str(a.device),
            "cases": cases,
            "parameters": self.parameters,
            "trained_on": a.trained_on,
        }

    def run(
        self,
        learn: Callable[[], float],
        validate: Callable[[], dict[str, float]],
        export: Callable[[], None],
        *,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Learn until the time is spent.

        learn: one forward and backward, gradients left on the network; returns the loss. validate and export use
        ``averaged``, which holds the moving average when they are called.
        """
        learning = [p for part in self.parts.values() for p in part.parameters()]
        losses: list[float] = []
        last_log = last_save = last_validation = time.monotonic()
        while self.budget.fraction < 1:
            rate = self.budget.rate(self.step, self.arguments.rate, warmup_steps=self.warmup_steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss = learn()
            norm = float(torch.nn.utils.clip_grad_norm_(learning, self.clip))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                # One such step would make every weight NaN. A patch without brain can do it: it is constant, and
                # instance norms magnify its gradient without bound.
                self.log.write(event="skipped", step=self.step, reason="loss or gradient is not finite")
                self.optimiser.zero_grad(set_to_none=True)
                continue
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            after_step()
            self.average.update(self.network)
            losses.append(loss)
            self.step += 1
            now = time.monotonic()
            if now - last_log > 30:
                self.log.write(
                    event="train",
                    step=self.step,
                    minutes=self.budget.spent_s / 60,
                    loss=float(np.mean(losses)),
                    rate=rate,
                    s_per_step=(now - last_log) / len(losses),
                )
                losses, last_log = [], now
            if now - last_save > self.arguments.save_every * 60:
                self._checkpoint()
                last_save = time.monotonic()
            if now - last_validation > self.arguments.validate_every * 60:
                self.average.copy_to(self.averaged)
                self.log.write(event="validation", step=self.step, **validate())
                export()
                last_validation = last_log = time.monotonic()
                losses = []
        self._checkpoint()
        self.average.copy_to(self.averaged)
        export()
        self.log.write(event="done", step=self.step, seconds=self.budget.spent_s, **validate())

    def _checkpoint(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        rest = {
            "average": self.average.state(),
            "step": self.step,
            "spent_s": self.budget.spent_s,
            "commands": self.commands,
        }
        save_checkpoint(self.file, {**state, "optimiser": self.optimiser.state_dict(), **rest})
