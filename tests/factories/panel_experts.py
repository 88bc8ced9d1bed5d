"""Experts for the panel's tests, run by the real supervisor in real processes: they read the tumour off the FLAIR image,
or off T1c where there is no FLAIR.

The test paints it there: 600 oedema, 700 necrosis, 800 enhancing. ``kind`` says how well an expert sees.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from scipy import ndimage

from imaging.brats.regions import REGIONS, nest
from inference.experts.contract import ExpertOutput, ModelIdentity, Progress, Prompt, Volumes
from inference.experts.errors import ExpertFailed
from inference.experts.factory import ExpertSpec
from inference.experts.weights import verify_weights


class PaintReader:
    """``good`` sees what is painted, ``small`` loses a layer of voxels, ``blind`` nothing; ``fails`` and ``dies``."""

    def __init__(self, spec: ExpertSpec) -> None:
        self.name, self.kind, self.folder = spec.name, spec.kind, Path(spec.weights_dir)

    def load(self) -> ModelIdentity:
        self.version = verify_weights(self.folder)
        return self.version

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        if self.kind == "fails":
            raise ExpertFailed("asked to fail")
        if self.kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        paint = volumes.images["FLAIR"] if "FLAIR" in volumes.images else volumes.images["T1c"]
        masks = {"WT": paint > 550, "TC": paint > 650, "ET": paint > 750}
        if self.kind == "blind":
            masks = {name: mask & False for name, mask in masks.items()}
        if self.kind == "small":
            masks = {name: ndimage.binary_erosion(mask, iterations=2) for name, mask in masks.items()}
        probabilities = nest({region: np.where(masks[region], 0.9, 0.02) for region in REGIONS}, volumes.brain_mask)
        if progress is not None:
            progress(1.0, "done")
        return ExpertOutput(probabilities, self.version, 0.1, "cpu", ("painted",))


def make(spec: ExpertSpec) -> PaintReader:
    """The factory named in the specification."""
    return PaintReader(spec)
