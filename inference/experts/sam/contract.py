"""What the SAM expert needs of a segment-anything network, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.experts.common.slices import Box

__all__ = ["Click", "Embedding", "SamBackend", "sigmoid"]


Click = tuple[float, float, bool]
"""(x, y, positive) in pixels of the picture."""


@dataclass(frozen=True)
class Embedding:
    """What the image encoder made of one picture. features: the library's own; bytes: memory they take."""

    features: Any
    side: int
    bytes: int


class SamBackend(Protocol):
    """One network. Pictures are (3, side, side) float32 in 0..1; probabilities are float32 in 0..1.

    propagation: "video" where the weights were trained to follow an object from frame to frame, else "boxes".
    concepts: region -> words, for a network that finds what words name. object_score: logit that the picture decoded last
    shows what was asked for at all; NaN where the network does not say.
    """

    propagation: str
    concepts: Mapping[str, str]
    object_score: float

    def embed(self, pictures: Sequence[NDArray[np.float32]]) -> list[Embedding]:
        """One embedding for each picture, computed together; the pictures may differ in size."""
        ...

    def decode(
        self, embedding: Embedding, box: Box | None, clicks: Sequence[Click], multimask: bool
    ) -> NDArray[np.float32]:
        """(3, side, side) probabilities, of the three mask tokens, or (1, side, side) of the single one."""
        ...

    def track(
        self, pictures: NDArray[np.float32], prompts: Mapping[int, tuple[Box | None, Sequence[Click]]]
    ) -> NDArray[np.float32]:
        """Follow one object both ways from the prompted pictures. pictures (n, 3, s, s); answers (n, s, s)."""
        ...

    def find(self, picture: NDArray[np.float32], words: str) -> NDArray[np.float32]:
        """(side, side) probability of what `words` name."""
        ...

    def move(self, device: str) -> None:
        """Take the network to another device."""
        ...


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities of logits, float32."""
    out: NDArray[np.float32] = (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)
    return out
