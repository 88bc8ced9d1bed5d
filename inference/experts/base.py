"""What every segmentation expert takes and gives.

Arrays are numpy, axis order (z, y, x): a NIfTI in RAS+ orientation read by nibabel and transposed. Spacing is
(z, y, x) in millimetres. Images are brain-masked: exactly 0 outside the brain. Regions are the nested ones of
BraTS: ET within TC within WT. This module imports numpy only, so that web processes may use it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "REGIONS",
    "REGION_LABELS",
    "SEQUENCES",
    "Expert",
    "ExpertError",
    "ExpertFailed",
    "ExpertOutput",
    "Finding",
    "InteractiveExpert",
    "InvalidVolumes",
    "MissingSequence",
    "ModelVersion",
    "Progress",
    "Prompt",
    "Refined",
    "Volumes",
    "VolumesNeeded",
    "WeightsMismatch",
    "WeightsMissing",
    "labels_from_regions",
    "nest",
    "read_model_json",
    "regions_from_labels",
    "sha256_of",
    "verify_weights",
]

REGIONS: tuple[str, str, str] = ("ET", "TC", "WT")
"""Nested regions of BraTS, innermost first."""
REGION_LABELS: Mapping[str, tuple[int, ...]] = {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}
"""Labels each region is made of: 1 NCR, 2 ED/SNFH, 3 ET."""
SEQUENCES: tuple[str, str, str, str] = ("T1", "T1c", "T2", "FLAIR")
"""Channel order of the models in this repository."""

Progress = Callable[[float, str], None]
"""Called with the fraction done (0..1) and a short phrase for people."""


class ExpertError(Exception):
    """Any reason why an expert gives no answer. The text holds no patient data."""


class WeightsMissing(ExpertError):
    """A file of the model's folder is not there."""


class WeightsMismatch(ExpertError):
    """A file differs from the SHA-256 that model.json pins, or holds more than plain tensors."""


class MissingSequence(ExpertError):
    """A sequence that the model was trained on is absent."""


class InvalidVolumes(ExpertError):
    """Shapes differ, values are not finite, spacing is not positive or the brain mask is empty."""


class VolumesNeeded(ExpertError):
    """Nothing of this study is kept: ask again with its volumes."""


class ExpertFailed(ExpertError):
    """The model itself failed while predicting."""


