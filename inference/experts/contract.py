"""What every segmentation expert takes and gives.

Arrays are numpy, axis order (z, y, x): a NIfTI in RAS+ orientation read by nibabel and transposed. Spacing is
(z, y, x) in millimetres. Images are brain-masked: exactly 0 outside the brain. Regions are the nested ones of
BraTS: ET within TC within WT. This module imports numpy only, so that web processes may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference.experts.errors import InvalidVolumes
from oncoflow_site.foundation.errors import required

__all__ = [
    "Expert",
    "ExpertOutput",
    "Finding",
    "InteractiveExpert",
    "ModelIdentity",
    "Progress",
    "Prompt",
    "Refined",
    "Volumes",
]


Progress = Callable[[float, str], None]
"""Called with the fraction done (0..1) and a short phrase for people."""


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
class VolumesOnDemand:
    """What is known of a study's volumes without reading them; ``load`` reads them, where they are needed at all.

    sequences: names of the images. spacing: (z, y, x) mm. shape: voxels along (z, y, x).
    """

    sequences: tuple[str, ...]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    load: Callable[[], Volumes]
    indication: str = ""

    @staticmethod
    def of(volumes: Volumes) -> VolumesOnDemand:
        """Volumes that are in memory already."""
        names = tuple(volumes.images)
        return VolumesOnDemand(names, volumes.spacing, volumes.shape, lambda: volumes, volumes.indication)


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
        low, high = required(self.box, "the box of a prompt without points")
        return (low[self.axis] + high[self.axis]) // 2


@dataclass(frozen=True)
class ModelIdentity:
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
    model: ModelIdentity
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
    model: ModelIdentity
    runtime_s: float
    device: str
    notes: tuple[str, ...] = ()


@runtime_checkable
class Expert(Protocol):
    """One segmentation model behind one interface."""

    name: str

    def load(self) -> ModelIdentity:
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
