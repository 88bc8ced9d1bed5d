"""A vision-language model as an expert: MedGemma 1.5 (Gemma3ForConditionalGeneration) or any other by configuration.

It is shown key slices and the indication and answers with boxes and findings as JSON; a classical decoder makes masks of
the boxes. model.json says how: ``pictures`` (which channels make each picture, for example [["FLAIR", "T1c", "T1"]] or
[["FLAIR"], ["T1c"]]), ``slices``, ``prompt``, ``quantise``, or ``server`` with ``url`` and ``model``.
Published box localisation of MedGemma 1.5 is for chest radiographs: on MRI expect weak boxes, and let evaluation speak.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import nest
from inference.experts.common.intensity import blank_channels, stack_channels, zscore_in_brain
from inference.experts.common.islands import minimum_volumes, suppress_small
from inference.experts.common.slices import CHANNELS, resize, to_unit, working_grid
from inference.experts.contract import ExpertOutput, Finding, ModelIdentity, Progress, Prompt, Volumes
from inference.experts.documents import ModelDocument
from inference.experts.errors import ExpertError, ExpertFailed, WeightsMismatch
from inference.experts.vlm.answer import QUESTION, Answer, BadAnswer, parse, question
from inference.experts.vlm.backend import OpenAIBackend, TransformersBackend, VlmBackend
from inference.experts.vlm.decoder import PlacedBox, decode
from inference.experts.vlm.views import View, brain_window, key_slices, picture
from inference.experts.weights import read_model_json, verify_weights
from oncoflow_site.foundation.errors import required

__all__ = ["VlmExpert"]

SLICES = 16
AT_LEAST_READABLE = 0.5
SERVER_KEY = "ONCOFLOW_VLM_SERVER_KEY"


class VlmExpert:
    """One vision-language model, loaded once and kept. See NnUNetExpert for the arguments."""

    def __init__(
        self,
        name: str,
        weights_dir: Path | str,
        *,
        pinned_sha256: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        needs: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.folder = Path(weights_dir)
        self.pinned_sha256 = pinned_sha256
        self.device = device
        self.threads = threads
        self.needs = needs
        self.model: ModelIdentity | None = None
        self._backend: VlmBackend | None = None
        self._minimum: dict[str, float] = {}
        self._pictures: list[list[int]] = []
        self._slices = SLICES
        self._prompt = QUESTION

    def load(self) -> ModelIdentity:
        """Verify and load. Raises WeightsMissing, WeightsMismatch."""
        if self.model is not None:
            return self.model
        model = verify_weights(self.folder, self.pinned_sha256)
        data = read_model_json(self.folder)
        self._minimum = minimum_volumes(data)
        try:
            self._pictures = [[CHANNELS.index(c) for c in one] for one in data.get("pictures", [list(CHANNELS)])]
            self._slices = int(data.get("slices", SLICES))
            self._prompt = str(data.get("prompt", QUESTION))
            question("", self._prompt)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise WeightsMismatch(f"{self.folder.name}: model.json describes no question") from error
        if not self._pictures or any(len(one) not in (1, 3) for one in self._pictures) or self._slices < 1:
            raise WeightsMismatch(f"{self.folder.name}: a picture is of one or of three channels")
        self._backend = self._connect(data)
        self.model = model
        return model

    def _connect(self, data: ModelDocument) -> VlmBackend:
        server = data.get("server")
        if isinstance(server, dict):
            return OpenAIBackend(str(server["url"]), str(server["model"]), key=os.environ.get(SERVER_KEY, ""))
        return TransformersBackend(
            self.folder,
            device=self.device,
            threads=self.threads,
            quantise=str(data.get("quantise", "")),
            batch_size=int(data.get("batch_size", 8)),
        )

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        """Region probabilities and findings for one study; `prompt` of a person is not used.

        Raises MissingSequence, ExpertFailed (also when fewer than half of the answers follow the form).
        """
        model = self.load()
        tell = progress or (lambda fraction, text: None)
        started = time.perf_counter()
        stack = stack_channels(volumes, CHANNELS, blank=blank_channels(volumes, "vlm", {}, self.needs))
        tell(0.02, "preparing")
        try:
            probabilities, findings, notes = self._run(stack, volumes, tell)
        except ExpertError:
            raise
        except Exception as error:
            raise ExpertFailed(f"{self.name} failed: {type(error).__name__}") from error
        output = suppress_small(nest(probabilities, volumes.brain_mask), volumes.spacing, self._minimum)
        tell(1.0, "done")
        device = self._backend.device if self._backend is not None else self.device
        return ExpertOutput(output, model, time.perf_counter() - started, device, notes, findings)

    def _run(
        self, stack: NDArray[np.float32], volumes: Volumes, tell: Progress
    ) -> tuple[dict[str, NDArray[np.float32]], tuple[Finding, ...], tuple[str, ...]]:
        backend = required(self._backend, "the backend of a loaded model")
        z, brain = working_grid(zscore_in_brain(stack, volumes.brain_mask), volumes)
        unit = to_unit(z, brain)
        window = brain_window(brain)
        views = [View(index, window) for index in key_slices(z[0], brain, self._slices)]
        text = question(volumes.indication, self._prompt)
        answers: list[Answer | None] = []
        backend.begin()
        batch = 8
        for begin in range(0, len(views), batch):
            part = views[begin : begin + batch]
            asked = [[picture(unit, channels, view) for channels in self._pictures] for view in part]
            answers += [_read(pieces) for pieces in backend.ask(asked, text)]
            tell(0.05 + 0.85 * len(answers) / len(views), f"slice {len(answers)} of {len(views)}")
        readable = [(view, one) for view, one in zip(views, answers, strict=True) if one is not None]
        if len(readable) < AT_LEAST_READABLE * len(views):
            raise ExpertFailed(f"{len(views) - len(readable)} of {len(views)} answers did not follow the form")
        boxes = [
            PlacedBox(box.region, view.z, view.to_slice(box.box), box.confidence)
            for view, one in readable
            for box in one.boxes
        ]
        found = decode(boxes, [view.z for view, _ in readable], z, brain)
        full = resize(np.stack([found[region] for region in ("ET", "TC", "WT")]), volumes.shape)
        step = volumes.shape[0] / brain.shape[0]
        findings = _findings([(round(view.z * step), one) for view, one in readable])
        notes: tuple[str, ...] = (f"{len(views)} slices were shown; {len(boxes)} boxes",)
        if len(readable) < len(views):
            notes += (f"{len(views) - len(readable)} answers did not follow the form and were left out",)
        notes += backend.notes
        return {"ET": full[0], "TC": full[1], "WT": full[2]}, findings, notes


def _read(pieces: Any) -> Answer | None:
    try:
        return parse(pieces)
    except BadAnswer:
        return None


def _findings(said: list[tuple[int, Answer]]) -> tuple[Finding, ...]:
    """Each different sentence once, where it was said most confidently, the most often said first; at most eight."""
    best: dict[str, Finding] = {}
    times: dict[str, int] = {}
    for slice_z, one in said:
        for spoken in one.findings:
            times[spoken.text] = times.get(spoken.text, 0) + 1
            if spoken.text not in best or spoken.confidence > best[spoken.text].confidence:
                best[spoken.text] = Finding(spoken.text, round(spoken.confidence, 3), slice_z)
    return tuple(sorted(best.values(), key=lambda f: (-times[f.text], -f.confidence))[:8])
