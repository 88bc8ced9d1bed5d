"""Wall-clock budget and log of a training, both surviving a resume."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

__all__ = ["Budget", "Log"]


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
