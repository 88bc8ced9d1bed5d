"""Train a small Gemma 3 with vision on slices of a dataset folder: boxes and findings as JSON.

    python -m inference.training.vlm --dataset DIR --out DIR --minutes 100 --resume

Each example is one axial slice as the expert shows it, the question, and the true answer; coordinates are multiples of
ten thousandths. Beside the text the vision tower learns which share of each patch is tumour: without that it takes many
times as long until the text begins to look. Loss on the answer's tokens only.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from inference.experts.common.slices import CHANNELS
from inference.experts.vlm.answer import BadAnswer, Piece, parse, question
from inference.experts.vlm.views import View, picture
from inference.training.common.command_line import add_arguments, command_of, set_threads
from inference.training.common.dataset import RawDataset
from inference.training.common.export import LEAST_MM3, write_model_json
from inference.training.common.loop import VALIDATION_CASES, Loop, endless
from inference.training.common.preprocess import load_prepared, make_plans
from inference.training.common.progress import Log
from inference.training.vlm.network import PatchHead, build, load, make_processor, save
from inference.training.vlm.samples import PROMPT, REGION_ORDER, Batches, Sampler, ViewedCase, texts, truth, viewed_case

__all__ = ["main", "train"]


MODULE = "inference.training.vlm"


def step_loss(
    model: Any, head: PatchHead, inputs: dict[str, torch.Tensor], shares: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Loss of the answer and of the patches, and the answer's part for the log."""
    hidden: list[torch.Tensor] = []
    handle = model.model.vision_tower.register_forward_hook(lambda m, i, o: hidden.append(o.last_hidden_state))
    try:
        out = model(**inputs)
    finally:
        handle.remove()
    patches = F.binary_cross_entropy_with_logits(head(hidden[0]), shares)
    return out.loss + 2.0 * patches, float(out.loss.detach())


@torch.inference_mode()
def quick_validation(model: Any, processor: Any, cases: list[ViewedCase]) -> dict[str, float]:
    """Mean IoU of the union of boxes per region over slices with that region, and the share of answers in form."""
    model.eval()
    prompts, pictures, truths, views = [], [], [], []
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question("not given", PROMPT)}]}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    for case in cases:
        for index in case.tumour[:: max(1, len(case.tumour) // 4)][:4]:
            view = View(int(index), case.window)
            views.append(view)
            prompts.append(text)
            pictures.append([picture(case.unit.astype(np.float32), (0, 1, 2), view)])
            truths.append(truth(case.labels[index], view)[0])
    inputs = processor(text=prompts, images=pictures, return_tensors="pt", padding=True).to(model.device)
    made = model.generate(**inputs, max_new_tokens=300, do_sample=False)
    good = 0
    scores: dict[str, list[float]] = {region: [] for region in REGION_ORDER}
    tokens = made[:, inputs["input_ids"].shape[1] :]
    for row, expected in zip(tokens, truths, strict=True):
        written = processor.tokenizer.decode(row, skip_special_tokens=True)
        try:
            pieces: tuple[Piece, ...] = ((written, 1.0),)
            found = [(b.region, b.box) for b in parse(pieces).boxes]
        except BadAnswer:
            found = []
        else:
            good += 1
        for region in REGION_ORDER:
            a, b = _drawn(found, region), _drawn(expected, region)
            if b.any():
                scores[region].append(float((a & b).sum() / (a | b).sum()))
    model.train()
    return {f"iou_{r}": float(np.mean(s)) for r, s in scores.items() if s} | {"in_form": good / max(1, len(truths))}


def _drawn(boxes: list[tuple[str, tuple[int, int, int, int]]], region: str) -> NDArray[np.bool_]:
    plane = np.zeros((100, 100), bool)
    for name, (y0, x0, y1, x1) in boxes:
        if name == region:
            plane[y0 // 10 : max(y1 // 10, y0 // 10 + 1), x0 // 10 : max(x1 // 10, x0 // 10 + 1)] = True
    return plane


def train(arguments: argparse.Namespace) -> None:
    """Run the training that the command line describes; see --help."""
    set_threads(arguments.threads)
    out: Path = arguments.out
    log = Log(out)
    dataset = RawDataset(arguments.dataset)
    plans = make_plans(dataset, "plain", (2.0,) * 3, (64,) * 3, 2)
    started = time.monotonic()
    cases = [viewed_case(c) for c in load_prepared(dataset, plans, cache=arguments.cache)]
    split = -VALIDATION_CASES if len(cases) > 3 * VALIDATION_CASES else len(cases)
    training, held = cases[:split], [c for c in cases[-VALIDATION_CASES:] if c.tumour.size]
    log.write(event="loaded", cases=len(cases), seconds=time.monotonic() - started)
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    if arguments.start_from is not None:
        model, processor = load(arguments.start_from)
    else:
        processor = make_processor(texts(np.random.default_rng(arguments.seed), training))
        model = build(processor)
    model, head = model.to(device).train(), PatchHead().to(device)
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=arguments.rate, weight_decay=0.02, betas=(0.9, 0.98))
    loop = Loop(
        arguments,
        log,
        model,
        optimiser,
        command=command_of(MODULE, parser(), arguments),
        more={"head": head},
        warmup_steps=100,
    )

    def make(seed: int) -> Callable[[], tuple[dict[str, torch.Tensor], torch.Tensor]]:
        drawn = Batches(Sampler(training, seed), processor)
        return lambda: drawn.draw(arguments.batch_size)

    batches = endless(make, arguments.seed + loop.step, arguments.workers, device)

    def learn() -> float:
        inputs, shares = next(batches)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bfloat16):
            loss, answer = step_loss(model, head, inputs, shares.to(device))
        loss.backward()
        return answer

    def export() -> None:
        files = save(out / "export", copy.deepcopy(loop.averaged).cpu(), processor)
        write_model_json(
            out / "export",
            name=arguments.name,
            version=arguments.version,
            kind="vlm",
            architecture="Gemma 3 with SigLIP vision, tiny",
            files=files,
            training=loop.record(len(training)),
            extra={"pictures": [list(CHANNELS)], "slices": 16, "prompt": PROMPT, "minimum_mm3": LEAST_MM3},
        )

    loop.run(learn, lambda: quick_validation(loop.averaged, processor, held), export)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m inference.training.vlm", description=(__doc__ or "").split("\n")[0])
    add_arguments(p, minutes=100.0, validate_every=10.0)
    p.add_argument("--start-from", type=Path, default=None, help="fine-tune a folder that this training made")
    p.add_argument("--seed", type=int, default=4)
    p.add_argument("--batch-size", type=int, default=12)
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--bfloat16", action="store_true", help="autocast; worth it where the device is fast at it")
    p.add_argument("--name", default="gemma3-tiny")
    return p


def main(argv: list[str] | None = None) -> int:
    train(parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
