"""What a vision-language model is asked, and the strict reading of what it answers.

The answer must be one JSON object: {"boxes": [{"region": "WT", "box_2d": [y0, x0, y1, x1]}], "findings": ["..."]}, boxes in
thousandths of the picture's side. A fence of back quotes around it is taken off, because models add one; anything else
that does not fit refuses the whole answer: half of a misunderstood answer is not half right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imaging.brats.regions import REGIONS
from inference.experts.vlm.views import SCALE, ThousandthBox

__all__ = ["Answer", "AnswerBox", "BadAnswer", "Piece", "StatedFinding", "parse", "question", "render"]

MAXIMUM_LENGTH = 8_000
MAXIMUM_BOXES = 24
MAXIMUM_FINDINGS = 8
MAXIMUM_FINDING = 300
_FENCE = re.compile(r"\A\s*```(?:json)?\s*(.*?)\s*```\s*\Z", re.DOTALL)

QUESTION = (
    "These pictures show one axial slice of a brain MRI. Clinical indication: {indication}. Find the whole tumour with its "
    'oedema (WT), the tumour core (TC) and the enhancing tumour (ET). Answer with one JSON object only: {{"boxes": '
    '[{{"region": "WT", "box_2d": [y0, x0, y1, x1]}}], "findings": ["..."]}}. Coordinates are 0 to 1000. Empty lists when '
    "there is no tumour."
)

Piece = tuple[str, float]
"""A token's text and its probability."""


class BadAnswer(Exception):
    """The answer does not follow the form. The message says where, and quotes nothing."""


@dataclass(frozen=True)
class AnswerBox:
    """region: ET, TC or WT. box: [y0, x0, y1, x1] in thousandths. confidence: geometric mean of its tokens, 0..1."""

    region: str
    box: ThousandthBox
    confidence: float


@dataclass(frozen=True)
class StatedFinding:
    """A finding in words with its confidence."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Answer:
    """What one slice's answer says."""

    boxes: tuple[AnswerBox, ...]
    findings: tuple[StatedFinding, ...]


def question(indication: str, template: str = QUESTION) -> str:
    """The prompt. The indication is one line of at most 300 characters, without braces: it is data, not a template."""
    told = " ".join(indication.split())[:300].replace("{", "(").replace("}", ")")
    return template.format(indication=told or "not given")


def render(boxes: Sequence[tuple[str, ThousandthBox]], findings: Sequence[str]) -> str:
    """The answer in the form that `parse` reads; training writes its targets with it."""
    return json.dumps(
        {"boxes": [{"region": r, "box_2d": list(b)} for r, b in boxes], "findings": list(findings)},
        separators=(",", ":"),
    )


def parse(pieces: Sequence[Piece]) -> Answer:
    """Read an answer given as its tokens. Raises BadAnswer."""
    text = "".join(piece for piece, _ in pieces)
    if len(text) > MAXIMUM_LENGTH:
        raise BadAnswer("the answer is too long")
    body = fenced.group(1) if (fenced := _FENCE.match(text)) else text.strip()
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise BadAnswer("the answer is not JSON") from None
    if not isinstance(data, dict) or set(data) != {"boxes", "findings"}:
        raise BadAnswer("the answer is not an object of boxes and findings")
    boxes, findings = data["boxes"], data["findings"]
    if not isinstance(boxes, list) or not isinstance(findings, list):
        raise BadAnswer("boxes and findings must be lists")
    if len(boxes) > MAXIMUM_BOXES or len(findings) > MAXIMUM_FINDINGS:
        raise BadAnswer("the answer has too many boxes or findings")
    where = _Places(pieces, text)
    return Answer(tuple(_box(entry, where) for entry in boxes), tuple(_finding(entry, where) for entry in findings))


def _box(entry: Any, where: _Places) -> AnswerBox:
    if not isinstance(entry, dict) or set(entry) != {"region", "box_2d"} or entry["region"] not in REGIONS:
        raise BadAnswer("a box has no region that is asked for")
    values = entry["box_2d"]
    if not isinstance(values, list) or len(values) != 4 or any(type(v) is not int for v in values):
        raise BadAnswer("a box is not four whole numbers")
    y0, x0, y1, x1 = values
    if not (0 <= y0 < y1 <= SCALE and 0 <= x0 < x1 <= SCALE):
        raise BadAnswer("a box is empty or outside the picture")
    return AnswerBox(entry["region"], (y0, x0, y1, x1), where.next_box())


def _finding(entry: Any, where: _Places) -> StatedFinding:
    if not isinstance(entry, str) or not entry.strip() or len(entry) > MAXIMUM_FINDING or not entry.isprintable():
        raise BadAnswer("a finding is not a short line of text")
    return StatedFinding(entry.strip(), where.next_text(entry))


class _Places:
    """Finds the items in the text, one after another, and the geometric mean of their tokens' probabilities."""

    def __init__(self, pieces: Sequence[Piece], text: str) -> None:
        self.text = text
        self.ends = np.cumsum([len(piece) for piece, _ in pieces])
        self.logs = np.log(np.clip([probability for _, probability in pieces], 1e-9, 1.0))
        self.position = 0

    def next_box(self) -> float:
        """Of the coordinates of the next box."""
        start = self.text.find("[", self.text.find("box_2d", self.position))
        return self._between(start, self.text.find("]", start) + 1)

    def next_text(self, entry: str) -> float:
        """Of the next finding."""
        start = self.text.find(entry, self.position)
        # Written with escapes it is not found as it is; the whole answer's confidence then stands for it.
        return self._between(start, start + len(entry)) if start >= 0 else float(np.exp(self.logs.mean()))

    def _between(self, start: int, stop: int) -> float:
        self.position = stop
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
        return float(np.exp(self.logs[first : last + 1].mean()))
