"""A small study in DICOM files: a brain of an adult's volume, skull-stripped and flat as a cake (so that it has few
files), with a tumour that the experts of `tests.factories.panel_experts` can read off the FLAIR images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from imaging.geometry.grid import Grid
from tests.factories.dicom_files import as_file, dataset
from tests.factories.studies import tumour

__all__ = ["MRN", "SLICES", "files", "write_weights"]

MRN = "MRN-4711-X"
SPACING = 1.34  # as wide as voxels may be without being resampled
SLICES = 25
GRID = Grid(
    np.array([[SPACING, 0, 0, -121], [0, SPACING, 0, -136], [0, 0, SPACING, -16], [0, 0, 0, 1]]), (181, 203, SLICES)
)
RADII_MM = (115.0, 130.0, 14.0)
PAINT = {2: 600, 1: 700, 3: 800}
# number of the study -> its date, radii of necrosis, enhancing rim and oedema
DATES = {1: "20260311", 2: "20260611"}
LESIONS = {1: (5.0, 9.0, 12.0), 2: (4.0, 7.0, 10.0)}


def _brain(seed: int) -> np.ndarray:
    """Something with structure in the shape of an ellipsoid, exactly 0 outside."""
    rng = np.random.default_rng(7)
    z, y, x = np.meshgrid(*[np.arange(n) for n in GRID.shape_zyx], indexing="ij")
    world = GRID.world(np.stack([x, y, z], axis=-1))
    value = np.full(GRID.shape_zyx, 100.0)
    for _ in range(40):
        centre = rng.uniform(-0.7, 0.7, 3) * RADII_MM
        value += rng.choice([-45, 40, 80]) * (np.linalg.norm(world - centre, axis=-1) < rng.uniform(5, 14))
    value += np.random.default_rng(seed).normal(0, 3, GRID.shape_zyx)
    inside = ((world / RADII_MM) ** 2).sum(axis=-1) <= 1
    return np.where(inside, np.clip(value, 5, 380), 0)


def files(
    number: int, sequences: Collection[str] = ("T1", "T1c", "T2", "FLAIR"), painted: Collection[str] = ("FLAIR",)
) -> Iterator[bytes]:
    """The DICOM files of study ``number`` (1 or 2, of one patient): these sequences, the tumour painted on some of them."""
    base = _brain(number)
    inside = base > 0
    labels = np.where(inside, tumour(GRID, ((-30.0, 5.0, 0.0), *LESIONS[number])), 0)
    rng = np.random.default_rng(number)
    images = {
        "T1": base,
        "T1c": base + rng.normal(0, 25, base.shape),
        "T2": 400 - base,
        "FLAIR": 60 + 0.3 * base + rng.normal(0, 5, base.shape),
    }
    for label, paint in PAINT.items():
        for one in painted:
            images[one][labels == label] = paint
    for place, (sequence, image) in enumerate(images.items(), start=1):
        if sequence not in sequences:
            continue
        pixels = np.where(inside, np.clip(image, 1, 4000), 0).astype(np.uint16)
        for index, plane in enumerate(pixels):
            one = dataset(
                study=f"1.2.3.{number}",
                series=str(place),
                number=index + 1,
                sequence=sequence,
                size=1,
                PatientID=MRN,
                AccessionNumber=f"ACC-{number}",
                StudyDate=DATES[number],
                PixelSpacing=[SPACING, SPACING],
                SliceThickness=SPACING,
                ImagePositionPatient=[-121.0, -136.0, round(-16 + SPACING * index, 4)],
            )
            one.Rows, one.Columns = plane.shape
            one["PixelData"].value = plane.tobytes()
            yield as_file(one)


def write_weights(folder: Path) -> None:
    """The weights of one expert of the panel, evaluated well enough for a vote."""
    folder.mkdir(parents=True)
    name = folder.name.encode()
    (folder / "w.bin").write_bytes(name)
    model = {
        "name": folder.name,
        "version": "1.0",
        "architecture": "painted",
        "kind": "good",
        "files": {"w.bin": hashlib.sha256(name).hexdigest()},
        "trained_on": "painted phantoms",
    }
    (folder / "model.json").write_text(json.dumps(model))
    regions = {region: {"n": 30, "mean": 0.91, "p10": 0.80} for region in ("ET", "TC", "WT")}
    (folder / "evaluation.json").write_text(json.dumps({"regions": regions}))
