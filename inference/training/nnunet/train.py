"""Train an nnU-Net network from a dataset folder, in one process.

    python -m inference.training.nnunet --dataset DIR --out DIR --architecture plain --minutes 30 --resume

Plans, preprocessing, network and the exported folder are nnU-Net's own; the loop is light, because nnU-Net's loader
with its worker processes starves on two cores and its trainer never uses bfloat16 on a CPU. Method: Isensee et al.,
Nature Methods 18 (2021) 203; region-based training as in the BraTS winners. AdamW and a moving average of the weights
instead of SGD, which pays when only one or two thousand steps can be afforded.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from imaging.brats.regions import REGIONS
from inference.experts.documents import NnUNetDatasetDocument
from inference.experts.nnunet.expert import checkpoints
from inference.experts.weights import read_model_json
from inference.training.common.command_line import add_arguments, command_of, set_threads
from inference.training.common.dataset import DatasetError, RawDataset
from inference.training.common.export import write_model_json
from inference.training.common.loop import VALIDATION_CASES, Loop, endless
from inference.training.common.preprocess import PreparedCase, load_prepared, make_plans, nnunet_dataset_json
from inference.training.common.progress import Log
from inference.training.common.working_copy import WorkingCopy
from inference.training.nnunet.export import write_nnunet_folder
from inference.training.nnunet.losses import deep_supervision_loss
from inference.training.nnunet.patches import PatchSampler, region_targets, shown_regions
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["build_network", "main", "train"]

MODULE = "inference.training.nnunet"
NETWORK_REGIONS = ("WT", "TC", "ET")  # order of the network's channels, as in dataset.json


def build_network(plans: JsonDict, dataset_json: NnUNetDatasetDocument, deep_supervision: bool) -> nn.Module:
    """The network as nnU-Net's trainer builds it from plans."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    network: nn.Module = nnUNetTrainer.build_network_architecture(
        manager, configuration, len(dataset_json["channel_names"]), heads, enable_deep_supervision=deep_supervision
    )
    return network


def quick_validation(network: nn.Module, cases: list[PreparedCase]) -> dict[str, float]:
    """Mean Dice per region over cases that have it, and false positive ml (2 mm voxels) on those without tumour."""
    dice: dict[str, list[float]] = {r: [] for r in REGIONS}
    false_voxels: list[float] = []
    network.eval()
    for case in cases:
        shape = np.asarray(case.labels.shape)
        padded = (np.ceil(shape / 16) * 16).astype(int)
        example = next(network.parameters())
        data = torch.zeros((1, 4, *[int(p) for p in padded]), dtype=example.dtype)
        data[0, :, : shape[0], : shape[1], : shape[2]] = torch.from_numpy(case.data).to(example.dtype)
        with torch.inference_mode():
            output = network(data.to(example.device))
        logits = (output[0] if isinstance(output, list | tuple) else output)[0].float().cpu()
        masks = (logits > 0)[:, : shape[0], : shape[1], : shape[2]]
        target = region_targets(torch.from_numpy(case.labels)[None])[0] > 0
        for index, region in enumerate(NETWORK_REGIONS):
            if target[index].any():
                both = (masks[index] & target[index]).sum()
                dice[region].append(float(2 * both / (masks[index].sum() + target[index].sum())))
        if case.empty:
            false_voxels.append(float(masks[0].sum()))
    network.train()
    result = {f"dice_{r}": float(np.mean(v)) for r, v in dice.items() if v}
    if false_voxels:
        result["false_voxels"] = float(np.mean(false_voxels))
    return result


def load_start(network: nn.Module, folder: Path, labels_json: NnUNetDatasetDocument) -> None:
    """Begin from a weights folder's first fold. Raises DatasetError when its channels or labels are others."""
    theirs = json.loads((folder / "dataset.json").read_text("utf-8"))
    if theirs.get("channel_names") != labels_json["channel_names"] or theirs.get("labels") != labels_json["labels"]:
        raise DatasetError(f"{folder.name}: fine-tuning needs a model with this project's channels and labels")
    file = checkpoints(read_model_json(folder))[0]
    state = torch.load(folder / file, map_location="cpu", weights_only=True)["network_weights"]
    network.load_state_dict({name: value.float() for name, value in state.items()})


