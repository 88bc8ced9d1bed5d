"""The automatic mode: the expert prompts itself, from image evidence alone or, where the network reads words, by a concept.

Weights trained here (`mask_tokens` in model.json) answer WT, TC and ET with their three mask tokens to one box a slice.
Weights that know nothing of tumours get one box for each region, from the trivial rule's own regions (bright FLAIR, and what
contrast brightened), and answer with the single mask token. A network that reads words finds the regions that model.json
names in words, by default the whole tumour; the others by boxes.

Tumours can be several, and the largest bright place of FLAIR can be something else: where the weights can say whether a
tumour is there at all (`least_object_score` in model.json), the next largest places are asked about too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.experts.common.out_of_memory import MemoryFallback
from inference.experts.common.slices import Box, Window, box_of, slice_boxes, window_for
from inference.experts.sam.contract import SamBackend
from oncoflow_site.foundation.errors import required

__all__ = ["CLEAREST", "TOKEN_REGIONS", "Evidence", "PlaceSegmentation", "place_score", "segment"]

TOKEN_REGIONS = ("WT", "TC", "ET")
"""What the three mask tokens were trained to answer, and the order of regions in this package's arrays."""


CLEAREST = 0.9
"""A place shows what its clearest slices show: the quantile of their object scores."""


@dataclass(frozen=True)
class PlaceSegmentation:
    """What was found at one place: how clearly it shows a tumour (logit, NaN: not said), and (3, z, y, x) probabilities in
    the order of TOKEN_REGIONS."""

    score: float
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """unit (3, z, y, x) in 0..1 on the working grid; brain mask; region -> mask that image evidence alone suggests."""

    unit: NDArray[np.float32]
    brain: NDArray[np.bool_]
    suggested: Mapping[str, NDArray[np.bool_]]


def segment(
    backend: SamBackend, evidence: Evidence, tokens: bool, memory: MemoryFallback, tell: Callable[[float], None]
) -> PlaceSegmentation:
    """What slices in the three directions answer in the mean to one place's evidence.

    tokens: the weights' three mask tokens answer the three regions. tell: fraction done.
    """
    result: NDArray[np.float32] = np.zeros((3, *evidence.brain.shape), np.float32)
    scores: list[float] = []
    for axis in range(3):
        result += _along(backend, evidence, axis, tokens, memory, scores, lambda f, a=axis: tell((a + f) / 3))  # type: ignore[misc]
    result /= 3
    return PlaceSegmentation(place_score(scores), result)


def place_score(scores: Sequence[float]) -> float:
    """How clearly a place shows a tumour, from the object scores of its slices, logits; NaN without scores."""
    known = [score for score in scores if score == score]
    return float(np.quantile(known, CLEAREST)) if known else float("nan")


def _along(
    backend: SamBackend,
    evidence: Evidence,
    axis: int,
    tokens: bool,
    memory: MemoryFallback,
    scores: list[float],
    tell: Callable[[float], None],
) -> NDArray[np.float32]:
    result = np.zeros((3, *evidence.brain.shape), np.float32)
    slices, target = np.moveaxis(evidence.unit, axis + 1, 1), np.moveaxis(result, axis + 1, 1)
    for region, words in backend.concepts.items():
        _by_words(
            backend, slices, np.moveaxis(evidence.brain, axis, 0), target[TOKEN_REGIONS.index(region)], words, memory
        )
    asked = [("WT", slice(0, 3), True)] if tokens else [
        (region, slice(n, n + 1), False) for n, region in enumerate(TOKEN_REGIONS) if region not in backend.concepts
    ]  # fmt: skip
    for part, (region, channels, multimask) in enumerate(asked):
        boxes = list(slice_boxes(evidence.suggested[region], axis).items())
        done = 0
        while done < len(boxes):
            done += memory.run(
                lambda batch, b=boxes[done:], c=channels, m=multimask: _answer(
                    backend, slices, target[c], b[:batch], m, scores
                )  # type: ignore[misc]
            )
            tell((part + done / len(boxes)) / len(asked))
    return result


def _answer(
    backend: SamBackend,
    slices: NDArray[np.float32],
    target: NDArray[np.float32],
    boxes: list[tuple[int, Box]],
    multimask: bool,
    scores: list[float],
) -> int:
    """Ask for some slices together and write their answers; how many they were."""
    windows = [window_for(box) for _, box in boxes]
    embedded = backend.embed([w.cut(slices[:, index]) for w, (index, _) in zip(windows, boxes, strict=True)])
    for (index, box), window, embedding in zip(boxes, windows, embedded, strict=True):
        window.paste(target[:, index], backend.decode(embedding, window.inside(box), [], multimask))
        scores.append(backend.object_score)
    return len(boxes)


def _by_words(
    backend: SamBackend,
    slices: NDArray[np.float32],
    brain: NDArray[np.bool_],
    target: NDArray[np.float32],
    words: str,
    memory: MemoryFallback,
) -> None:
    """Every slice that shows brain is searched for what the words name; no box comes before it."""
    for index in np.flatnonzero(brain.any(axis=(1, 2))):
        box = required(box_of(brain[index]), "the box of the brain")
        side = int(np.ceil(max(box[2] - box[0], box[3] - box[1])))
        window = Window(round((box[1] + box[3] - side) / 2), round((box[0] + box[2] - side) / 2), side)
        picture = window.cut(slices[:, index])
        window.paste(target[index][None], memory.run(lambda _, p=picture: backend.find(p, words))[None])  # type: ignore[misc]
