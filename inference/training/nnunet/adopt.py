"""Turn a model folder of nnU-Net's own training into a weights folder of this project.

    python -m inference.training.nnunet.adopt --from RESULTS/Dataset001/nnUNetTrainer__nnUNetPlans__3d_fullres --out DIR \
        --name nnunet-hospital --trained-on "312 cases of our own, 2019-2025"

nnU-Net's checkpoints hold more than tensors and can run code when loaded: only adopt what you trained or trust. The
result holds plain tensors in float16 with their SHA-256, and is what experts/nnunet loads.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from inference.experts.nnunet.labels import region_channels
from inference.training.common.export import write_model_json
from inference.training.nnunet.export import write_nnunet_folder

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Command line; see --help."""
    p = argparse.ArgumentParser(
        prog="python -m inference.training.nnunet.adopt", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument(
        "--from", dest="source", type=Path, required=True, help="folder with dataset.json, plans.json, fold_X"
    )
    p.add_argument("--folds", default="0", help="for example 0,1,2,3,4: their logits are averaged")
    p.add_argument("--checkpoint", default="checkpoint_final.pth", help="its file in each fold")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--name", required=True)
    p.add_argument("--version", default="1.0.0")
    p.add_argument("--trained-on", required=True, help="what the model has seen, in words for its users")
    p.add_argument("--seed", type=int, default=None)
    arguments = p.parse_args(argv)
    dataset_json = json.loads((arguments.source / "dataset.json").read_text("utf-8"))
    plans = json.loads((arguments.source / "plans.json").read_text("utf-8"))
    region_channels(dataset_json["labels"])
    folds = [part.strip() for part in arguments.folds.split(",") if part.strip()]
    if not folds or not all(part.isdigit() or part == "all" for part in folds):
        p.error("--folds takes numbers, or all")
    for fold in folds:
        # The one place where a pickle of the user's own is opened: adopting is an act of trust, said so in the docstring.
        path = arguments.source / f"fold_{fold}" / arguments.checkpoint
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        configuration, trainer = str(checkpoint["init_args"]["configuration"]), str(checkpoint["trainer_name"])
        write_nnunet_folder(
            arguments.out,
            checkpoint["network_weights"],
            plans,
            dataset_json,
            trainer=trainer,
            configuration=configuration,
            fold=fold,
            mirroring_axes=checkpoint.get("inference_allowed_mirroring_axes"),
        )
    architecture = plans["configurations"][configuration].get("architecture", {}).get("network_class_name", "U-Net")
    write_model_json(
        arguments.out,
        name=arguments.name,
        version=arguments.version,
        kind="nnunet",
        architecture=f"nnU-Net {str(architecture).rsplit('.', 1)[-1]}",
        files=["dataset.json", "plans.json", *(f"fold_{fold}/checkpoint_final.pth" for fold in folds)],
        training={
            "command": f"nnUNetv2_train ({trainer}, {configuration})",
            "seed": arguments.seed,
            "steps": int(checkpoint.get("current_epoch", 0)) * 250,
            "seconds": 0,
            "device": "not stated",
            "cases": int(dataset_json.get("numTraining", 0)),
            "parameters": sum(
                v.numel() for v in {t.data_ptr(): t for t in checkpoint["network_weights"].values()}.values()
            ),
            "trained_on": arguments.trained_on,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
