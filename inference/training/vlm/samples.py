"""What the small vision-language model learns from: axial slices as pictures, with their boxes and findings as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F  # noqa: N812

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.common.slices import CHANNELS, Window, box_of, to_unit
from inference.experts.vlm.answer import question, render
from inference.experts.vlm.views import View, brain_window, picture
from inference.training.common.preprocess import PreparedCase
from inference.training.vlm.network import PATCHES

STEP = 10
PROMPT = "Indication: {indication}. Find WT, TC and ET."  # short: every token of it costs each step
SMALLEST = 6  # pixels of a part that gets a box
REGION_ORDER = ("WT", "TC", "ET")
INDICATIONS = (
    "follow-up of glioblastoma",
    "suspected brain tumour",
    "glioma after radiotherapy",
    "first seizure",
    "headache and hemiparesis",
    "brain metastases, follow-up",
    "not given",
)


@dataclass(frozen=True)
class ViewedCase:
    """unit (3, z, y, x) float16 in 0..1; labels (z, y, x); window of the brain; slices with brain, and with tumour."""

    unit: NDArray[np.float16]
    labels: NDArray[np.int8]
    window: Window
    brain: NDArray[np.intp]
    tumour: NDArray[np.intp]


def viewed_case(case: PreparedCase) -> ViewedCase:
    """One preprocessed case as the expert sees it."""
    data = case.data.astype(np.float32)
    brain = (data != 0).any(axis=0)
    unit = to_unit(data[[PANEL_SEQUENCES.index(c) for c in CHANNELS]], brain).astype(np.float16)
    window = brain_window(brain)
    return ViewedCase(
        unit,
        case.labels,
        window,
        np.flatnonzero(brain.sum(axis=(1, 2)) > 200),
        np.flatnonzero((case.labels > 0).any(axis=(1, 2))),
    )


def regions_of(labels: NDArray[np.int8]) -> dict[str, NDArray[np.bool_]]:
    """Masks WT, TC, ET of a label map."""
    return {"WT": labels > 0, "TC": (labels == 1) | (labels == 3), "ET": labels == 3}


def truth(labels: NDArray[np.int8], view: View) -> tuple[list[tuple[str, tuple[int, int, int, int]]], list[str]]:
    """Boxes (region, box in thousandths) of a slice's parts, the largest three of each region, and findings in words."""
    masks = regions_of(labels)
    boxes: list[tuple[str, tuple[int, int, int, int]]] = []
    for region in REGION_ORDER:
        parts, count = ndimage.label(ndimage.binary_closing(masks[region], iterations=1) | masks[region])
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        large = [n for n in np.argsort(-sizes[1:]) + 1 if sizes[n] >= SMALLEST][:3]
        for number in large:
            x0, y0, x1, y1 = box_of(parts == number) or (0, 0, 1, 1)
            box = view.to_picture((y0, x0, y1, x1), STEP)
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append((region, box))
    return boxes, findings(masks, {region for region, _ in boxes}, view)


def findings(masks: dict[str, NDArray[np.bool_]], present: set[str], view: View) -> list[str]:
    """What a reader would say of the slice in a few words."""
    if "WT" not in present:
        return []
    y, x = (float(v) for v in ndimage.center_of_mass(masks["WT"]))
    front = "anterior" if y > view.window.y + view.window.side / 2 else "posterior"
    side = "right" if x > view.window.x + view.window.side / 2 else "left"
    place = f"in the {side} {front} hemisphere"
    said = [f"FLAIR hyperintensity {place}"]
    if "ET" in present:
        necrotic = int((masks["TC"] & ~masks["ET"]).sum()) > 0.25 * int(masks["TC"].sum())
        said.append("ring-enhancing lesion with a necrotic core" if necrotic else "solid enhancing lesion")
    elif "TC" in present:
        said.append("tumour core without enhancement")
    return said


