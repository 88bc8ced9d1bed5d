"""Any trained nnU-Net v2 model folder as an expert.

The folder is what nnU-Net's training leaves (dataset.json, plans.json, fold_X/checkpoint_final.pth) plus model.json with
the SHA-256 of each file. Channel order and the meaning of the labels are read from dataset.json (see `labels`), whether the
model was trained on regions or on labels; the logits of several folds are averaged. model.json may say ``folds`` (default:
all that it names), ``checkpoint`` (default checkpoint_final.pth) and ``mirroring`` (default off).
Method: Isensee et al., Nature Methods 18 (2021) 203; nnunetv2.inference.predict_from_raw_data.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS, nest
from inference.experts.common.input_requirements import read_evaluation
from inference.experts.common.intensity import blank_channels, stack_channels
from inference.experts.common.islands import minimum_volumes, suppress_small
from inference.experts.common.out_of_memory import MemoryFallback
from inference.experts.contract import ExpertOutput, ModelIdentity, Progress, Prompt, Volumes
from inference.experts.documents import EvaluationDocument, ModelDocument, NnUNetDatasetDocument
from inference.experts.errors import ExpertError, ExpertFailed, WeightsMismatch, WeightsMissing
from inference.experts.nnunet.labels import channel_order, region_channels
from inference.experts.weights import read_model_json, verify_weights
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["CHECKPOINT", "CHECKPOINT_NAME", "NnUNetExpert", "checkpoints"]

CHECKPOINT_NAME = "checkpoint_final.pth"
CHECKPOINT = f"fold_0/{CHECKPOINT_NAME}"


def checkpoints(model: ModelDocument) -> list[str]:
    """The checkpoint files of a model, one a fold, in order; only files whose SHA-256 model.json holds.

    Raises WeightsMissing when a fold it names has none.
    """
    name = str(model.get("checkpoint", CHECKPOINT_NAME))
    pinned = {file for file in model["files"] if file.startswith("fold_") and file.endswith(f"/{name}")}
    wanted = [f"fold_{fold}/{name}" for fold in model["folds"]] if model.get("folds") else sorted(pinned)
    missing = [file for file in wanted if file not in pinned]
    if missing or not wanted:
        raise WeightsMissing(f"model.json names no {missing[0] if missing else name}")
    return wanted


def _check_architecture(architecture: Mapping[str, Any]) -> None:
    """nnU-Net imports what plans.json names: nothing but networks and parts of torch may be named.

    Raises WeightsMismatch.
    """
    arguments = architecture.get("arch_kwargs", {})
    named = [str(arguments.get(key)) for key in architecture.get("_kw_requires_import", []) if arguments.get(key)]
    network = str(architecture.get("network_class_name", ""))
    if network and not network.startswith("dynamic_network_architectures."):
        raise WeightsMismatch(f"plans.json names a network that is not nnU-Net's: {network[:80]}")
    for one in named:
        if not one.startswith("torch.nn."):
            raise WeightsMismatch(f"plans.json names something else than a part of torch: {one[:80]}")


class NnUNetExpert:
    """One nnU-Net model, loaded once and kept.

    `pinned_sha256`: SHA-256 of model.json, where the caller pins it. `mirroring`: flips at test time (eight times the
    work for about 0.01 Dice); None as model.json says. `threads`: torch threads of this process. `needs`: the sequences it
    cannot do without; None: it takes the combinations that its evaluation.json holds (see `experts.needs`).
    """

    def __init__(
        self,
        name: str,
        weights_dir: Path | str,
        *,
        pinned_sha256: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        mirroring: bool | None = None,
        step_size: float = 0.5,
        needs: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.folder = Path(weights_dir)
        self.pinned_sha256 = pinned_sha256
        self.device = device
        self.threads = threads
        self.mirroring = mirroring
        self.step_size = step_size
        self.needs = needs
        self._evaluation: EvaluationDocument = {}
        self.model: ModelIdentity | None = None
        self._predictor: Any = None
        self._memory: MemoryFallback
        self._channels: list[str] = []
        self._regions: dict[str, tuple[int, ...]] = {}
        self._minimum: dict[str, float] = {}

    def load(self) -> ModelIdentity:
        """Verify, then load. Raises WeightsMissing, WeightsMismatch."""
        if self.model is not None:
            return self.model
        model = verify_weights(self.folder, self.pinned_sha256)
        description = read_model_json(self.folder)
        self._minimum = minimum_volumes(description)
        self._evaluation = read_evaluation(self.folder)
        if self.mirroring is None:
            self.mirroring = bool(description.get("mirroring", False))
        try:
            dataset_json = json.loads((self.folder / "dataset.json").read_text("utf-8"))
            plans = json.loads((self.folder / "plans.json").read_text("utf-8"))
            self._channels = channel_order(dataset_json)
            _, self._regions = region_channels(dataset_json["labels"])
        except WeightsMismatch as error:
            raise WeightsMismatch(f"{self.folder.name}: {error}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsMismatch(f"{self.folder.name}: dataset.json or plans.json cannot be used") from error
        os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
        import torch

        torch.set_num_threads(self.threads)
        folds = []
        for name in checkpoints(description):
            try:
                folds.append(torch.load(self.folder / name, map_location="cpu", weights_only=True))
            except FileNotFoundError as error:
                raise WeightsMissing(f"{self.folder.name}: {name} is missing") from error
            except Exception as error:  # the unpickler raises many types
                raise WeightsMismatch(f"{self.folder.name}: {name} holds more than plain tensors") from error
        try:
            predictor = self._build(folds, plans, dataset_json)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, AssertionError, ImportError) as error:
            raise WeightsMismatch(
                f"{self.folder.name}: nnU-Net cannot build this model of its plans, trainer and checkpoint"
            ) from error
        self._predictor = predictor
        # nnU-Net asks for one window at a time: what can be given up first is keeping the sums of all windows on the GPU.
        on_device = 2 if self.device.startswith("cuda") else 1
        self._memory = MemoryFallback(self.device, on_device, self._move, "went on with the sums off the device")
        self.model = model
        return model

    def _build(self, folds: list[dict[str, Any]], plans: JsonDict, dataset_json: NnUNetDatasetDocument) -> Any:
        """nnU-Net's own predictor over the folds' plain tensors (its own way to read a folder would unpickle anything)."""
        import torch

        with contextlib.redirect_stdout(io.StringIO()):
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            predictor = nnUNetPredictor(
                tile_step_size=self.step_size,
                use_mirroring=bool(self.mirroring),
                allow_tqdm=False,
                perform_everything_on_device=self.device.startswith("cuda"),
                device=torch.device(self.device),
            )
            manager = PlansManager(plans)
            configuration = manager.get_configuration(str(folds[0]["init_args"]["configuration"]))
            _check_architecture(configuration.configuration.get("architecture", {}))
            if configuration.previous_stage_name is not None:
                raise WeightsMismatch(f"{self.folder.name}: the second stage of a cascade cannot stand alone")
            trainer = recursive_find_trainer_class_by_name(str(folds[0]["trainer_name"]))
            heads = manager.get_label_manager(dataset_json).num_segmentation_heads
            network = trainer.build_network_architecture(
                manager, configuration, len(self._channels), heads, enable_deep_supervision=False
            )
            weights = [fold["network_weights"] for fold in folds]
            network.load_state_dict(weights[0])
            predictor.manual_initialization(
                network,
                manager,
                configuration,
                weights,
                dataset_json,
                str(folds[0]["trainer_name"]),
                folds[0].get("inference_allowed_mirroring_axes"),
            )
        return predictor

    def _move(self, device: str) -> None:
        import torch

        self._predictor.device = torch.device(device)
        self._predictor.network.to(device)

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        """Region probabilities for one study. A prompt is ignored: this model takes none, and a note says so.

        Raises MissingSequence, ExpertFailed.
        """
        model = self.load()
        tell = progress or (lambda fraction, text: None)
        notes: tuple[str, ...] = ("the prompt was ignored: this model takes none",) if prompt is not None else ()
        started = time.perf_counter()
        blank = blank_channels(volumes, "nnunet", self._evaluation, self.needs)
        stack = stack_channels(volumes, self._channels, blank=blank)
        notes += tuple(f"{name} holds no signal" for i, name in enumerate(self._channels) if not stack[i].any())
        tell(0.02, "preparing")
        try:
            self._memory.begin()
            probabilities = self._memory.run(lambda share: self._run(stack, volumes, tell, on_device=share > 1))
        except ExpertError:
            raise
        except Exception as error:
            raise ExpertFailed(f"{self.name} failed: {type(error).__name__}") from error
        regions: dict[str, Any] = {r: sum(probabilities[c] for c in self._regions[r]) for r in REGIONS}
        output = suppress_small(nest(regions, volumes.brain_mask), volumes.spacing, self._minimum)
        tell(1.0, "done")
        notes += tuple(self._memory.notes)
        return ExpertOutput(output, model, time.perf_counter() - started, self._memory.device, notes)

    def _run(
        self, stack: NDArray[np.float32], volumes: Volumes, tell: Progress, *, on_device: bool
    ) -> NDArray[np.float32]:
        """(channels, z, y, x) probabilities: sigmoid per region, or softmax with background first."""
        import torch

        torch.set_num_threads(self.threads)
        self._predictor.perform_everything_on_device = on_device
        network, done, patch = self._predictor.network, 0, self._predictor.configuration_manager.patch_size
        target = self._predictor.configuration_manager.spacing
        windows = len(self._predictor.list_of_parameters)
        if self.mirroring:
            windows *= 2 ** len(self._predictor.allowed_mirroring_axes or ())
        # A two-dimensional model sees slice by slice: its patch and spacing lack the first axis.
        for length, spacing, wanted, edge in zip(
            volumes.shape,
            volumes.spacing,
            [*volumes.spacing[: 3 - len(target)], *target],
            [1] * (3 - len(patch)) + [*patch],
            strict=True,
        ):
            windows *= max(1, int(np.ceil((length * spacing / wanted - edge) / max(1, edge * self.step_size))) + 1)

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