def train(arguments: argparse.Namespace) -> None:
    """Run the training that the command line describes; see --help."""
    set_threads(arguments.threads)
    out: Path = arguments.out
    log = Log(out)
    dataset = RawDataset(arguments.dataset)
    plans_file = out / "plans.json"
    if arguments.resume and plans_file.is_file():
        plans = json.loads(plans_file.read_text())
    elif arguments.start_from is not None:
        plans = json.loads((arguments.start_from / "plans.json").read_text("utf-8"))
        plans_file.write_text(json.dumps(plans, indent=1))
    else:
        patch = (arguments.patch,) * 3
        plans = make_plans(dataset, arguments.architecture, (arguments.spacing,) * 3, patch, arguments.batch_size)
        plans_file.write_text(json.dumps(plans, indent=1))
    configuration = plans["configurations"]["3d_fullres"]
    started = time.monotonic()
    cases = load_prepared(dataset, plans, cache=arguments.cache)
    held = cases[-VALIDATION_CASES:] if len(cases) > 3 * VALIDATION_CASES else cases[:2]
    training = cases[:-VALIDATION_CASES] if len(cases) > 3 * VALIDATION_CASES else cases
    log.write(event="loaded", cases=len(cases), seconds=time.monotonic() - started)

    torch.manual_seed(arguments.seed)
    labels_json = nnunet_dataset_json(dataset)
    network = build_network(plans, labels_json, deep_supervision=True)
    if arguments.start_from is not None:
        load_start(network, arguments.start_from, labels_json)
    device = torch.device(arguments.device)
    # A CPU learns fastest on a copy in bfloat16; a GPU has autocast, and tensor cores that want the channels last.
    network.to(device)
    working = WorkingCopy(network, copy.deepcopy(network)) if device.type == "cpu" else None
    if working is None:
        network.to(memory_format=torch.channels_last_3d)
    judged = copy.deepcopy(working.work if working is not None else network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=1e-3)
    loop = Loop(arguments, log, network, optimiser, command=command_of(MODULE, parser(), arguments), clip=3.0)
    if working is not None:
        working.pull()
    late = np.asarray(configuration["patch_size"])
    early = np.minimum(late, arguments.early_patch)
    # Seen by the processes that draw: which patch it is the time for.
    is_late = torch.zeros(1, dtype=torch.int8).share_memory_()

    def make(seed: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        sampler = PatchSampler(training, tuple(late), seed, reduced_share=arguments.reduced_share)

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            sampler.patch = late if is_late[0] else early
            return sampler.batch(configuration["batch_size"])

        return draw

    batches = endless(make, arguments.seed + loop.step, arguments.workers, device)
    network.train()

    def learn() -> float:
        is_late[0] = int(loop.budget.fraction >= arguments.early_share)
        data, labels = next(batches)
        if working is not None:
            outputs = working.work(data.to(torch.bfloat16))
            loss = deep_supervision_loss(outputs, region_targets(labels), weights=shown_regions(data))
            loss.backward()
            working.push_gradients()
        else:
            data = data.to(device, non_blocking=True, memory_format=torch.channels_last_3d)
            with torch.autocast(device.type, torch.bfloat16):
                outputs = network(data)
            loss = deep_supervision_loss(
                [o.float() for o in outputs],
                region_targets(labels.to(device, non_blocking=True)),
                weights=shown_regions(data),
            )
            loss.backward()
        return float(loss.detach())

    def validate() -> dict[str, float]:
        loop.average.copy_to(judged)
        return quick_validation(judged, held)

    def export() -> None:
        folder = out / "export"
        weights = {name: value.cpu() for name, value in loop.averaged.state_dict().items()}
        write_nnunet_folder(folder, weights, plans, labels_json)
        network_class = plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"].rsplit(".", 1)[1]
        write_model_json(
            folder,
            name=arguments.name or f"nnunet-{arguments.architecture}",
            version=arguments.version,
            kind="nnunet",
            architecture=f"nnU-Net {network_class}",
            files=["dataset.json", "plans.json", "fold_0/checkpoint_final.pth"],
            training=loop.record(len(training)),
        )

    loop.run(learn, validate, export, after_step=working.pull if working is not None else lambda: None)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m inference.training.nnunet", description=(__doc__ or "").split("\n")[0])
    add_arguments(p, minutes=30.0, validate_every=6.0)
    p.add_argument("--architecture", choices=("plain", "residual"), default="plain")
    p.add_argument("--start-from", type=Path, default=None, help="fine-tune this weights folder; its plans are kept")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--spacing", type=float, default=2.0, help="isotropic voxel edge in mm")
    p.add_argument("--patch", type=int, default=64, help="edge of the patch in voxels, a multiple of 16")
    p.add_argument("--early-patch", type=int, default=48, help="edge of the patch in the first part: cheaper steps")
    p.add_argument("--early-share", type=float, default=0.6, help="share of the time with the early patch")
    p.add_argument("--batch-size", type=int, default=2)
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument(
        "--reduced-share",
        type=float,
        default=0.0,
        help="share of the patches with sequences missing: 0.3 for a model that is to run on such studies",
    )
    p.add_argument("--name", default="", help="model name; nnunet-ARCHITECTURE if not given")
    return p


def main(argv: list[str] | None = None) -> int:
    command_line = parser()
    arguments = command_line.parse_args(argv)
    if any(edge % 16 or edge < 32 for edge in (arguments.patch, arguments.early_patch)):
        command_line.error(
            "--patch and --early-patch must be multiples of 16, at least 32: the network halves four times"
        )
    if arguments.minutes <= 0 or arguments.batch_size < 1:
        command_line.error("--minutes and --batch-size must be positive")
    train(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
