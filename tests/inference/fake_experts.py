"""Experts that misbehave on purpose, run in real child processes by the supervisor's tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from inference.experts.base import (
    REGIONS,
    ExpertFailed,
    ExpertOutput,
    ModelVersion,
    Progress,
    Prompt,
    Volumes,
    WeightsMissing,
)
from inference.experts.factory import ExpertSpec


class FakeExpert:
    """What it does is told by `kind`, and by T1's largest value for a request of its own."""

    def __init__(self, spec: ExpertSpec) -> None:
        self.name = spec.name
        self.kind = spec.kind
        self.folder = Path(spec.weights_dir)

    def load(self) -> ModelVersion:
        if self.kind == "unloadable":
            raise WeightsMissing("weights of the test are missing")
        if self.kind == "dies-loading":
            os._exit(7)
        return ModelVersion(self.name, "1", "0" * 64, "fake")

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        wish = int(volumes.images["T1"].max())
        if wish == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        if wish == 12:
            time.sleep(600)
        if wish == 13:
            raise ExpertFailed("asked to fail")
        if wish == 14:
            raise RuntimeError("secret detail of a stack trace")
        if wish == 15:
            time.sleep(1.0)
        if wish == 16:  # at work for long, and says so
            for step in range(600):
                (self.folder / "steps.txt").write_text(str(step))
                time.sleep(0.1)
                if progress is not None:
                    progress(step / 600, "still at it")
        with (self.folder / "order.txt").open("a") as handle:
            handle.write(f"{wish}{'p' if prompt else ''}\n")
        if progress is not None:
            progress(0.5, "half way")
            progress(1.0, "done")
        inside = volumes.brain_mask.astype(np.float16)
        probabilities = {r: inside * np.float16(0.75) for r in REGIONS}
        return ExpertOutput(
            probabilities,
            ModelVersion(self.name, "1", "0" * 64, "fake"),
            0.1,
            "cpu",
            (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"], str(os.getpid())),
        )


def make(spec: ExpertSpec) -> FakeExpert:
    """The factory named in the specification."""
    return FakeExpert(spec)
