"""What the demo prints: a line per step while it runs, and a table at the end. Plain text where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class StepFailed(Exception):
    """A step of the demo did not give what it must. The message says which value was seen and which was expected."""


@dataclass
class Step:
    """One step: its title, how it went, and what there is to say about it."""

    title: str
    seconds: float = 0.0
    outcome: str = ""
    facts: list[str] = field(default_factory=list)

    def say(self, fact: str) -> None:
        """Add a fact to the closing table."""
        self.facts.append(fact)


class Display:
    """Prints steps as they go; keeps them for the closing table."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.begun = time.monotonic()
        self._live = sys.stdout.isatty()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Times one step. `StepFailed` is noted and goes on upwards."""
        step = Step(title)
        self.steps.append(step)
        number = len(self.steps)
        print(f"[{number:2}] {title} ...", flush=True)
        start = time.monotonic()
        try:
            yield step
            step.outcome = "ok"
        except KeyboardInterrupt:
            step.outcome = "stopped"
            raise
        except BaseException:
            step.outcome = "FAILED"
            raise
        finally:
            step.seconds = time.monotonic() - start
            self._clear()
            told = "; ".join(step.facts)
            print(f"     {step.outcome:6} {step.seconds:6.1f} s  {told}", flush=True)

    def progress(self, text: str) -> None:
        """A line that the next one overwrites; nothing where the output is a file."""
        if self._live:
            print(f"\r     {text[:110]:110}", end="", flush=True)

    def _clear(self) -> None:
        if self._live:
            print("\r" + " " * 116 + "\r", end="")

    def table(self) -> str:
        """The closing table: step, seconds, outcome."""
        width = max((len(step.title) for step in self.steps), default=10)
        lines = [f"{'step':{width}}  {'seconds':>8}  outcome", "-" * (width + 20)]
        lines += [f"{step.title:{width}}  {step.seconds:8.1f}  {step.outcome}" for step in self.steps]
        lines.append(f"{'all':{width}}  {time.monotonic() - self.begun:8.1f}")
        return "\n".join(lines)
