"""Segment-anything networks as an expert on brain MRI: SAM 2 by its own package, SAM 2 and SAM 3 by transformers.

Automatic: image evidence alone, or words where the network reads them, prompts slices in all three directions (automatic.py).
Both start from bright FLAIR: it is the one sequence that is needed, the others may be blank. It never sees another expert's
mask, so its vote is its own. Interactive: a person's box or clicks for one region are
answered on their slice and, where asked for, carried to its neighbours (interactive.py); what the encoder made of a slice is
kept. Method: Ravi et al., SAM 2, arXiv 2408.00714.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, nest
from inference.experts.common.flair_baseline import salient_places, suggested_regions
from inference.experts.common.intensity import blank_channels, stack_channels, zscore_in_brain
from inference.experts.common.islands import minimum_volumes, suppress_small
from inference.experts.common.out_of_memory import MemoryFallback
from inference.experts.common.slices import CHANNELS, resize, to_unit, working_grid
from inference.experts.contract import ExpertOutput, ModelIdentity, Progress, Prompt, Refined, Volumes
from inference.experts.errors import (
    ExpertError,
    ExpertFailed,
    InvalidVolumes,
    MissingSequence,
    VolumesNeeded,
    WeightsMismatch,
)
from inference.experts.sam.automatic import TOKEN_REGIONS, Evidence, PlaceSegmentation, segment
from inference.experts.sam.backends import make_backend
from inference.experts.sam.contract import SamBackend
from inference.experts.sam.interactive import Interaction, Prepared
from inference.experts.weights import read_model_json, verify_weights
from oncoflow_site.foundation.byte_lru import ByteLru

__all__ = ["SamExpert"]

STUDIES_BYTES = 256 << 20
EMBEDDINGS_BYTES = 256 << 20
GPU_BATCH = 8
PLACES = 5
LEAST_PLACE_VOXELS = 60  # half a millilitre on the working grid


class SamExpert:
    """One network, loaded once and kept. See NnUNetExpert for the arguments; `batch`: slices embedded together.

    ``least_object_score`` (training/presence.py sets it in model.json): a place whose clearest slices score lower is taken
    for one without tumour; None: nothing tells, and only the largest place is asked about. ``shown``: the highest score of
    the study predicted last.
    """

    def __init__(
        self,
        name: str,
        weights_dir: Path | str,
        *,
        pinned_sha256: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        batch: int | None = None,
        needs: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.folder = Path(weights_dir)
        self.pinned_sha256 = pinned_sha256
        self.device = device
        self.threads = threads
        self.batch = batch or (GPU_BATCH if device.startswith("cuda") else 1)
        self.needs = needs
        self.model: ModelIdentity | None = None
        self._backend: SamBackend
        self._memory: MemoryFallback
        self._interaction: Interaction
        self._studies: ByteLru[str, Prepared] = ByteLru(STUDIES_BYTES, lambda study: study.bytes)
        self._tokens = False
        self._minimum: dict[str, float] = {}
        self.least_object_score: float | None = None
        self.shown = float("nan")

    def load(self) -> ModelIdentity:
        """Verify, build, load plain tensors. Raises WeightsMissing, WeightsMismatch."""
        if self.model is not None:
            return self.model
        model = verify_weights(self.folder, self.pinned_sha256)
        data = read_model_json(self.folder)
        self._minimum = minimum_volumes(data)
        least = data.get("least_object_score")
        self.least_object_score = float(least) if isinstance(least, int | float) else None
        named = data.get("mask_tokens")
        if named not in (None, list(TOKEN_REGIONS)):
            raise WeightsMismatch(
                f"{self.folder.name}: the mask tokens were not trained for {', '.join(TOKEN_REGIONS)}"
            )
        import torch

        torch.set_num_threads(self.threads)
        self._tokens = named is not None
        self._backend = make_backend(self.folder, data, self.device)
        self._memory = MemoryFallback(self.device, self.batch, self._move)
        tokens = TOKEN_REGIONS if self._tokens and data.get("interactive_token") != "single" else ()
        self._interaction = Interaction(self._backend, self._memory, EMBEDDINGS_BYTES, tokens)
        self.model = model
        return model

    def _move(self, device: str) -> None:
        # What was embedded lies on the device that is left.
        self._interaction.embeddings.clear()
        self._backend.move(device)

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        """Region probabilities for one study; a prompt overrides its region. Raises MissingSequence, ExpertFailed."""
        model = self.load()
        tell = progress or (lambda fraction, text: None)
        started = time.perf_counter()
        stack = stack_channels(volumes, CHANNELS, blank=blank_channels(volumes, "sam", {}, self.needs))
        tell(0.02, "preparing")
        try:
            self._memory.begin()
            probabilities, notes = self._run(stack, volumes, prompt, tell)
        except ExpertError:
            raise
        except Exception as error:
            raise ExpertFailed(f"{self.name} failed: {type(error).__name__}") from error
        output = suppress_small(nest(probabilities, volumes.brain_mask), volumes.spacing, self._minimum)
        tell(1.0, "done")
        notes += tuple(self._memory.notes)
        return ExpertOutput(output, model, time.perf_counter() - started, self._memory.device, notes)

    def refine(self, key: str, prompt: Prompt | None, volumes: Volumes | None = None) -> Refined | None:
        """See InteractiveExpert. Raises VolumesNeeded, MissingSequence, InvalidVolumes, ExpertFailed."""
        model = self.load()
        started = time.perf_counter()
        study = self._studies.get(key)
        if study is None:
            if volumes is None:
                raise VolumesNeeded("nothing of this study is kept")
            study = self._prepared(volumes)
            self._studies.put(key, study)
        if prompt is None:
            return None
        _check(prompt, study.brain.shape)
        try:
            self._memory.begin()
            if prompt.scope == "slice":
                origin, mask = self._interaction.on_slice(key, study, prompt)
            else:
                answer = resize(self._interaction.in_volume(key, study, prompt)[None], study.brain.shape)[0]
                whole = answer >= 0.5
                for z, y, x, positive in prompt.points:
                    whole[z, y, x] = positive
                origin, mask = _part(whole & study.brain)
        except ExpertError:
            raise
        except Exception as error:
            raise ExpertFailed(f"{self.name} failed: {type(error).__name__}") from error
        notes = tuple(self._memory.notes)
        if self._interaction.ignored:
            count = self._interaction.ignored
            notes += (f"{count} point{'s' if count > 1 else ''} followed by the likeness of the picture alone",)
        if not mask.any():
            notes += ("nothing was found at this prompt",)
        return Refined(prompt.region, origin, mask, model, time.perf_counter() - started, self._memory.device, notes)

    def _prepared(self, volumes: Volumes) -> Prepared:
        # A person points at what they see: here no image is needed to find a place to begin.
        stack = stack_channels(volumes, CHANNELS, blank=CHANNELS)
        if not stack.any():
            raise MissingSequence("missing sequence: " + ", ".join(CHANNELS))
        _, unit, _ = _on_working_grid(stack, volumes)
        return Prepared(unit, np.array(volumes.brain_mask, bool), volumes.spacing)

    def findings(self, volumes: Volumes) -> list[PlaceSegmentation]:
        """What each place that is asked about answers, the largest first, on the working grid; those without a tumour too.

        Raises MissingSequence."""
        self.load()
        self._memory.begin()
        stack = stack_channels(volumes, CHANNELS, blank=blank_channels(volumes, "sam", {}, self.needs))
        return self._findings(*_on_working_grid(stack, volumes), lambda fraction, text: None)

    def _findings(
        self, z: NDArray[np.float32], unit: NDArray[np.float32], brain: NDArray[np.bool_], tell: Progress
    ) -> list[PlaceSegmentation]:
        most = 1 if self.least_object_score is None else PLACES
        places = salient_places(z[0], brain, most=most, least_voxels=LEAST_PLACE_VOXELS)
        if not places and self._backend.concepts:
            places = [np.zeros(brain.shape, bool)]
        found: list[PlaceSegmentation] = []
        outlined = np.zeros(brain.shape, bool)
        for number, place in enumerate(places):
            if 2 * np.count_nonzero(place & outlined) > np.count_nonzero(place):
                continue  # part of a tumour that a larger place led to
            suggested = {"WT": place} if self._tokens else suggested_regions(place, z[1], z[2])

            def part(fraction: float, number: int = number) -> None:
                tell(0.05 + 0.9 * (number + fraction) / len(places), "segmenting")

            one = segment(self._backend, Evidence(unit, brain, suggested), self._tokens, self._memory, part)
            found.append(one)
            if self._believes(one):
                outlined |= one.probabilities[0] >= 0.5
        return found

    def _believes(self, found: PlaceSegmentation) -> bool:
        return self.least_object_score is None or not found.score < self.least_object_score

    def _run(
        self, stack: NDArray[np.float32], volumes: Volumes, prompt: Prompt | None, tell: Progress
    ) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
        import torch

        torch.set_num_threads(self.threads)
        z, unit, brain = _on_working_grid(stack, volumes)
        found = self._findings(z, unit, brain, tell)
        believed = [one for one in found if self._believes(one)]
        result = np.max([one.probabilities for one in believed], axis=0) if believed else np.zeros_like(unit)
        self.shown = max((one.score for one in found), default=float("nan"))
        notes: tuple[str, ...] = ()
        if not found:
            notes += ("no salient region in FLAIR, so nothing was prompted",)
        elif not believed:
            notes += (f"its clearest slices do not show a tumour (object score {self.shown:.1f})",)
        if prompt is not None:
            _check(prompt, volumes.shape)
            index = TOKEN_REGIONS.index(prompt.region)
            study = Prepared(unit, np.asarray(volumes.brain_mask, bool), volumes.spacing)
            answered = self._interaction.in_volume("", study, prompt)
            self._interaction.embeddings.clear()  # this study has no key under which they could be found again
            result[index] = answered
            for outer in range(index):  # what holds the region the person marked must hold it too
                result[outer] = np.maximum(result[outer], answered)
            notes += (f"{prompt.region} follows a person's prompt",)
        full = resize(result, volumes.shape)
        return {region: full[TOKEN_REGIONS.index(region)] for region in REGIONS}, notes


def _on_working_grid(
    stack: NDArray[np.float32], volumes: Volumes
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """z-scores and values in 0..1, both (3, z, y, x), and the brain mask."""
    z, brain = working_grid(zscore_in_brain(stack, volumes.brain_mask), volumes)
    return z, to_unit(z, brain), brain


def _check(prompt: Prompt, shape: tuple[int, ...]) -> None:
    """Raises InvalidVolumes for a prompt that is not one of this grid."""
    places: list[Any] = [point[:3] for point in prompt.points] + list(prompt.box or ())
    if not places or prompt.region not in TOKEN_REGIONS or prompt.axis not in (0, 1, 2):
        raise InvalidVolumes("the prompt names no region, no point or no direction")
    if any(not 0 <= value < length for place in places for value, length in zip(place, shape, strict=True)):
        raise InvalidVolumes("a point of the prompt lies outside the images")
    if prompt.box is None and not any(point[3] for point in prompt.points):
        raise InvalidVolumes("the prompt has no positive point and no box")


def _part(mask: NDArray[np.bool_]) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """The box around a mask; one voxel at the origin for an empty one."""
    if not mask.any():
        return (0, 0, 0), np.zeros((1, 1, 1), bool)
    spans = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append((int(found[0]), int(found[-1]) + 1))
    (z0, z1), (y0, y1), (x0, x1) = spans
    return (z0, y0, x0), mask[z0:z1, y0:y1, x0:x1]
