"""From a specification to an expert. Heavy libraries are imported when the expert loads, not here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .base import Expert, WeightsMissing, read_model_json

__all__ = ["KINDS", "ExpertSpec", "expert_for_folder", "make_expert"]

KINDS = ("nnunet", "sam")


@dataclass(frozen=True)
class ExpertSpec:
    """One expert of the panel. kind: "nnunet" or "sam". sha256: pins model.json. factory: "module:callable" for an

    expert of one's own, called with the specification; kind is then free.
    """

    name: str
    kind: str
    weights_dir: str
    threads: int = 1
    device: str = "cpu"
    sha256: str | None = None
    factory: str | None = None


def make_expert(spec: ExpertSpec) -> Expert:
    """The expert, not loaded yet. Raises ValueError for an unknown kind."""
    if spec.factory is not None:
        import importlib

        module, _, attribute = spec.factory.partition(":")
        made: Expert = getattr(importlib.import_module(module), attribute)(spec)
        return made
    if spec.kind == "nnunet":
        from .nnunet import NnUNetExpert

        return NnUNetExpert(
            spec.name, spec.weights_dir, pinned_sha256=spec.sha256, device=spec.device, threads=spec.threads
        )
    if spec.kind == "sam":
        from .sam import SamExpert

        return SamExpert(
            spec.name, spec.weights_dir, pinned_sha256=spec.sha256, device=spec.device, threads=spec.threads
        )
    raise ValueError(f"unknown kind of expert {spec.kind!r}: one of {', '.join(KINDS)}")


def expert_for_folder(folder: Path, threads: int = 1, device: str = "cpu") -> Expert:
    """The expert of a weights folder, by model.json's kind. Raises WeightsMissing."""
    data = read_model_json(folder)
    try:
        return make_expert(ExpertSpec(str(data["name"]), str(data["kind"]), str(folder), threads, device))
    except (KeyError, ValueError) as error:
        raise WeightsMissing(f"{folder.name}: model.json names no known kind") from error