class Sampler:
    """Draws slices with their answers."""

    def __init__(self, cases: list[ViewedCase], seed: int) -> None:
        self.cases = cases
        self.with_tumour = [c for c in cases if c.tumour.size]
        if not self.with_tumour:
            raise ValueError("no training case has a tumour")
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[NDArray[np.uint8], str, NDArray[np.float32]]:
        """(picture, answer, share of WT, TC, ET per patch (3, PATCHES, PATCHES))."""
        rng = self.rng
        tumour = rng.random() < 0.72
        pool = self.with_tumour if tumour else self.cases
        case = pool[rng.integers(len(pool))]
        index = int(rng.choice(case.tumour if tumour else case.brain))
        side = max(24, int(case.window.side * rng.uniform(0.92, 1.25)))
        play = case.window.side - side
        window = Window(
            case.window.y + play // 2 + int(rng.integers(-5, 6)),
            case.window.x + play // 2 + int(rng.integers(-5, 6)),
            side,
        )
        unit = case.unit[:, index].astype(np.float32)
        labels = case.labels[index]
        if rng.random() < 0.5:  # mirrored, the sides change their names with it
            unit, labels = unit[:, :, ::-1], labels[:, ::-1]
            window = Window(window.y, labels.shape[1] - window.x - window.side, window.side)
        view = View(0, window)
        boxes, said = truth(labels, view)
        shares = np.stack([_shares(mask, window) for mask in regions_of(labels).values()])
        return picture(self._intensities(unit)[:, None], (0, 1, 2), view), render(boxes, said), shares

    def _intensities(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        rng = self.rng
        inside = (unit > 0).any(axis=0)
        out = np.clip(unit * rng.uniform(0.85, 1.15, (3, 1, 1)) + rng.uniform(-0.06, 0.06, (3, 1, 1)), 0, 1)
        out = out ** np.exp(rng.uniform(-0.25, 0.25, (3, 1, 1)))
        if rng.random() < 0.3:
            out = out + rng.normal(0, rng.uniform(0.005, 0.03), out.shape)
        if rng.random() < 0.04:
            out[int(rng.integers(3))] = 0
        return np.where(inside, np.clip(out, 0, 1), 0).astype(np.float32)


def _shares(mask: NDArray[np.bool_], window: Window) -> NDArray[np.float32]:
    """Share of `mask` in each patch of the picture (PATCHES, PATCHES)."""
    cut = torch.from_numpy(np.ascontiguousarray(window.cut(mask[None].astype(np.float32))[:, ::-1, ::-1]))
    shares: NDArray[np.float32] = F.adaptive_avg_pool2d(cut[None], PATCHES)[0, 0].numpy()
    return shares


def texts(rng: np.random.Generator, cases: list[ViewedCase]) -> Iterator[str]:
    """What the tokenizer learns from: questions, true answers, and every number that may come."""
    sampler = Sampler(cases, int(rng.integers(1 << 30)))
    for indication in INDICATIONS:
        yield question(indication, PROMPT)
    for _ in range(600):
        yield sampler.draw()[1]
    for _ in range(40):
        yield " ".join(str(n) for n in range(0, 1001, STEP))


class Batches:
    """Model inputs from samples; the prompt is masked out of the loss."""

    def __init__(self, sampler: Sampler, processor: Any) -> None:
        self.sampler = sampler
        self.processor = processor

    def draw(self, n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(inputs with labels, patch shares (n, PATCHES * PATCHES, 3))."""
        pictures, prompts, answers, shares = [], [], [], []
        for _ in range(n):
            image, answer, share = self.sampler.draw()
            indication = INDICATIONS[int(self.sampler.rng.integers(len(INDICATIONS)))]
            turns = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question(indication, PROMPT)}]}
            ]
            prompts.append(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
            answers.append(answer + self.processor.tokenizer.eos_token)
            pictures.append([image])
            shares.append(share.reshape(3, -1).T)
        whole = self.processor(
            text=[p + a for p, a in zip(prompts, answers, strict=True)],
            images=pictures,
            return_tensors="pt",
            padding=True,
        )
        labels = whole["input_ids"].clone()
        for row, answer in enumerate(answers):
            length = len(self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
            labels[row, :-length] = -100
        return {**whole, "labels": labels}, torch.from_numpy(np.stack(shares))
