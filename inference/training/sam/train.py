"""Train a small SAM 2 on slices of a dataset folder: prompts and masks, then also films of neighbouring slices.

    python -m inference.training.sam --dataset DIR --out DIR --minutes 20 --resume

Every step gives each image two prompts. The automatic one is a box as the expert draws it for itself (image evidence,
or the true box with 15-20 % jitter); its three mask tokens learn WT, TC and ET in this order. The interactive one is a
box or clicks for one of several nested targets, or a random ellipse, answered by the single mask token: without such
variety the network learns to ignore its prompt. In the last part of the time every other step is a film: an object prompted
on its first frame and followed over the next, which is what teaches the memory. Method: Ravi et al., SAM 2, arXiv 2408.00714.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from inference.experts.common.slices import window_for
from inference.experts.sam.network import BASE_CONFIG, SMALL_OVERRIDES, build, load_state
from inference.experts.weights import read_model_json
from inference.training.common.command_line import add_arguments, command_of, set_threads
from inference.training.common.dataset import RawDataset
from inference.training.common.export import LEAST_MM3, half_state, write_model_json
from inference.training.common.loop import VALIDATION_CASES, Loop, endless
from inference.training.common.preprocess import load_prepared, make_plans
from inference.training.common.progress import Log
from inference.training.sam.frames import Film, FilmSampler, films_loss, follow, held_films
from inference.training.sam.slices import MEAN, STD, Batch, SliceCase, SliceSampler, slice_case

__all__ = ["main", "train"]

MODULE = "inference.training.sam"
SINGLE = "model.multimask_output_in_sam=false"


def embed(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Image embedding and high-resolution features, as SAM2ImagePredictor.set_image computes them, with gradients."""
    backbone = model.forward_image(images)
    _, features, _, _ = model._prepare_backbone_features(backbone)
    if model.directly_add_no_mem_embed:
        features[-1] = features[-1] + model.no_mem_embed
    n = images.shape[0]
    sizes = [model.image_size // d for d in (4, 8, 16)]
    maps = [f.permute(1, 2, 0).reshape(n, -1, s, s) for f, s in zip(features, sizes, strict=True)]
    return maps[-1], maps[:-1]


def decode(
    model: Any,
    features: tuple[torch.Tensor, list[torch.Tensor]],
    prompt: tuple[torch.Tensor, torch.Tensor],
    multimask: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask logits at a quarter of the image size, predicted IoU, object score logits."""
    sparse, dense = model.sam_prompt_encoder(points=prompt, boxes=None, masks=None)
    masks, iou, _, score = model.sam_mask_decoder(
        image_embeddings=features[0],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        repeat_image=False,
        high_res_features=features[1],
    )
    return masks, iou, score


def mask_loss(logits: torch.Tensor, target: torch.Tensor, iou: torch.Tensor, per_image: bool) -> torch.Tensor:
    """BCE + Dice at LOSS_SIZE and the error of the predicted IoU. Dice over the batch, or per image for clicks."""
    logits = F.interpolate(logits.float(), target.shape[-2:], mode="bilinear", align_corners=False)
    p = torch.sigmoid(logits)
    dims = (2, 3) if per_image else (0, 2, 3)
    dice = (2 * (p * target).sum(dims) + 20) / (p.sum(dims) + target.sum(dims) + 20)
    with torch.no_grad():
        mask, truth = logits > 0, target > 0.5
        union = (mask | truth).sum((2, 3)).clamp(min=1)
        actual = (mask & truth).sum((2, 3)) / union
    bce = F.binary_cross_entropy_with_logits(logits, target)
    return 2 * bce + (1 - dice).mean() + 0.05 * F.mse_loss(iou.float(), actual.float())


def step_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The loss of one batch: automatic and interactive prompts on the same image embedding."""
    features = embed(model, batch.images)
    auto, auto_iou, score = decode(model, features, batch.auto, True)
    click, click_iou, _ = decode(model, features, batch.interactive, False)
    exists = batch.regions[:, :1].amax((2, 3)).gt(0.5).float()
    return (
        mask_loss(auto, batch.regions, auto_iou, False)
        + 0.6 * mask_loss(click, batch.target, click_iou, True)
        + 0.05 * F.binary_cross_entropy_with_logits(score.float(), exists)
    )


def quick_validation(model: Any, cases: list[SliceCase], image_size: int) -> dict[str, float]:
    """Dice over the saliency's axial slices of held-out cases, WT, TC, ET pooled over voxels of each case."""
    model.eval()
    device = next(model.parameters()).device
    scores: list[list[float]] = [[], [], []]
    for case in cases:
        hit, size = np.zeros(3), np.zeros(3)
        for index, box in list(case.boxes[0].items())[::3]:
            window = window_for(box)
            picture = torch.from_numpy(window.cut(case.unit[:, index].astype(np.float32)))[None]
            x = (F.interpolate(picture, (image_size, image_size), mode="bilinear", align_corners=False)[0] - MEAN) / STD
            scale = image_size / window.side
            corners = torch.tensor([[[box[0] - window.x, box[1] - window.y], [box[2] - window.x, box[3] - window.y]]])
            with torch.inference_mode():
                logits, _, _ = decode(
                    model,
                    embed(model, x[None].to(device)),
                    (corners.float().to(device) * scale, torch.tensor([[2, 3]], dtype=torch.int32, device=device)),
                    True,
                )
                logits = F.interpolate(logits.float(), (window.side, window.side), mode="bilinear", align_corners=False)
            part = window.cut(case.labels[index][None].astype(np.float32))[0].astype(np.int8)
            truth = np.stack([part > 0, (part == 1) | (part == 3), part == 3])
            mask = logits[0].cpu().numpy() > 0
            hit += 2 * (mask & truth).sum((1, 2))
            size += mask.sum((1, 2)) + truth.sum((1, 2))
        for region in range(3):
            if case.tumour[0].size and size[region]:
                scores[region].append(float(hit[region] / size[region]))
    model.train()
    return {f"dice_{n}": float(np.mean(s)) for n, s in zip(("WT", "TC", "ET"), scores, strict=True) if s}


def films_dice(model: Any, films: list[Film]) -> dict[str, float]:
    """Mean Dice over the followed frames of each film, the prompted one left out; nothing shown is a mask of nothing."""
    model.eval()
    device = next(model.parameters()).device
    scores = []
    for film in films:
        shown = film.to(device)
        with torch.inference_mode():
            answers = follow(model, shown.images, shown.prompt)
        logits = torch.stack([low.float().cpu() for low, _ in answers[1:]])
        truth = film.targets[1:] > 0.5
        mask = F.interpolate(logits[:, 0], truth.shape[-2:], mode="bilinear", align_corners=False)[:, None] > 0
        total = int(mask.sum() + truth.sum())
        if truth.any():
            scores.append(2 * int((mask & truth).sum()) / total)
    model.train()
    return {"dice_frames": float(np.mean(scores))} if scores else {}


def train(arguments: argparse.Namespace) -> None:
    """Run the training that the command line describes; see --help."""
    set_threads(arguments.threads)
    out: Path = arguments.out
    log = Log(out)
    dataset = RawDataset(arguments.dataset)
    plans = make_plans(dataset, "plain", (2.0,) * 3, (64,) * 3, 2)
    started = time.monotonic()
    cases = [slice_case(c) for c in load_prepared(dataset, plans, cache=arguments.cache)]
    split = -VALIDATION_CASES if len(cases) > 3 * VALIDATION_CASES else len(cases)
    training, held = cases[:split], cases[-VALIDATION_CASES:]
    log.write(event="loaded", cases=len(cases), seconds=time.monotonic() - started)
    torch.manual_seed(arguments.seed)
    overrides = list(SMALL_OVERRIDES)
    if arguments.start_from is not None:
        overrides = list(read_model_json(arguments.start_from).get("hydra_overrides", overrides))
    model = build(overrides)
    if arguments.start_from is not None:
        load_state(model, arguments.start_from / "sam2.pt")
    if arguments.frames_share:
        # The three mask tokens are WT, TC and ET here, not three guesses at what a prompt means: who follows an object
        # from frame to frame must not hop between them.
        overrides = [o for o in overrides if not o.startswith(SINGLE.split("=")[0])] + [SINGLE]
        model.multimask_output_in_sam = False
    device = torch.device(arguments.device)
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.02)
    loop = Loop(arguments, log, model, optimiser, command=command_of(MODULE, parser(), arguments), warmup_steps=60)

    def make(seed: int) -> Callable[[], Batch]:
        sampler = SliceSampler(training, model.image_size, seed)
        return lambda: sampler.batch(arguments.batch_size)

    def make_films(seed: int) -> Callable[[], Film]:
        films = FilmSampler(training, model.image_size, seed + 7)
        return lambda: films.batch(max(1, arguments.batch_size // 3))

    seed = arguments.seed + loop.step
    batches = endless(make, seed, arguments.workers, device)
    films = endless(make_films, seed, arguments.workers // 2, device) if arguments.frames_share else None
    followed = held_films(held, model.image_size) if arguments.frames_share else []

    def learn() -> float:
        film = None
        if films is not None and loop.budget.fraction >= 1 - arguments.frames_share and loop.step % 2:
            film = next(films).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bfloat16):
            loss = step_loss(model, next(batches).to(device)) if film is None else films_loss(model, film)
        loss.backward()
        return float(loss.detach())

    def export() -> None:
        folder = out / "export"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "sam2.pt.partial"
        torch.save({"model": half_state(loop.averaged.cpu().state_dict())}, partial)
        loop.averaged.to(device)
        partial.replace(folder / "sam2.pt")
        write_model_json(
            folder,
            name=arguments.name,
            version=arguments.version,
            kind="sam",
            architecture="SAM 2 (Hiera), small",
            files=["sam2.pt"],
            training=loop.record(len(training)),
            extra={
                "config": BASE_CONFIG,
                "hydra_overrides": overrides,
                "mask_tokens": ["WT", "TC", "ET"],
                "minimum_mm3": LEAST_MM3,
                "propagation": arguments.propagation,
            },
        )

    def validate() -> dict[str, float]:
        return quick_validation(loop.averaged, held, model.image_size) | films_dice(loop.averaged, followed)

    loop.run(learn, validate, export)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m inference.training.sam", description=(__doc__ or "").split("\n")[0])
    add_arguments(p, minutes=20.0, validate_every=5.0)
    p.add_argument("--start-from", type=Path, default=None, help="fine-tune this weights folder")
    p.add_argument("--seed", type=int, default=3)
    p.add_argument("--batch-size", type=int, default=6)
    p.add_argument("--rate", type=float, default=8e-4)
    p.add_argument(
        "--frames-share", type=float, default=0.4, help="last share of the time, with films; 0: pictures only"
    )
    p.add_argument(
        "--propagation",
        choices=("boxes", "video"),
        default="boxes",
        help="how a prompt is carried to other slices; `make bench NAME=prompted` measures both",
    )
    p.add_argument("--bfloat16", action="store_true", help="autocast; worth it only where the CPU is fast at it")
    p.add_argument("--name", default="sam2-small")
    return p


def main(argv: list[str] | None = None) -> int:
    train(parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
