"""Train a small SAM 2 on slices of a dataset folder: the image stage, prompts and masks.

    python -m inference.training.sam --dataset DIR --out DIR --minutes 20 --resume

Every step gives each image two prompts. The automatic one is a box as the expert draws it for itself (image evidence,
or the true box with 15-20 % jitter); its three mask tokens learn WT, TC and ET in this order. The interactive one is a
box or clicks for one of several nested targets, or a random ellipse, answered by the single mask token: without such
variety the network learns to ignore its prompt. Method: Ravi et al., SAM 2, arXiv 2408.00714.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from inference.experts.base import SEQUENCES, read_model_json
from inference.experts.saliency import salient_tumour
from inference.experts.sam.network import BASE_CONFIG, SMALL_OVERRIDES, build, load_state
from inference.experts.slices import CHANNELS, Box, Window, box_of, slice_boxes, to_unit, window_for

from .common import Average, Budget, Log, load_checkpoint, save_checkpoint, set_threads
from .dataset import RawDataset
from .export import half_state, write_model_json
from .preprocess import PreparedCase, load_prepared, make_plans

__all__ = ["main", "train"]

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]  # those of sam2's SAM2Transforms
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
LOSS_SIZE = 128
VALIDATION_CASES = 8


@dataclass(frozen=True)
class SliceCase:
    """unit (3, z, y, x) float16 in 0..1; labels (z, y, x); boxes[axis][index] as the expert would draw them."""

    unit: NDArray[np.float16]
    labels: NDArray[np.int8]
    boxes: tuple[dict[int, Box], dict[int, Box], dict[int, Box]]
    tumour: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


def slice_case(case: PreparedCase) -> SliceCase:
    """Saliency and boxes of one preprocessed case."""
    data = case.data.astype(np.float32)
    brain = (data != 0).any(axis=0)
    stack = data[[SEQUENCES.index(c) for c in CHANNELS]]
    salient = salient_tumour(stack[0], brain)
    b = (slice_boxes(salient, 0), slice_boxes(salient, 1), slice_boxes(salient, 2))
    whole = case.labels > 0
    t = (
        np.flatnonzero(whole.any(axis=(1, 2))),
        np.flatnonzero(whole.any(axis=(0, 2))),
        np.flatnonzero(whole.any(axis=(0, 1))),
    )
    return SliceCase(to_unit(stack, brain).astype(np.float16), case.labels, b, t)


@dataclass
class Batch:
    """images (n, 3, s, s) normalised; regions (n, 3, t, t) WT, TC, ET; one interactive target (n, 1, t, t).

    Prompts are point tokens as sam2 encodes them: coordinates in pixels (n, p, 2) as (x, y), labels (n, p) with
    2 and 3 for box corners, 1 and 0 for clicks, -1 for padding.
    """

    images: torch.Tensor
    regions: torch.Tensor
    target: torch.Tensor
    auto: tuple[torch.Tensor, torch.Tensor]
    interactive: tuple[torch.Tensor, torch.Tensor]


class SliceSampler:
    """Draws batches of windows from slices in all three directions."""

    def __init__(self, cases: list[SliceCase], image_size: int, seed: int) -> None:
        self.cases = cases
        self.with_tumour = [c for c in cases if c.tumour[0].size]
        self.without = [c for c in cases if not c.tumour[0].size and c.boxes[0]]
        if not self.with_tumour:
            raise ValueError("no training case has a tumour")
        self.size = image_size
        self.rng = np.random.default_rng(seed)

    def batch(self, n: int) -> Batch:
        """n windows with their prompts."""
        parts = [self._one() for _ in range(n)]
        return Batch(
            torch.stack([p[0] for p in parts]),
            torch.stack([p[1] for p in parts]),
            torch.stack([p[2] for p in parts]),
            (torch.stack([p[3] for p in parts]), torch.tensor([[2, 3]] * n, dtype=torch.int32)),
            (torch.stack([p[4] for p in parts]), torch.stack([p[5] for p in parts])),
        )

    def _jitter(self, box: Box, share: float) -> Box:
        width, height = box[2] - box[0], box[3] - box[1]
        moves = self.rng.uniform(-share, share, 4) * (width, height, width, height)
        x0, y0, x1, y1 = (b + m for b, m in zip(box, moves, strict=True))
        return min(x0, x1 - 2), min(y0, y1 - 2), max(x1, x0 + 2), max(y1, y0 + 2)

    def _one(self) -> tuple[torch.Tensor, ...]:
        rng = self.rng
        axis = int(rng.integers(3))
        empty = bool(self.without) and rng.random() < 0.22
        pool = self.without if empty else self.with_tumour
        case = pool[rng.integers(len(pool))]
        boxes = case.boxes[axis]
        from_saliency = bool(boxes) and (empty or rng.random() < 0.55)
        if from_saliency:
            keys = list(boxes)
            index = keys[rng.integers(len(keys))]
        else:
            index = int(case.tumour[axis][rng.integers(case.tumour[axis].size)]) if case.tumour[axis].size else 0
        image = np.moveaxis(case.unit, axis + 1, 1)[:, index].astype(np.float32)
        labels = np.moveaxis(case.labels, axis, 0)[index]
        box = boxes[index] if from_saliency else (box_of(labels > 0) or (0.0, 0.0, 20.0, 20.0))
        box = self._jitter(box, 0.08 if from_saliency else 0.18)
        window = window_for(box)
        shift = rng.integers(-6, 7, 2)
        window = Window(window.y + int(shift[0]), window.x + int(shift[1]), int(window.side * rng.uniform(1.0, 1.15)))
        picture = self._intensities(window.cut(image))
        part = window.cut(labels[None].astype(np.float32))[0].astype(np.int8)
        box = (box[0] - window.x, box[1] - window.y, box[2] - window.x, box[3] - window.y)
        for flip_axis in (0, 1):
            if rng.random() < 0.5:
                picture, part = np.flip(picture, flip_axis + 1), np.flip(part, flip_axis)
                s = window.side
                box = (
                    (box[0], s - box[3], box[2], s - box[1])
                    if flip_axis == 0
                    else (s - box[2], box[1], s - box[0], box[3])
                )
        regions = np.stack([part > 0, (part == 1) | (part == 3), part == 3])
        target, coordinates, kinds = self._interactive(regions, part)
        scale = self.size / window.side
        x = torch.from_numpy(np.ascontiguousarray(picture))[None]
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)[0]
        masks = torch.from_numpy(np.concatenate([regions, target[None]]).astype(np.float32))[None]
        masks = F.interpolate(masks, (LOSS_SIZE, LOSS_SIZE), mode="bilinear", align_corners=False)[0]
        corners = torch.tensor([[box[0], box[1]], [box[2], box[3]]], dtype=torch.float32) * scale
        return (
            (x - MEAN) / STD,
            masks[:3],
            masks[3:],
            corners,
            torch.from_numpy(coordinates).float() * scale,
            torch.from_numpy(kinds),
        )

    def _interactive(
        self, regions: NDArray[np.bool_], part: NDArray[np.int8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int32]]:
        """A target and its prompt: always four tokens, padded."""
        rng = self.rng
        side = part.shape[0]
        candidates = [m for m in (*regions, part == 1, part == 2) if m.sum() >= 6]
        if not candidates or rng.random() < 0.12:
            centre, radius = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(3, side / 4, 2)
            rows, columns = np.mgrid[:side, :side]
            target = ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 <= 1
        else:
            target = candidates[rng.integers(len(candidates))]
        coordinates = np.zeros((4, 2), np.float32)
        kinds = np.full(4, -1, np.int32)
        used = 0
        box = box_of(target)
        if box is not None and rng.random() < 0.7:
            x0, y0, x1, y1 = self._jitter(box, 0.17)
            coordinates[:2], kinds[:2] = [[x0, y0], [x1, y1]], [2, 3]
            used = 2
        while used < (3 if rng.random() < 0.7 else 4):
            positive = used in (0, 2) or rng.random() < 0.5
            where = np.argwhere(target if positive else ~target)
            row, column = where[rng.integers(len(where))]
            coordinates[used], kinds[used] = (column + 0.5, row + 0.5), int(positive)
            used += 1
        return target, coordinates, kinds

    def _intensities(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        rng = self.rng
        inside = (picture > 0).any(axis=0)
        out = picture * rng.uniform(0.85, 1.15, (3, 1, 1)) + rng.uniform(-0.06, 0.06, (3, 1, 1))
        out = np.clip(out, 0, 1) ** np.exp(rng.uniform(-0.25, 0.25, (3, 1, 1)))
        if rng.random() < 0.3:
            out = out + rng.normal(0, rng.uniform(0.005, 0.03), out.shape)
        if rng.random() < 0.04:
            out[int(rng.integers(3))] = 0
        result: NDArray[np.float32] = np.where(inside, np.clip(out, 0, 1), 0).astype(np.float32)
        return result


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
                    embed(model, x[None]),
                    (corners.float() * scale, torch.tensor([[2, 3]], dtype=torch.int32)),
                    True,
                )
                logits = F.interpolate(logits.float(), (window.side, window.side), mode="bilinear", align_corners=False)
            part = window.cut(case.labels[index][None].astype(np.float32))[0].astype(np.int8)
            truth = np.stack([part > 0, (part == 1) | (part == 3), part == 3])
            mask = logits[0].numpy() > 0
            hit += 2 * (mask & truth).sum((1, 2))
            size += mask.sum((1, 2)) + truth.sum((1, 2))
        for region in range(3):
            if case.tumour[0].size and size[region]:
                scores[region].append(float(hit[region] / size[region]))
    model.train()
    return {f"dice_{n}": float(np.mean(s)) for n, s in zip(("WT", "TC", "ET"), scores, strict=True) if s}


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
    model.train()
    average, averaged = Average(model), copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.02)
    step, spent = 0, 0.0
    state = load_checkpoint(out / "checkpoint.pt") if arguments.resume else None
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.restore(state["average"])
        step, spent = int(state["step"]), float(state["spent_s"])
    sampler = SliceSampler(training, model.image_size, arguments.seed + step)
    budget = Budget(arguments.minutes, spent)
    log.write(event="start", parameters=sum(p.numel() for p in model.parameters()), step=step, spent_s=spent)

    def checkpoint() -> None:
        save_checkpoint(
            out / "checkpoint.pt",
            {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average.state(),
                "step": step,
                "spent_s": budget.spent_s,
            },
        )

    def export() -> None:
        average.copy_to(averaged)
        folder = out / "export"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "sam2.pt.partial"
        torch.save({"model": half_state(averaged.state_dict())}, partial)
        partial.replace(folder / "sam2.pt")
        write_model_json(
            folder,
            name=arguments.name,
            version=arguments.version,
            kind="sam",
            architecture="SAM 2 (Hiera), small",
            files=["sam2.pt"],
            training={
                "command": f"python -m inference.training.sam --minutes {arguments.minutes:g} --seed {arguments.seed} "
                f"--threads {arguments.threads} --batch-size {arguments.batch_size}",
                "seed": arguments.seed,
                "steps": step,
                "seconds": round(budget.spent_s),
                "device": "cpu",
                "cases": len(training),
                "parameters": sum(p.numel() for p in model.parameters()),
                "trained_on": arguments.trained_on,
            },
            extra={"config": BASE_CONFIG, "hydra_overrides": overrides, "mask_tokens": ["WT", "TC", "ET"]},
        )

    losses: list[float] = []
    last_log = last_save = last_validation = time.monotonic()
    while budget.fraction < 1:
        rate = budget.rate(step, arguments.rate, warmup_steps=60)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = sampler.batch(arguments.batch_size)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            loss = step_loss(model, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
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
            average.copy_to(averaged)
            log.write(event="validation", step=step, **quick_validation(averaged, held, model.image_size))
            export()
            last_validation = last_log = time.monotonic()
            losses = []
    checkpoint()
    export()
    log.write(event="done", step=step, seconds=budget.spent_s, **quick_validation(averaged, held, model.image_size))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m inference.training.sam", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--dataset", type=Path, required=True, help="nnU-Net raw dataset folder")
    p.add_argument("--out", type=Path, required=True, help="checkpoints, log and export/ go here")
    p.add_argument("--minutes", type=float, default=20.0, help="wall-clock budget, resumed time included")
    p.add_argument("--start-from", type=Path, default=None, help="fine-tune this weights folder")
    p.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt if it is there")
    p.add_argument("--seed", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch-size", type=int, default=6)
    p.add_argument("--rate", type=float, default=8e-4)
    p.add_argument("--bfloat16", action="store_true", help="autocast; worth it only where the CPU is fast at it")
    p.add_argument("--cache", type=Path, default=None, help="folder for preprocessed cases")
    p.add_argument("--save-every", type=float, default=3.0, help="minutes between checkpoints")
    p.add_argument("--validate-every", type=float, default=5.0, help="minutes between quick validations and exports")
    p.add_argument("--name", default="sam2-small")
    p.add_argument("--version", default="1.0.0")
    p.add_argument("--trained-on", default="not stated", help='for example "simulated patients only"')
    return p


def main(argv: list[str] | None = None) -> int:
    train(parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
