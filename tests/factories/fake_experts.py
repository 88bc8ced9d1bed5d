"""Experts that misbehave on purpose, run in real child processes by the supervisor's tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from imaging.brats.regions import REGIONS
from inference.experts.contract import ExpertOutput, ModelIdentity, Progress, Prompt, Refined, Volumes
from inference.experts.errors import ExpertFailed, VolumesNeeded, WeightsMissing
from inference.experts.factory import ExpertSpec
from tests.factories.waiting import until


class FakeExpert:
    """What it does is told by `kind`, and by T1's largest value for a request of its own."""

    def __init__(self, spec: ExpertSpec) -> None:
        self.name = spec.name
        self.kind = spec.kind
        self.folder = Path(spec.weights_dir)

    def load(self) -> ModelIdentity:
        if self.kind == "unloadable":
            raise WeightsMissing("weights of the test are missing")
        if self.kind.startswith("holds-"):
            self.ballast = np.ones(int(self.kind.removeprefix("holds-")) << 17)  # MiB of float64
        if self.kind == "dies-loading":
            os._exit(7)
        return ModelIdentity(self.name, "1", "0" * 64, "fake")

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
        if wish == 16:
            time.sleep(4.0)
        if wish == 15:
            time.sleep(1.0)
        if wish == 17:  # at work until the test lets it go
            (self.folder / "at-work").touch()
            until((self.folder / "go").exists)
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
            ModelIdentity(self.name, "1", "0" * 64, "fake"),
            0.1,
            "cpu",
            (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"], str(os.getpid())),
        )


class Clicker(FakeExpert):
    """Answers a prompt with the voxels within 2 of the first positive point that are not nearer to a negative one.

    A point with z = 0 kills it. The notes tell the process and how often volumes came.
    """

    def __init__(self, spec: ExpertSpec) -> None:
        super().__init__(spec)
        self.known: dict[str, tuple[int, ...]] = {}
        self.loads = 0

    def refine(self, key: str, prompt: Prompt | None, volumes: Volumes | None = None) -> Refined | None:
        if volumes is not None:
            self.known[key] = volumes.shape
            self.loads += 1
        if key not in self.known:
            raise VolumesNeeded("not known")
        if prompt is None:
            return None
        if prompt.points and prompt.points[0][0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        grid = np.stack(np.indices(self.known[key]), -1)
        near = {p: np.linalg.norm(grid - np.array(p[:3]), axis=-1) for p in prompt.points}
        if prompt.box is not None:
            mask = ((grid >= prompt.box[0]) & (grid <= prompt.box[1])).all(-1)
        else:
            mask = near[next(p for p in prompt.points if p[3])] <= 2
        for point in prompt.points:
            mask &= point[3] | (near[point] > 1)
        origin = [0, 0, 0]
        if prompt.scope == "slice":
            origin[prompt.axis] = prompt.slice_index
            mask = np.expand_dims(np.take(mask, prompt.slice_index, prompt.axis), prompt.axis)
        notes = (f"pid {os.getpid()}", f"loads {self.loads}")
        model = ModelIdentity(self.name, "1", "0" * 64, "fake")
        return Refined(prompt.region, (origin[0], origin[1], origin[2]), mask, model, 0.01, "cpu", notes)


def make(spec: ExpertSpec) -> FakeExpert:
    """The factory named in the specification."""
    return Clicker(spec) if spec.name.startswith("clicker") else FakeExpert(spec)
