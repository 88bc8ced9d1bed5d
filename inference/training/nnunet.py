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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from inference.experts.base import REGIONS, read_model_json
from inference.experts.nnunet.expert import checkpoints

from .common import Average, Budget, Log, WorkingCopy, load_checkpoint, save_checkpoint, set_threads
from .dataset import DatasetError, RawDataset
from .export import write_model_json, write_nnunet_folder
from .losses import deep_supervision_loss
from .patches import PatchSampler, region_targets
from .preprocess import PreparedCase, load_prepared, make_plans, nnunet_dataset_json

__all__ = ["build_network", "main", "train"]

VALIDATION_CASES = 8
NETWORK_REGIONS = ("WT", "TC", "ET")  # order of the network's channels, as in dataset.json


def build_network(plans: dict[str, Any], dataset_json: dict[str, Any], deep_supervision: bool) -> nn.Module:
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
        data = torch.zeros((1, 4, *[int(p) for p in padded]), dtype=torch.bfloat16)
        data[0, :, : shape[0], : shape[1], : shape[2]] = torch.from_numpy(case.data).to(torch.bfloat16)
        with torch.inference_mode():
            output = network(data)
        logits = (output[0] if isinstance(output, list | tuple) else output)[0].float()
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


def load_start(network: nn.Module, folder: Path, labels_json: dict[str, Any]) -> None:
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
    working = WorkingCopy(network, copy.deepcopy(network))
    average = Average(network)
    evaluated = copy.deepcopy(working.work)
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=1e-3)
    step, spent = 0, 0.0
    state = load_checkpoint(out / "checkpoint.pt") if arguments.resume else None
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average.restore(state["average"])
        step, spent = int(state["step"]), float(state["spent_s"])
        working.pull()
    log.write(event="start", parameters=sum(p.numel() for p in network.parameters()), step=step, spent_s=spent)
    sampler = PatchSampler(training, tuple(configuration["patch_size"]), arguments.seed + step)
    budget = Budget(arguments.minutes, spent)
    late = sampler.patch
    early = np.minimum(late, arguments.early_patch)

    def checkpoint() -> None:
        save_checkpoint(
            out / "checkpoint.pt",
            {
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average.state(),
                "step": step,
                "spent_s": budget.spent_s,
            },
        )

    def export() -> None:
        averaged = copy.deepcopy(network)
        average.copy_to(averaged)
        folder = out / "export"
        write_nnunet_folder(folder, averaged.state_dict(), plans, labels_json)
        write_model_json(
            folder,
            name=arguments.name or f"nnunet-{arguments.architecture}",
            version=arguments.version,
            kind="nnunet",
            architecture=f"nnU-Net {plans['configurations']['3d_fullres']['architecture']['network_class_name'].rsplit('.', 1)[1]}",
            files=["dataset.json", "plans.json", "fold_0/checkpoint_final.pth"],
            training={
                "command": "python -m inference.training.nnunet "
                f"--architecture {arguments.architecture} --minutes {arguments.minutes:g} --seed {arguments.seed} "
                f"--threads {arguments.threads} --batch-size {arguments.batch_size} --patch {arguments.patch}",
                "seed": arguments.seed,
                "steps": step,
                "seconds": round(budget.spent_s),
                "device": "cpu",
                "cases": len(training),
                "parameters": sum(p.numel() for p in network.parameters()),
                "trained_on": arguments.trained_on,
            },
        )

    losses: list[float] = []
    last_log = last_save = last_validation = time.monotonic()
    network.train()
    while budget.fraction < 1:
        sampler.patch = early if budget.fraction < arguments.early_share else late
        data, labels = sampler.batch(configuration["batch_size"])
        rate = budget.rate(step, arguments.rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        outputs = working.work(data.to(torch.bfloat16))
        loss = deep_supervision_loss(outputs, region_targets(labels))
        loss.backward()
        working.push_gradients()
        if not torch.isfinite(loss):
            log.write(event="skipped", step=step, reason="loss is not finite")
            optimiser.zero_grad(set_to_none=True)
            continue
        torch.nn.utils.clip_grad_norm_(network.parameters(), 3.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        working.pull()
        average.update(network)
        losses.append(float(loss.detach()))
        step += 1
        now = time.monotonic()
        if now - last_log > 30:
            log.write(
                event="train",
                step=step,
                minutes=budget.spent_s / 60,
                loss=float(np.mean(losses)),
                rate=rate,
                s_per_step=(now - last_log) / len(losses),
            )
            losses, last_log = [], now
        if now - last_save > arguments.save_every * 60:
            checkpoint()
            last_save = time.monotonic()
        if now - last_validation > arguments.validate_every * 60:
            average.copy_to(evaluated)
            log.write(event="validation", step=step, **quick_validation(evaluated, held))
            export()
            last_validation = last_log = time.monotonic()
            losses = []
    checkpoint()
    export()
    average.copy_to(evaluated)
    log.write(event="done", step=step, seconds=budget.spent_s, **quick_validation(evaluated, held))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m inference.training.nnunet", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--dataset", type=Path, required=True, help="nnU-Net raw dataset folder")
    p.add_argument("--out", type=Path, required=True, help="checkpoints, log and export/ go here")
    p.add_argument("--architecture", choices=("plain", "residual"), default="plain")
    p.add_argument("--minutes", type=float, default=30.0, help="wall-clock budget, resumed time included")
    p.add_argument("--start-from", type=Path, default=None, help="fine-tune this weights folder; its plans are kept")
    p.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt if it is there")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--spacing", type=float, default=2.0, help="isotropic voxel edge in mm")
    p.add_argument("--patch", type=int, default=64, help="edge of the patch in voxels, a multiple of 16")
    p.add_argument("--early-patch", type=int, default=48, help="edge of the patch in the first part: cheaper steps")
    p.add_argument("--early-share", type=float, default=0.6, help="share of the time with the early patch")
    p.add_argument("--batch-size", type=int, default=2)
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--cache", type=Path, default=None, help="folder for preprocessed cases")
    p.add_argument("--save-every", type=float, default=3.0, help="minutes between checkpoints")
    p.add_argument("--validate-every", type=float, default=6.0, help="minutes between quick validations and exports")
    p.add_argument("--name", default="", help="model name; nnunet-ARCHITECTURE if not given")
    p.add_argument("--version", default="1.0.0")
    p.add_argument("--trained-on", default="not stated", help='for example "simulated patients only"')
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
