"""A small data set in the layout that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)


def write_dataset(folder: Path, cases: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    shape = (36, 40, 38)
    z, y, x = np.meshgrid(*[np.arange(n) - n / 2 for n in shape], indexing="ij")
    brain = (z / 16) ** 2 + (y / 18) ** 2 + (x / 17) ** 2 < 1
    for split, count in (("Tr", cases), ("Ts", 2)):
        for index in range(count):
            labels = np.zeros(shape, np.uint8)
            if index % 4 != 3:
                r = np.sqrt((z - 2) ** 2 + (y + index) ** 2 + x**2)
                labels[(r < 10) & brain] = 2
                labels[(r < 7) & brain] = 3
                labels[(r < 4) & brain] = 1
            for channel in range(4):
                image = np.where(brain, 100 + rng.normal(0, 5, shape), 0)
                image[labels > 0] += (-10, 20, 60, 60)[channel]
                image[labels == 3] += (0, 60, 0, 0)[channel]
                written = sitk.GetImageFromArray(image.astype(np.float32))
                written.SetSpacing((2.0, 2.0, 2.0))
                sitk.WriteImage(written, str(folder / f"images{split}" / f"c{index}_{channel:04d}.nii.gz"))
            written = sitk.GetImageFromArray(labels)
            written.SetSpacing((2.0, 2.0, 2.0))
            sitk.WriteImage(written, str(folder / f"labels{split}" / f"c{index}.nii.gz"))
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "name": "tiny",
                "channel_names": {"0": "T1", "1": "T1c", "2": "T2", "3": "FLAIR"},
                "labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]},
                "regions_class_order": [2, 1, 3],
                "numTraining": cases,
                "file_ending": ".nii.gz",
            }
        )
    )
    return folder
