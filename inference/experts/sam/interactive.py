"""A person's clicks and boxes, answered at once: what the image encoder made of a slice is kept.

The window around the first click (or the box) is laid on a lattice, so that later clicks on the same slice meet the same
picture and only the small mask decoder has to run. The window follows from the prompt alone, never from what happens to be
kept: the same prompt gives the same mask. A mask that reaches the window's border is asked for again in a wider one.
Clicks that the network does not follow are obeyed all the same (obey.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.experts.common.out_of_memory import MemoryFallback
from inference.experts.common.slices import MAXIMUM_WINDOW, WORKING_SPACING, Box, Window, box_of, resize, window_for
from inference.experts.contract import Prompt
from inference.experts.errors import ExpertFailed
from inference.experts.sam.click_enforcement import enforce_clicks, linked
from inference.experts.sam.contract import Click, Embedding, SamBackend
from oncoflow_site.foundation.byte_lru import ByteLru

__all__ = ["PROPAGATION_LIMIT", "Interaction", "Prepared"]

PROPAGATION_LIMIT = 40  # slices each way from a prompt, 80 mm
LATTICE = 8
CLICK_REACH = 10.0
EDGE = 2.0
Key = tuple[str, int, int, Window]


@dataclass(frozen=True)
class Prepared:
    """One study ready for clicks. unit: (3, z, y, x) in 0..1 on the working grid; brain: on the reference grid."""

    unit: NDArray[np.float32]
    brain: NDArray[np.bool_]
    spacing: tuple[float, float, float]

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return int(self.unit.nbytes + self.brain.nbytes)


class Interaction:
    """Answers prompts on prepared studies with one network."""

    def __init__(self, backend: SamBackend, memory: MemoryFallback, limit: int, tokens: Sequence[str] = ()) -> None:
        """tokens: the regions that the three mask tokens were trained for, where they were; limit: bytes kept."""
        self._backend = backend
        self._memory = memory
        self._tokens = tuple(tokens)
        self.ignored = 0
        self.embeddings: ByteLru[Key, Embedding] = ByteLru(limit, lambda embedding: embedding.bytes)

    def on_slice(self, key: str, study: Prepared, prompt: Prompt) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
        """(origin, mask): the slice of the reference grid that the prompt is on, as a part one voxel thick."""
        axis, index = prompt.axis, prompt.slice_index
        clicks, box = _on_working_grid(study, prompt)
        at = _working_index(study, axis, index)
        self.ignored = 0
        answer = self._ask(key, study, prompt, at, box, clicks.get(at, []))
        shape = [n for a, n in enumerate(study.brain.shape) if a != axis]
        full = resize(answer[None, None], (1, *shape))[0, 0]
        origin = [0, 0, 0]
        origin[axis] = index
        brain = np.expand_dims(np.take(study.brain, index, axis), axis)
        mask = np.expand_dims(full >= 0.5, axis)
        for z, y, x, positive in prompt.points:  # coarser voxels must not swallow what was clicked
            mask[z - origin[0], y - origin[1], x - origin[2]] = positive
        return (origin[0], origin[1], origin[2]), mask & brain

    def in_volume(self, key: str, study: Prepared, prompt: Prompt) -> NDArray[np.float32]:
        """(z, y, x) probability on the working grid: from the prompted slices to their neighbours."""
        if self._backend.propagation == "video":
            return self._followed(study, prompt)
        result = np.zeros(study.unit.shape[1:], np.float32)
        target = np.moveaxis(result, prompt.axis, 0)
        depth = int(study.unit.shape[prompt.axis + 1])
        clicks, box = _on_working_grid(study, prompt)
        self.ignored = 0
        seeds = [index for index, marks in clicks.items() if any(positive for *_, positive in marks)]
        first = last = _working_index(study, prompt.axis, prompt.slice_index)
        if prompt.box is not None and box is not None:
            first, last = (_working_index(study, prompt.axis, corner[prompt.axis]) for corner in prompt.box)
            seeds = list(range(first, last + 1))
        for index in seeds:
            height = (index - (first + last) / 2) / max((last - first + 1) / 2, 0.5)
            here = _shrunk(box, height) if box is not None and last > first else box
            target[index] = self._ask(key, study, prompt, index, here, clicks.get(index, []))
        if last > first:  # a box in space bounds the object from all sides
            return result
        reached = set(seeds)
        for start in seeds:
            for step in (1, -1):
                before = target[start] >= 0.5
                for index in _walk(start, step, depth):
                    around = box_of(before)
                    if around is None or index in reached:
                        break
                    reached.add(index)
                    target[index] = self._carry(key, study, prompt, index, around, clicks.get(index, []), before)
                    before = target[index] >= 0.5
        return result

    def _carry(
        self,
        key: str,
        study: Prepared,
        prompt: Prompt,
        index: int,
        around: Box,
        clicks: Sequence[Click],
        before: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """(h, w) probability of a neighbouring slice: what hangs together with the mask before it, less negative clicks."""
        answer, window, picture = self._network(key, study, prompt, index, around, clicks)
        found, ignored = enforce_clicks(
            picture, answer, _shifted(clicks, window), (0.0, 0.0, float(window.side), float(window.side))
        )
        self.ignored += ignored
        return linked(_pasted(window, found, before.shape), before)

    def _ask(
        self, key: str, study: Prepared, prompt: Prompt, index: int, box: Box | None, clicks: Sequence[Click]
    ) -> NDArray[np.float32]:
        """(h, w) probability of a slice of the working grid that a person has marked."""
        answer, window, picture = self._network(key, study, prompt, index, box, clicks)
        inside = window.inside(box) if box is not None else None
        found, ignored = enforce_clicks(picture, answer, _shifted(clicks, window), inside)
        self.ignored += ignored
        return _pasted(window, found, np.moveaxis(study.unit, prompt.axis + 1, 1).shape[2:])

    def _network(
        self, key: str, study: Prepared, prompt: Prompt, index: int, box: Box | None, clicks: Sequence[Click]
    ) -> tuple[NDArray[np.float32], Window, NDArray[np.float32]]:
        """What the network says: (probability in the window, window, picture in the window)."""
        picture = np.moveaxis(study.unit, prompt.axis + 1, 1)[:, index]
        window = _window(box, clicks)
        while True:
            answer = self._answer((key, prompt.axis, index, window), picture, prompt.region, box, clicks)
            if window.side >= MAXIMUM_WINDOW or not _reaches_border(answer):
                return answer, window, window.cut(picture)
            centre_y, centre_x = window.y + window.side // 2, window.x + window.side // 2
            side = min(2 * window.side, MAXIMUM_WINDOW)
            window = Window(centre_y - side // 2, centre_x - side // 2, side)

    def _answer(
        self, key: Key, picture: NDArray[np.float32], region: str, box: Box | None, clicks: Sequence[Click]
    ) -> NDArray[np.float32]:
        """(side, side) probability in the window of `key`: of the region's own mask token where there is one."""
        window = key[3]
        local = _shifted(clicks, window)
        inside = window.inside(box) if box is not None else None
        own = region in self._tokens
        found = self._memory.run(
            lambda _: self._backend.decode(self._embedding(key, picture), inside, local, multimask=own)
        )
        return found[self._tokens.index(region) if own else 0]

    def _embedding(self, key: Key, picture: NDArray[np.float32]) -> Embedding:
        found = self.embeddings.get(key)
        if found is None:
            (found,) = self._backend.embed([key[3].cut(picture)])
            self.embeddings.put(key, found)
        return found

    def _followed(self, study: Prepared, prompt: Prompt) -> NDArray[np.float32]:
        """The network's own propagation over slices as frames, all seen through one window."""
        axis = prompt.axis
        clicks, box = _on_working_grid(study, prompt)
        frames = np.moveaxis(study.unit, axis + 1, 1)
        # A slice with negative clicks alone tells the network of no object to follow.
        prompts: dict[int, tuple[Box | None, Sequence[Click]]] = {
            index: (None, marks) for index, marks in clicks.items() if any(positive for *_, positive in marks)
        }
        if box is not None:
            at = _working_index(study, axis, prompt.slice_index)
            prompts[at] = (box, clicks.get(at, []))
        every = [click for marks in clicks.values() for click in marks]
        window = _window(box, every)
        if window.side < MAXIMUM_WINDOW:
            middle_y, middle_x = window.y + window.side // 2, window.x + window.side // 2
            window = Window(middle_y - MAXIMUM_WINDOW // 2, middle_x - MAXIMUM_WINDOW // 2, MAXIMUM_WINDOW)
        first = max(0, min(prompts) - PROPAGATION_LIMIT)
        last = min(frames.shape[1], max(prompts) + PROPAGATION_LIMIT + 1)
        pictures = np.stack([window.cut(frames[:, index]) for index in range(first, last)])
        local = {
            index - first: (
                window.inside(shown) if shown is not None else None,
                _shifted(marks, window),
            )
            for index, (shown, marks) in prompts.items()
        }
        answers = self._memory.run(lambda _: self._backend.track(pictures, local))
        result = np.zeros(study.unit.shape[1:], np.float32)
        target = np.moveaxis(result, axis, 0)
        for index, answer in zip(range(first, last), answers, strict=True):
            window.paste(target[index][None], answer[None])
        return result


def _shifted(clicks: Sequence[Click], window: Window) -> list[Click]:
    return [(x - window.x, y - window.y, positive) for x, y, positive in clicks]


def _pasted(window: Window, part: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    out = np.zeros((1, *shape), np.float32)
    window.paste(out, part[None])
    return out[0]


def _working_index(study: Prepared, axis: int, index: int) -> int:
    return int(np.clip((index + 0.5) * study.spacing[axis] / WORKING_SPACING, 0, study.unit.shape[axis + 1] - 1))


def _on_working_grid(study: Prepared, prompt: Prompt) -> tuple[dict[int, list[Click]], Box | None]:
    """Clicks by slice of the working grid, and the box, as (x, y) of such a slice: its columns and rows."""
    rows, columns = (a for a in range(3) if a != prompt.axis)
    factor = [s / WORKING_SPACING for s in study.spacing]
    clicks: dict[int, list[Click]] = {}
    for z, y0, x0, positive in prompt.points:
        position = (z, y0, x0)
        index = _working_index(study, prompt.axis, position[prompt.axis])
        x, y = ((position[a] + 0.5) * factor[a] for a in (columns, rows))
        clicks.setdefault(index, []).append((x, y, bool(positive)))
    if prompt.box is None:
        if not any(positive for marks in clicks.values() for *_, positive in marks):
            raise ExpertFailed("there is no positive point and no box to start from")
        return clicks, None
    low, high = prompt.box
    return clicks, (
        low[columns] * factor[columns],
        low[rows] * factor[rows],
        (high[columns] + 1) * factor[columns],
        (high[rows] + 1) * factor[rows],
    )


def _window(box: Box | None, clicks: Sequence[Click]) -> Window:
    """The window for a prompt: around the box or the first positive click, wide enough for all clicks, on the lattice."""
    if box is None:
        x, y, _ = next((click for click in clicks if click[2]), clicks[0])
        box = (x - CLICK_REACH, y - CLICK_REACH, x + CLICK_REACH, y + CLICK_REACH)
    found = _snapped(window_for(box))
    outside = [
        (x, y)
        for x, y, _ in clicks
        if not (
            found.x + EDGE <= x <= found.x + found.side - EDGE and found.y + EDGE <= y <= found.y + found.side - EDGE
        )
    ]
    if outside:
        xs, ys = [box[0], box[2], *(x for x, _ in outside)], [box[1], box[3], *(y for _, y in outside)]
        found = _snapped(window_for((min(xs), min(ys), max(xs), max(ys))))
    return found


def _snapped(window: Window) -> Window:
    side = min(int(np.ceil(window.side / LATTICE) * LATTICE), MAXIMUM_WINDOW)
    return Window(round(window.y / LATTICE) * LATTICE, round(window.x / LATTICE) * LATTICE, side)


def _reaches_border(answer: NDArray[np.float32]) -> bool:
    edges = (answer[0], answer[-1], answer[:, 0], answer[:, -1])
    return any(bool((edge > 0.5).any()) for edge in edges)


def _walk(start: int, step: int, length: int) -> Iterator[int]:
    for distance in range(1, PROPAGATION_LIMIT + 1):
        index = start + step * distance
        if not 0 <= index < length:
            return
        yield index


def _shrunk(box: Box, height: float) -> Box:
    """The section of an ellipsoid inscribed in a 3D box, at `height` (-1..1) from its middle."""
    scale = float(np.sqrt(max(1 - height**2, 0.15)))
    cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return cx - w * scale, cy - h * scale, cx + w * scale, cy + h * scale
