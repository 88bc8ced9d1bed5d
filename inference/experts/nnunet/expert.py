"""Any trained nnU-Net v2 model folder as an expert.

The folder is what nnU-Net's training leaves (dataset.json, plans.json, fold_0/checkpoint_final.pth) plus model.json with
the SHA-256 of each file. Region-based models (BraTS style) and label-based ones (NCR, ED, ET) are both understood.
Method: Isensee et al., Nature Methods 18 (2021) 203; nnunetv2.inference.predict_from_raw_data.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.experts.base import (
    REGION_LABELS,
    REGIONS,
    ExpertFailed,
    ExpertOutput,
    MissingSequence,
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
from inference.experts.prepare import stack_channels

__all__ = ["CHANNEL_NAMES", "NnUNetExpert", "region_channels"]

CHANNEL_NAMES: dict[str, str] = {
    "t1": "T1",
    "t1n": "T1",
    "t1w": "T1",
    "t1c": "T1c",
    "t1ce": "T1c",
    "t1gd": "T1c",
    "t1cw": "T1c",
    "t2": "T2",
    "t2w": "T2",
    "flair": "FLAIR",
    "t2f": "FLAIR",
    "t2-flair": "FLAIR",
    "t2flair": "FLAIR",
}
"""How datasets name their channels (BraTS 2017 to 2024) -> the sequence of this project."""

CHECKPOINT = "fold_0/checkpoint_final.pth"


def region_channels(labels: dict[str, Any]) -> tuple[bool, dict[str, tuple[int, ...]]]:
    """Which output channels make each region, from dataset.json's labels.

    Returns (is region-based, {region: channels whose probabilities are summed}). Raises WeightsMismatch when a BraTS
    region cannot be made from the model's labels.
    """
    foreground = [(name, value) for name, value in labels.items() if name not in ("background", "ignore")]
    values = [tuple(sorted(v)) if isinstance(v, list | tuple) else (int(v),) for _, v in foreground]
    by_region = any(len(v) > 1 for v in values)
    channels: dict[str, tuple[int, ...]] = {}
    for region, wanted in REGION_LABELS.items():
        if by_region:
            if tuple(sorted(wanted)) not in values:
                raise WeightsMismatch(f"the model has no region of labels {list(wanted)} ({region})")
            channels[region] = (values.index(tuple(sorted(wanted))),)
        else:
            known = {v[0] for v in values}
            if not set(wanted) <= known:
                raise WeightsMismatch(f"the model has no labels {sorted(set(wanted) - known)} ({region})")
            channels[region] = tuple(wanted)  # channel 0 is the background, so the label is the channel
    return by_region, channels


class NnUNetExpert:
    """One nnU-Net model, loaded once and kept.

    `pinned_sha256`: SHA-256 of model.json, where the caller pins it. `mirroring`: flips at test time (eight times the
    work for about 0.01 Dice). `threads`: torch threads of this process.
    """

    def __init__(
        self,
        name: str,
        weights_dir: Path | str,
        *,
        pinned_sha256: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        mirroring: bool = False,
        step_size: float = 0.5,
    ) -> None:
        self.name = name
        self.folder = Path(weights_dir)
        self.pinned_sha256 = pinned_sha256
        self.device = device
        self.threads = threads
        self.mirroring = mirroring
        self.step_size = step_size
        self.model: ModelVersion | None = None
        self._predictor: Any = None
        self._channels: list[str] = []
        self._regions: dict[str, tuple[int, ...]] = {}
        self._minimum: dict[str, float] = {}

    def load(self) -> ModelVersion:
        """Verify, then load. Raises WeightsMissing, WeightsMismatch."""
        if self.model is not None:
            return self.model
        model = verify_weights(self.folder, self.pinned_sha256)
        self._minimum = minimum_volumes(read_model_json(self.folder))
        path = self.folder / CHECKPOINT
        if not path.is_file():
            raise WeightsMissing(f"{self.folder.name}: {CHECKPOINT} is missing")
        os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
        import torch

        torch.set_num_threads(self.threads)
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises many types
            raise WeightsMismatch(f"{self.folder.name}: the checkpoint holds more than plain tensors") from error
        dataset_json = json.loads((self.folder / "dataset.json").read_text("utf-8"))
        names = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
        try:
            self._channels = [CHANNEL_NAMES[str(names[str(i)]).lower()] for i in range(len(names))]
        except KeyError as error:
            raise WeightsMismatch(f"{self.folder.name}: unknown channel name {error.args[0]!r}") from error
        _, self._regions = region_channels(dataset_json["labels"])
        with contextlib.redirect_stdout(io.StringIO()):
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            predictor = nnUNetPredictor(
                tile_step_size=self.step_size,
                use_mirroring=self.mirroring,
                allow_tqdm=False,
                perform_everything_on_device=self.device.startswith("cuda"),
                device=torch.device(self.device),
            )
            predictor.initialize_from_trained_model_folder(
                str(self.folder), use_folds=(0,), checkpoint_name=Path(CHECKPOINT).name
            )
        self._predictor = predictor
        self.model = model
        return model

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        """Region probabilities for one study. A prompt is ignored: this model takes none, and a note says so.

        Raises MissingSequence, ExpertFailed.
        """
        model = self.load()
        tell = progress or (lambda fraction, text: None)
        notes: tuple[str, ...] = ("the prompt was ignored: this model takes none",) if prompt is not None else ()
        started = time.perf_counter()
        stack = stack_channels(volumes, self._channels)
        notes += tuple(f"{name} holds no signal" for i, name in enumerate(self._channels) if not stack[i].any())
        tell(0.02, "preparing")
        try:
            probabilities = self._run(stack, volumes, tell)
        except MissingSequence:
            raise
        except Exception as error:
            raise ExpertFailed(f"{self.name} failed: {type(error).__name__}") from error
        regions = {r: sum(probabilities[c] for c in self._regions[r]) for r in REGIONS}
        output = suppress_small(nest(regions, volumes.brain_mask), volumes.spacing, self._minimum)
        tell(1.0, "done")
        return ExpertOutput(output, model, time.perf_counter() - started, self.device, notes)

    def _run(self, stack: NDArray[np.float32], volumes: Volumes, tell: Progress) -> NDArray[np.float32]:
        """(channels, z, y, x) probabilities: sigmoid per region, or softmax with background first."""
        import torch

        torch.set_num_threads(self.threads)
        network, done, patch = self._predictor.network, 0, self._predictor.configuration_manager.patch_size
        target = self._predictor.configuration_manager.spacing
        windows = 1
        for length, spacing, wanted, edge in zip(volumes.shape, volumes.spacing, target, patch, strict=True):
            windows *= max(1, int(np.ceil((length * spacing / wanted - edge) / (edge * self.step_size))) + 1)

        def count(*_: Any) -> None:
            nonlocal done
            done += 1
            tell(0.05 + 0.85 * min(1.0, done / windows), "segmenting")

        hook = network.register_forward_hook(count)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                _, probabilities = self._predictor.predict_single_npy_array(
                    stack, {"spacing": list(volumes.spacing)}, None, None, True
                )
        finally:
            hook.remove()
        return np.asarray(probabilities, np.float32)