@dataclass(frozen=True)
class Volumes:
    """One study on its reference grid.

    images: sequence name -> (z, y, x) float array of one shape. spacing: (z, y, x) mm. brain_mask: bool, same shape.
    indication: why the images were asked for, cleaned of identity; only experts that read text use it.
    Raises InvalidVolumes when they do not belong together.
    """

    images: Mapping[str, NDArray[Any]]
    spacing: tuple[float, float, float]
    brain_mask: NDArray[np.bool_]
    indication: str = ""

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidVolumes("no sequence was given")
        if self.brain_mask.ndim != 3:
            raise InvalidVolumes("the brain mask is not three-dimensional")
        for name, image in self.images.items():
            if image.shape != self.brain_mask.shape:
                raise InvalidVolumes(f"{name} has another shape than the brain mask")
            if not np.isfinite(image).all():
                raise InvalidVolumes(f"{name} holds values that are not finite")
        if len(self.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise InvalidVolumes("spacing must be three positive numbers")
        if not self.brain_mask.any():
            raise InvalidVolumes("the brain mask is empty")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = self.brain_mask.shape
        return int(z), int(y), int(x)


@dataclass(frozen=True)
class Prompt:
    """A person's hints, in voxel indices (z, y, x) of the reference grid.

    points: (z, y, x, positive). box: ((z0, y0, x0), (z1, y1, x1)) with inclusive corners. region: which one is meant.
    axis: the direction across which the slices lie that the person looks at (0 axial, 1 coronal, 2 sagittal).
    scope: "slice" for the slice of the first point or the box alone, "volume" to carry the answer to its neighbours.
    """

    region: str
    points: tuple[tuple[int, int, int, bool], ...] = ()
    box: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    axis: int = 0
    scope: str = "volume"

    @property
    def slice_index(self) -> int:
        """The slice across `axis` that the person looked at: of the first point, else the middle of the box."""
        if self.points:
            return int(self.points[0][self.axis])
        assert self.box is not None
        return (self.box[0][self.axis] + self.box[1][self.axis]) // 2


@dataclass(frozen=True)
class ModelVersion:
    """Which weights answered. sha256 is over model.json, which pins every other file of the folder."""

    name: str
    version: str
    sha256: str
    architecture: str


@dataclass(frozen=True)
class Finding:
    """What an expert says in words. confidence: 0..1, the model's own, not calibrated. slice_z: of the reference grid."""

    text: str
    confidence: float
    slice_z: int


@dataclass(frozen=True)
class ExpertOutput:
    """Region probabilities on the reference grid.

    probabilities: region -> float16 (z, y, x) in 0..1, nested (ET <= TC <= WT), 0 outside the brain mask.
    runtime_s: seconds of prediction, loading excluded. device: "cpu", "cuda:0". findings: of experts that speak.
    environment: what has to be equal for the same answer (versions, device, threads, seed), said by the expert's process.
    """

    probabilities: Mapping[str, NDArray[np.float16]]
    model: ModelVersion
    runtime_s: float
    device: str
    notes: tuple[str, ...] = field(default=())
    findings: tuple[Finding, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refined:
    """The answer to a person's prompt: one region on a part of the reference grid.

    origin: first voxel (z, y, x) of the part. mask: bool (z, y, x), the part; it says nothing of what lies outside it.
    For scope "slice" the part is the whole slice, for "volume" the box around what was found.
    """

    region: str
    origin: tuple[int, int, int]
    mask: NDArray[np.bool_]
    model: ModelVersion
    runtime_s: float
    device: str
    notes: tuple[str, ...] = ()


@runtime_checkable
class Expert(Protocol):
    """One segmentation model behind one interface."""

    name: str

    def load(self) -> ModelVersion:
        """Check the weights and load them. Raises WeightsMissing, WeightsMismatch."""
        ...

    def predict(self, volumes: Volumes, prompt: Prompt | None = None, progress: Progress | None = None) -> ExpertOutput:
        """Segment one study. Raises MissingSequence, InvalidVolumes, ExpertFailed."""
        ...


@runtime_checkable
class InteractiveExpert(Expert, Protocol):
    """An expert that answers a person's clicks at once, because it keeps what it has computed of a study."""

    def refine(self, key: str, prompt: Prompt | None, volumes: Volumes | None = None) -> Refined | None:
        """Answer `prompt` on the study `key`; None for no prompt: the study is prepared only.

        Raises VolumesNeeded when nothing of the study is kept and `volumes` is None; MissingSequence, ExpertFailed.
        """
        ...


def regions_from_labels(labels: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Label map (0, 1 NCR, 2 ED, 3 ET) -> {region: bool mask}."""
    return {region: np.isin(labels, values) for region, values in REGION_LABELS.items()}


def labels_from_regions(masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Nested region masks -> label map (0, 1 NCR, 2 ED, 3 ET), uint8. Inner regions win; one that is absent has no label."""
    labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for region, label in (("WT", 2), ("TC", 1), ("ET", 3)):
        if region in masks:
            labels[masks[region]] = label
    return labels


def nest(
    probabilities: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_] | None = None
) -> dict[str, NDArray[np.float16]]:
    """Make ET <= TC <= WT by taking the smaller, and 0 outside `mask`. Regions that are absent stay so.

    The inner region never exceeds the outer: a voxel is no enhancing tumour with more certainty than it is tumour.
    """
    out: dict[str, NDArray[np.float16]] = {}
    # In float32: numpy's float16 arithmetic is emulated and ten times as slow. Rounding at the end keeps the order.
    outer: NDArray[np.float32] | None = None
    for region in reversed(REGIONS):
        if region not in probabilities:
            continue
        p = np.clip(np.asarray(probabilities[region], np.float32), 0.0, 1.0)
        if mask is not None:
            p *= mask
        if outer is not None:
            np.minimum(p, outer, out=p)
        outer = p
        out[region] = p.astype(np.float16)
    return {region: out[region] for region in REGIONS if region in out}


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_model_json(folder: Path) -> dict[str, Any]:
    """model.json of a weights folder. Raises WeightsMissing when absent or unreadable."""
    try:
        data = json.loads((folder / "model.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsMissing(f"{folder.name}: model.json is missing or unreadable") from error
    if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
        raise WeightsMissing(f"{folder.name}: model.json names no files")
    return data


def verify_weights(folder: Path, pinned_sha256: str | None = None) -> ModelVersion:
    """Compare every file that model.json names with its SHA-256, and model.json with `pinned_sha256` if given.

    Raises WeightsMissing or WeightsMismatch.
    """
    data = read_model_json(folder)
    own = sha256_of(folder / "model.json")
    if pinned_sha256 is not None and own != pinned_sha256:
        raise WeightsMismatch(f"{folder.name}: model.json differs from the pinned SHA-256")
    root = folder.resolve()
    for name, expected in data["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise WeightsMismatch(f"{folder.name}: model.json names a file outside its folder")
        if not path.is_file():
            raise WeightsMissing(f"{folder.name}: {name} is missing")
        if sha256_of(path) != expected:
            raise WeightsMismatch(f"{folder.name}: {name} differs from its SHA-256 in model.json")
    try:
        return ModelVersion(str(data["name"]), str(data["version"]), own, str(data["architecture"]))
    except KeyError as error:
        raise WeightsMissing(f"{folder.name}: model.json lacks {error.args[0]}") from error
