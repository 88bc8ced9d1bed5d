"""From a specification to an expert. Heavy libraries are imported when the expert loads, not here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.contract import Expert
from inference.experts.errors import WeightsMissing
from inference.experts.weights import read_model_json

__all__ = ["KINDS", "ExpertSpec", "expert_for_folder", "heavy_modules", "make_expert"]

_CLASSES = {
    "nnunet": (".nnunet", "NnUNetExpert"),
    "sam": (".sam", "SamExpert"),
    "vlm": (".vlm.expert", "VlmExpert"),
}
KINDS = tuple(_CLASSES)
_HEAVY = {
    "nnunet": ("torch", "nnunetv2.inference.predict_from_raw_data", "inference.experts.nnunet"),
    "sam": ("torch", "sam2.build_sam", "inference.experts.sam"),
    "vlm": ("torch", "transformers", "inference.experts.vlm.backend"),
}


@dataclass(frozen=True)
class ExpertSpec:
    """One expert of the panel. kind: one of KINDS. sha256: pins model.json. factory: "module:callable" for an

    expert of one's own, called with the specification; kind is then free. needs: the sequences it cannot do without, for an
    expert of which `needs` does not know that.
    """

    name: str
    kind: str
    weights_dir: str
    threads: int = 1
    device: str = "cpu"
    sha256: str | None = None
    factory: str | None = None
    needs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.needs is not None:
            object.__setattr__(self, "needs", tuple(self.needs))
            if not self.needs or not set(self.needs) <= set(PANEL_SEQUENCES):
                raise ValueError(f"needs names some of {', '.join(PANEL_SEQUENCES)}")


def heavy_modules(specs: Sequence[ExpertSpec]) -> list[str]:
    """What the experts will import, each module once, in the order of first need. Nothing for experts of one's own."""
    needed = [module for spec in specs if spec.factory is None for module in _HEAVY.get(spec.kind, ())]
    return list(dict.fromkeys(needed))


def make_expert(spec: ExpertSpec) -> Expert:
    """The expert, not loaded yet. Raises ValueError for an unknown kind."""
    if spec.factory is not None:
        module, _, attribute = spec.factory.partition(":")
        made: Expert = getattr(importlib.import_module(module), attribute)(spec)
        return made
    if spec.kind not in _CLASSES:
        raise ValueError(f"unknown kind of expert {spec.kind!r}: one of {', '.join(KINDS)}")
    module, attribute = _CLASSES[spec.kind]
    make = getattr(importlib.import_module(module, __package__), attribute)
    expert: Expert = make(
        spec.name,
        spec.weights_dir,
        pinned_sha256=spec.sha256,
        device=spec.device,
        threads=spec.threads,
        needs=spec.needs,
    )
    return expert


def expert_for_folder(folder: Path, threads: int = 1, device: str = "cpu") -> Expert:
    """The expert of a weights folder, by model.json's kind. Raises WeightsMissing."""
    data = read_model_json(folder)
    try:
        return make_expert(ExpertSpec(str(data["name"]), str(data["kind"]), str(folder), threads, device))
    except (KeyError, ValueError) as error:
        raise WeightsMissing(f"{folder.name}: model.json names no known kind") from error
