"""SAM 2 as an expert on brain MRI, through sam2's SAM2ImagePredictor.

Automatic: image evidence alone (bright FLAIR) draws a box on each slice in all three directions; the three mask tokens
answer WT, TC and ET; the three directions are averaged. It never sees another expert's mask, so its vote is its own.
Interactive: a person's box or clicks for one region are answered slice by slice by the single mask token and carried to
the neighbouring slices; the other regions come from the automatic mode. Method: Ravi et al., arXiv 2408.00714.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.experts.base import (
    REGIONS,
    ExpertFailed,
    ExpertOutput,
    ModelVersion,
    Progress,
    Prompt,
    Volumes,
    WeightsMismatch,
    WeightsMissing,
    nest,
    read_model_json,
    verify_weights,
)
from inference.experts.postprocess import minimum_volumes, suppress_small
from inference.experts.prepare import stack_channels, zscore_in_brain
from inference.experts.saliency import salient_tumour
from inference.experts.slices import (
    CHANNELS,
    WORKING_SPACING,
    Box,
    box_of,
    resize,
    slice_boxes,
    to_unit,
    window_for,
    working_grid,
)

__all__ = ["SamExpert"]

TOKEN_REGIONS = ("WT", "TC", "ET")  # what the three mask tokens were trained to answer
PROPAGATION_LIMIT = 40  # slices each way from a click, 80 mm


class SamExpert:
    """One SAM 2 model, loaded once and kept. See NnUNetExpert for the arguments.

    Official SAM 2 weights know nothing of tumours: model.json must name `mask_tokens`, or load() refuses the automatic
    mode's assumption with WeightsMismatch.
    """

    def __init__(
        self,
        name: str,
        weights_dir: Path | str,
        *,
        pinned_sha256: str | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.name = name
        self.folder = Path(weights_dir)
        self.pinned_sha256 = pinned_sha256
        self.device = device
        self.threads = threads
        self.model: ModelVersion | None = None
        self._predictor: Any = None
        self._minimum: dict[str, float] = {}

    def load(self) -> ModelVersion:
        """Verify, build with build_sam2, load plain tensors. Raises WeightsMissing, WeightsMismatch."""
        if self.model is not None:
            return self.model
        model = verify_weights(self.folder, self.pinned_sha256)
        data = read_model_json(self.folder)
        self._minimum = minimum_volumes(data)
        if data.get("mask_tokens") != list(TOKEN_REGIONS):
            raise WeightsMismatch(
                f"{self.folder.name}: the mask tokens were not trained for {', '.join(TOKEN_REGIONS)}"
            )
        path = self.folder / "sam2.pt"
        if not path.is_file():
            raise WeightsMissing(f"{self.folder.name}: sam2.pt is missing")
        import torch

        from . import network

        torch.set_num_threads(self.threads)
        built = network.build(
            list(data.get("hydra_overrides", [])), str(data.get("config", network.BASE_CONFIG)), self.device
        )
        try:
            network.load_state(built, path)
        except Exception as error:  # the unpickler and load_state_dict raise many types
            raise WeightsMismatch(f"{self.folder.name}: sam2.pt does not fit the network") from error
        self._predictor = network.predictor_for(built)
        self.model = model
        return model

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        """Region probabilities for one study. Raises MissingSequence, ExpertFailed."""
        model = self.load()
        tell = progress or (lambda fraction, text: None)
        started = time.perf_counter()
        stack = stack_channels(volumes, CHANNELS)
        tell(0.02, "preparing")
        try:
            probabilities, notes = self._run(stack, volumes, prompt, tell)
        except Exception as error:
            raise ExpertFailed(f"{self.name} failed: {type(error).__name__}") from error
        output = suppress_small(nest(probabilities, volumes.brain_mask), volumes.spacing, self._minimum)
        tell(1.0, "done")
        return ExpertOutput(output, model, time.perf_counter() - started, self.device, notes)

    def _run(
        self, stack: NDArray[np.float32], volumes: Volumes, prompt: Prompt | None, tell: Progress
    ) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
        import torch

        torch.set_num_threads(self.threads)
        z, brain = working_grid(zscore_in_brain(stack, volumes.brain_mask), volumes)
        shape = brain.shape
        unit = to_unit(z, brain)
        salient = salient_tumour(z[0], brain)
        notes: tuple[str, ...] = ()
        result = np.zeros((3, *shape), np.float32)
        if salient.any():
            for part, axis in enumerate(range(3)):
                result += self._automatic(
                    unit, salient, axis, lambda f, p=part: tell(0.05 + 0.3 * (p + f), "segmenting")
                )
            result /= 3
        else:
            notes += ("no salient region in FLAIR, so nothing was prompted",)
        if prompt is not None:
            index = TOKEN_REGIONS.index(prompt.region)
            factor = tuple(s / WORKING_SPACING for s in volumes.spacing)
            answered = self._interactive(unit, prompt, (factor[0], factor[1], factor[2]), shape)
            result[index] = answered
            for outer in range(index):  # what holds the region the person marked must hold it too
                result[outer] = np.maximum(result[outer], answered)
            notes += (f"{prompt.region} follows a person's prompt",)
        full = resize(result, volumes.shape)
        return {region: full[TOKEN_REGIONS.index(region)] for region in REGIONS}, notes

    def _ask(
        self, picture: NDArray[np.float32], box: Box | None, points: list[tuple[float, float, bool]], multimask: bool
    ) -> NDArray[np.float32]:
        """Probabilities (3 or 1, h, w) of one window; box and points in its pixels, points as (x, y, positive)."""
        self._predictor.set_image(np.ascontiguousarray(picture.transpose(1, 2, 0)))
        logits, _, _ = self._predictor.predict(
            point_coords=np.array([[p[0], p[1]] for p in points], np.float32) if points else None,
            point_labels=np.array([int(p[2]) for p in points], np.int32) if points else None,
            box=np.array(box, np.float32) if box is not None else None,
            multimask_output=multimask,
            return_logits=True,
        )
        probabilities: NDArray[np.float32] = (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)
        return probabilities

    def _automatic(
        self, unit: NDArray[np.float32], salient: NDArray[np.bool_], axis: int, tell: Any
    ) -> NDArray[np.float32]:
        """WT, TC, ET probabilities (3, z, y, x) from slices along one axis."""
        result = np.zeros((3, *unit.shape[1:]), np.float32)
        slices, target = np.moveaxis(unit, axis + 1, 1), np.moveaxis(result, axis + 1, 1)
        boxes = slice_boxes(salient, axis)
        for done, (index, box) in enumerate(boxes.items()):
            window = window_for(box)
            local = (box[0] - window.x, box[1] - window.y, box[2] - window.x, box[3] - window.y)
            window.paste(target[:, index], self._ask(window.cut(slices[:, index]), local, [], True))
            tell((done + 1) / len(boxes))
        return result

    def _interactive(
        self, unit: NDArray[np.float32], prompt: Prompt, factor: tuple[float, float, float], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Probability (z, y, x) of the prompted region from axial slices."""
        result = np.zeros((1, *shape), np.float32)
        clicks: dict[int, list[tuple[float, float, bool]]] = {}
        for z, y, x, positive in prompt.points:
            index = int(np.clip((z + 0.5) * factor[0], 0, shape[0] - 1))
            clicks.setdefault(index, []).append(((x + 0.5) * factor[2], (y + 0.5) * factor[1], positive))

        def ask(index: int, box: Box | None) -> Box | None:
            points = clicks.get(index, [])
            anchor = box
            if anchor is None:
                x, y, _ = next((p for p in points if p[2]), points[0])
                anchor = (x - 10, y - 10, x + 10, y + 10)
            window = window_for(anchor)
            local = (
                None if box is None else (box[0] - window.x, box[1] - window.y, box[2] - window.x, box[3] - window.y)
            )
            shifted = [(x - window.x, y - window.y, positive) for x, y, positive in points]
            window.paste(result[:, index], self._ask(window.cut(unit[:, index]), local, shifted, False))
            return box_of(result[0, index] > 0.5)

        if prompt.box is not None:
            (z0, y0, x0), (z1, y1, x1) = prompt.box
            first, last = int(z0 * factor[0]), min(int((z1 + 1) * factor[0] - 1e-6), shape[0] - 1)
            for index in range(max(first, 0), last + 1):
                ask(
                    index,
                    _shrunk(
                        (x0 * factor[2], y0 * factor[1], (x1 + 1) * factor[2], (y1 + 1) * factor[1]),
                        (index - (first + last) / 2) / max((last - first + 1) / 2, 0.5),
                    ),
                )
            return result[0]
        for start in [i for i, points in clicks.items() if any(p[2] for p in points)]:
            seed = ask(start, None)
            for step in (1, -1):
                box = seed
                for index in _walk(start, step, shape[0]):
                    if box is None:
                        break
                    if index not in clicks:
                        box = ask(index, box)
        return result[0]


def _walk(start: int, step: int, length: int) -> Iterator[int]:
    for distance in range(1, PROPAGATION_LIMIT + 1):
        index = start + step * distance
        if not 0 <= index < length:
            return
        yield index


def _shrunk(box: Box, height: float) -> Box:
    """The section of an ellipsoid inscribed in a 3D box, at `height` (-1..1) from its middle."""
    scale = float(np.sqrt(max(1 - height**2, 0.15)))
    cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return cx - w * scale, cy - h * scale, cx + w * scale, cy + h * scale
