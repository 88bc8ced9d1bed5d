"""Train the detector of burned-in text (`imaging.deidentification.lettering_network`): minutes on two cores.

    python -m oncoflow_site.demo.lettering_training --out imaging/deidentification/data/textnet.npz

Everything it learns from is made here, from the seed: simulated slices, MNI152, textures and screens, and words drawn into
them in the training fonts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from imaging.deidentification.lettering_network import LAYERS, STRIDE, channels
from imaging.preprocessing.mni152 import atlas_template
from oncoflow_site.demo.lettering import (
    TRAINING_FONTS,
    Ground,
    drawn_over,
    font_files,
    shown,
    simulated_slices,
    some_text,
    text_free,
    worn,
    write_words,
)

PATIENTS = ((9001, "progression"), (9002, "two-lesions"), (9003, "tumour-free"), (9004, "response"), (9005, "stable"))
SIZE = 128
BATCH = 16


def grounds(seed: int) -> list[Ground]:
    """Slices to write into: simulated patients with and without skull, and MNI152."""
    rng = np.random.default_rng([seed, 1])
    found: list[Ground] = []
    for number, (patient, scenario) in enumerate(PATIENTS):
        found += simulated_slices(patient, scenario, rng, 48, skull=number < 4)
    template, _ = atlas_template()
    for axis in range(3):
        for at in np.linspace(0.25, 0.75, 8):
            found.append(shown(np.take(template, int(at * template.shape[axis]), axis=axis)))
    return found


def patch(pool: list[Ground], fonts: list[Path], rng: np.random.Generator) -> tuple[Ground, NDArray[np.float32]]:
    """A picture (SIZE, SIZE) and its truth at every fourth pixel: 1 letters, 0 none, -1 neither right nor wrong."""
    ground = _crop(pool[int(rng.integers(len(pool)))], rng) if rng.random() < 0.7 else text_free(rng, SIZE)
    if rng.random() < 0.2:
        ground = drawn_over(ground, rng)
    if rng.random() < 0.3:
        ground = ground ** float(rng.uniform(0.6, 1.6))
    if rng.random() < 0.1:
        ground = 1 - ground
    truth = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))):
        text = some_text(rng)
        unclear = rng.random() < 0.1
        if unclear:
            text = text[: int(rng.integers(1, 3))]
        height = float(np.exp(rng.uniform(np.log(6), np.log(20))))
        contrast = float(rng.uniform(0.15, 0.4))
        made = write_words(ground, rng, fonts, text, height=height, contrast=contrast)
        if made is None and len(text) > 6:
            made = write_words(ground, rng, fonts, text[:6], height=height, contrast=contrast)
        if made is None:
            continue
        ground, words = made
        top, left, bottom, right = words.box
        truth[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = -1
        if not unclear and len(text.replace(" ", "")) >= 3 and words.contrast >= 0.2:
            truth[top:bottom, left:right] = 1
    picture = worn(ground, rng)
    turn = int(rng.integers(4))
    centre = truth[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    return np.rot90(picture, turn).copy(), np.rot90(centre, turn).copy()


def _crop(whole: Ground, rng: np.random.Generator) -> Ground:
    scale = float(np.exp(rng.uniform(np.log(0.6), np.log(2.2))))
    need = int(np.ceil(SIZE / scale)) + 1
    if min(whole.shape) < need:
        whole = np.pad(whole, [(0, max(0, need - n)) for n in whole.shape])
    y, x = (int(rng.integers(0, n - need + 1)) for n in whole.shape)
    cut = whole[y : y + need, x : x + need]
    if scale < 1:
        cut = ndimage.gaussian_filter(cut, 0.4 / scale)
    out = np.clip(ndimage.zoom(cut, SIZE / need, order=1), 0, 1)[:SIZE, :SIZE]
    out = np.pad(out, [(0, SIZE - n) for n in out.shape], mode="edge")
    return np.asarray(np.rot90(out, int(rng.integers(4))), dtype=np.float32)


class Detector(nn.Sequential):
    """The network of `imaging.deidentification.lettering_network`, as torch trains it."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for number, (given, out, kernel, stride, dilation) in enumerate(LAYERS):
            around = dilation * (kernel // 2)
            layers.append(nn.Conv2d(given, out, kernel, stride=stride, dilation=dilation, padding=around))
            if number < len(LAYERS) - 1:
                layers.append(nn.ReLU())
        super().__init__(*layers)


def train(seed: int, steps: int, pool: list[Ground]) -> Detector:
    """Words found, and all else left alone: cross-entropy where the truth is known, worst pixels of nothing count double."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    fonts = font_files(TRAINING_FONTS)
    model = Detector()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.1)
    begun = time.monotonic()
    for step in range(steps):
        pairs = [patch(pool, fonts, rng) for _ in range(BATCH)]
        given = torch.from_numpy(np.stack([channels(picture) for picture, _ in pairs]))
        truth = torch.from_numpy(np.stack([answer for _, answer in pairs]))
        odds = model(given)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(odds, truth.clamp(min=0), reduction="none")
        known = truth >= 0
        # The hardest thirtieth of what shows nothing weighs as much as all of it: one false place is a false alarm.
        nothing = loss[truth == 0]
        hard = nothing.topk(max(1, nothing.numel() // 30)).values.mean()
        total = loss[known].mean() + 0.3 * hard + loss[truth == 1].mean()
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{step + 1:5d}  loss {float(total.detach()):.3f}  {time.monotonic() - begun:.0f} s", flush=True)
    return model


def main(arguments: list[str] | None = None) -> int:
    """Train and write the weights (half precision)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--steps", type=int, default=2500)
    options = parser.parse_args(arguments)
    model = train(options.seed, options.steps, grounds(options.seed))
    stored: dict[str, NDArray[np.float16]] = {}
    layers = [one for one in model if isinstance(one, nn.Conv2d)]
    for number, layer in enumerate(layers):
        stored[f"weight{number}"] = layer.weight.detach().numpy().astype(np.float16)
        if layer.bias is None:
            raise ValueError(f"layer {number} has no bias")
        stored[f"bias{number}"] = layer.bias.detach().numpy().astype(np.float16)
    np.savez_compressed(options.out, **stored)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
