"""What the simulator knows, held against what the service found. Runs beside the service; none of it enters the service."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REGION_LABELS: dict[str, tuple[int, ...]] = {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}


@dataclass(frozen=True)
class LabelMap:
    """Labels (x, y, z) and the affine from voxel index to RAS mm."""

    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]

    @classmethod
    def read(cls, data: bytes) -> LabelMap:
        """From NIfTI bytes, gzipped or not."""
        raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        image = nibabel.Nifti1Image.from_bytes(raw)
        return cls(np.asarray(image.dataobj).astype(np.uint8), np.asarray(image.affine, dtype=np.float64))

    @classmethod
    def load(cls, path: Path) -> LabelMap:
        return cls.read(path.read_bytes())

    def on_grid_of(self, other: LabelMap) -> NDArray[np.uint8]:
        """These labels sampled (nearest) on the voxels of ``other``, both in the same world frame."""
        mapping = np.linalg.inv(self.affine) @ other.affine
        return np.asarray(
            ndimage.affine_transform(
                self.labels, mapping[:3, :3], mapping[:3, 3], output_shape=other.labels.shape, order=0, cval=0
            )
        )

    def volume_mm3(self, region: str) -> float:
        """Volume of a region, from the affine."""
        voxel = abs(float(np.linalg.det(self.affine[:3, :3])))
        return float(np.isin(self.labels, REGION_LABELS[region]).sum()) * voxel


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Dice coefficient; two empty masks agree."""
    total = int(one.sum()) + int(other.sum())
    return 1.0 if total == 0 else 2.0 * float(np.logical_and(one, other).sum()) / total


def dice_per_region(found: LabelMap, truth: LabelMap) -> dict[str, float]:
    """Dice of ET, TC and WT on the grid of ``found``."""
    known = truth.on_grid_of(found)
    return {
        region: dice(np.isin(found.labels, values), np.isin(known, values)) for region, values in REGION_LABELS.items()
    }


def change_percent(before: float, after: float) -> float | None:
    """Change in per cent of ``before``; None where there was nothing."""
    return None if before <= 0 else 100.0 * (after - before) / before


def result_of_region(comparison: dict[str, Any], region: str) -> float | None:
    """The service's own change in per cent."""
    value = comparison["regions"][region]["change_percent"]
    return None if value is None else float(value)
