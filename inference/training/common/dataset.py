"""Read a dataset folder in nnU-Net's raw layout into memory.

The folder holds dataset.json (channel_names, labels, file_ending), imagesTr/CASE_0000.nii.gz ... one file a channel,
labelsTr/CASE.nii.gz, and the same with Ts for held-out cases. Label maps hold 0, 1 NCR, 2 ED, 3 ET. Arrays are
(channel, z, y, x); spacing is (z, y, x) in mm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from imaging.brats.regions import REGION_LABELS
from imaging.brats.sequences import PANEL_SEQUENCES
from inference.experts.common.intensity import clip_in_brain
from inference.experts.contract import Volumes
from inference.experts.documents import NnUNetDatasetDocument

__all__ = ["DatasetError", "RawCase", "RawDataset"]

SPLIT_FOLDERS = {"train": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


class DatasetError(Exception):
    """The dataset folder is not what training needs; the text says what to change."""


@dataclass(frozen=True)
class RawCase:
    """One case as stored: images (channel, z, y, x) float32, labels (z, y, x) uint8, spacing (z, y, x) mm."""

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]

    @property
    def brain_mask(self) -> NDArray[np.bool_]:
        """Where any channel is not 0, holes filled: what nnU-Net takes for the inside."""
        mask: NDArray[np.bool_] = binary_fill_holes((self.images != 0).any(axis=0))
        return mask

    def volumes(self) -> Volumes:
        """The case as an expert sees it."""
        images = {name: self.images[i] for i, name in enumerate(PANEL_SEQUENCES)}
        return Volumes(images, self.spacing, self.brain_mask)

    def clipped(self) -> NDArray[np.float32]:
        """The images clipped as an expert clips them before nnU-Net's own normalisation."""
        mask = self.brain_mask
        return np.stack([clip_in_brain(image, mask) for image in self.images])


class RawDataset:
    """A dataset folder. Raises DatasetError when its channels or labels are not those of this project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.json: NnUNetDatasetDocument = json.loads((folder / "dataset.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{folder}: dataset.json is missing or unreadable") from error
        names = [str(self.json["channel_names"][str(i)]) for i in range(len(self.json["channel_names"]))]
        if names != list(PANEL_SEQUENCES):
            raise DatasetError(f"dataset.json: channels must be {', '.join(PANEL_SEQUENCES)} in this order")
        for region, labels in REGION_LABELS.items():
            declared = self.json["labels"].get(region)
            declared = [declared] if isinstance(declared, int) else list(declared or [])
            if sorted(declared) != sorted(labels):
                raise DatasetError(f"dataset.json: region {region} must be labels {list(labels)}")
        self.ending = str(self.json.get("file_ending", ".nii.gz"))

    def names(self, split: str) -> list[str]:
        """Case names of "train" or "test", sorted."""
        folder = self.folder / SPLIT_FOLDERS[split][1]
        return sorted(p.name[: -len(self.ending)] for p in folder.glob("*" + self.ending)) if folder.is_dir() else []

    def load(self, split: str, name: str) -> RawCase:
        """One case. Raises DatasetError when files are absent or their grids differ."""
        images_folder, labels_folder = (self.folder / part for part in SPLIT_FOLDERS[split])
        try:
            label_image = sitk.ReadImage(str(labels_folder / (name + self.ending)))
            channels = [
                sitk.ReadImage(str(images_folder / f"{name}_{i:04d}{self.ending}"), sitk.sitkFloat32)
                for i in range(len(PANEL_SEQUENCES))
            ]
        except RuntimeError as error:
            raise DatasetError(f"{name}: a file is missing or unreadable") from error
        if any(c.GetSize() != label_image.GetSize() for c in channels):
            raise DatasetError(f"{name}: images and labels have different sizes")
        x, y, z = label_image.GetSpacing()
        images = np.stack([sitk.GetArrayFromImage(c) for c in channels])
        labels = sitk.GetArrayFromImage(label_image).astype(np.uint8)
        if labels.max(initial=0) > 3:
            raise DatasetError(f"{name}: labels must be 0, 1 NCR, 2 ED, 3 ET")
        return RawCase(name, images, labels, (float(z), float(y), float(x)))

    def cases(self, split: str) -> Iterator[RawCase]:
        """All cases of a split, one after another."""
        for name in self.names(split):
            yield self.load(split, name)
