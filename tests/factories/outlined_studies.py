"""A study that came in by DICOM and has an outline."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from imaging.geometry.grid import to_ras
from imaging.models import Segmentation, Series, Study, Volume, VolumeSet
from imaging.preprocessing.coregistration import reference_grid
from imaging.volumes.series_reader import read_series
from oncoflow_site.foundation import objects
from tests.factories.dicom_files import dataset
from tests.factories.studies import segment, tumour

ROWS, COLUMNS, SLICES = 60, 48, 32
IN_PLANE, APART = (2.0, 2.5), 3.0


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    angle = np.radians(degrees)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


OBLIQUE = rotation((1, 2, 0.5), 23)
ORIENTATIONS = {
    "axial": np.array([[1.0, 0, 0], [0, 1, 0]]),
    "sagittal": np.array([[0.0, 1, 0], [0, 0, -1]]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1]]),
    "oblique": np.array([OBLIQUE[:, 0], OBLIQUE[:, 1]]),
}


def slices(orientation: str, **changes: Any) -> list[Dataset]:
    """A T1c series. Instance numbers run against the normal, and the files come shuffled: both happen."""
    row, column = ORIENTATIONS[orientation]
    normal = np.cross(row, column)
    corner = -(row * IN_PLANE[1] * COLUMNS / 2 + column * IN_PLANE[0] * ROWS / 2 + normal * APART * SLICES / 2)
    made = []
    for index in range(SLICES):
        one = dataset(sequence="T1c", number=SLICES - index, size=16, **changes)
        one.Rows, one.Columns, one.PixelSpacing, one.SliceThickness = ROWS, COLUMNS, list(IN_PLANE), APART
        one.ImageOrientationPatient = [round(float(v), 9) for v in (*row, *column)]
        one.ImagePositionPatient = [round(float(v), 6) for v in corner + normal * APART * index]
        one.PixelData = np.full((ROWS, COLUMNS), 100 + index, dtype=np.uint16).tobytes()
        one["PixelData"].VR = "OW"
        made.append(one)
    np.random.default_rng(1).shuffle(made)  # type: ignore[arg-type]
    return made


def outlined(study: Study, *lesions: Any, kind: str = "consensus", **fields: Any) -> Segmentation:
    """A volume set on the reference grid of the study's only series, as `imaging.volumes.prepare` makes it, and an outline."""
    series = Series.objects.get(study=study)
    stack = read_series(series)
    _, own = to_ras(stack.array, stack.affine_ras)
    grid = reference_grid(own, spacing_known=True)
    volume_set = VolumeSet.objects.create(study=study, parameters={"reference": "T1c"}, **grid.to_json())
    stored = objects.put(b"not read", subject=study.patient.key_subject, kind="volume")
    Volume.objects.create(
        volume_set=volume_set, sequence="T1c", object=stored, sha256=stored.sha256, source_series=series, transform=None
    )
    return segment(study, volume_set, tumour(grid, *lesions), kind, **fields)


LESIONS = (((6.0, -9.0, 5.0), 7.0, 11.0, 19.0),)
