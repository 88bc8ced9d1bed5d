"""The face goes and the brain stays: on simulated heads with skin, nose and neck, upright and tilted, coarse and fine."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from imaging.defacing.face_plane import CannotDeface, face_region, removed
from imaging.geometry.grid import Grid


def simulated(spacing: float = 2.0, pitch: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, Grid]:
    """(image, brain, face skin, grid): an ellipsoid brain in skull and scalp, and the simulator's shapes of face and nose.

    Coordinates are MNI-like, RAS mm; ``pitch`` in radians nods the head.
    """
    shape = tuple(int(250 / spacing) for _ in range(3))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-125, -135, -150]
    grid = Grid(affine, shape)
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(shape)), indexing="ij")
    world = grid.world(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1))
    cos, sin = np.cos(pitch), np.sin(pitch)
    turned = world @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]).T
    mx, my, mz = (turned[:, axis].reshape(x.shape) for axis in range(3))
    cerebrum = 1.0 - np.sqrt((mx / 68) ** 2 + ((my + 18) / 88) ** 2 + ((mz - 12) / 64) ** 2)
    cerebellum = 1.0 - np.sqrt((mx / 50) ** 2 + ((my + 60) / 34) ** 2 + ((mz + 42) / 30) ** 2)
    brain = (cerebrum > 0) | (cerebellum > 0)
    depth = ndimage.distance_transform_edt(~brain, sampling=spacing)
    face = 46.0 * (1.0 - np.sqrt((mx / 62) ** 2 + ((my - 38) / 66) ** 2 + ((mz + 58) / 62) ** 2))
    nose = 14.0 * (1.0 - np.sqrt((mx / 14) ** 2 + ((my - 98) / 20) ** 2 + ((mz + 52) / 22) ** 2))
    neck = np.minimum(52.0 - np.sqrt(mx**2 + ((my + 22) * 0.95) ** 2), -60.0 - mz)
    head = (depth < 14) | (face > 0) | (nose > 0) | (neck > 0)
    image = np.where(brain, 800.0, np.where(head, 400.0, 0.0)) + np.where(head, mx % 7, 0)
    skin = head & ~ndimage.binary_erosion(head)
    face_skin = skin & (my > 45) & (mz < -25) & (mz > -95) & (np.abs(mx) < 55)
    return image.astype(np.float32), brain, face_skin, grid


@pytest.mark.parametrize(
    ("spacing", "pitch", "least"), [(2.0, 0.0, 0.97), (3.0, 0.25, 0.97), (3.0, -0.25, 0.94), (3.0, 0.1, 0.97)]
)
def test_the_skin_of_the_face_goes_and_no_brain_voxel_changes(spacing, pitch, least):
    image, brain, face_skin, grid = simulated(spacing, pitch)
    region = face_region(brain, grid)
    out = removed(image, region)
    assert np.array_equal(out[brain], image[brain])
    assert not region.mask[brain].any()
    gone = (out[face_skin] == image.min()).mean()
    assert face_skin.sum() > 300
    assert gone > least, gone
    kept = (out == image)[image > 0].mean()
    assert kept > 0.6, "most of the head is as it was"


def test_the_region_is_carried_to_the_grid_of_a_series():
    """A thick, oblique axial series of the same head: its own voxels of brain stay, those of the face go."""
    _, brain, face_skin, grid = simulated(2.0)
    tilt = 0.2
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 1.5, 5.0])
    affine[:3, 3] = [-120, -110, -130]
    series = Grid(affine, (160, 160, 48))
    region = face_region(brain, grid, series)
    z, y, x = np.meshgrid(*(np.arange(n) for n in series.shape_zyx), indexing="ij")
    index = np.rint(grid.index(series.world(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)))).astype(int)
    inside = np.all((index >= 0) & (index < np.array(grid.shape_xyz)), axis=1)

    def carried(mask: np.ndarray) -> np.ndarray:
        found = np.zeros(len(index), dtype=bool)
        found[inside] = mask[index[inside, 2], index[inside, 1], index[inside, 0]]
        return found.reshape(series.shape_zyx)

    assert not (region.mask & carried(brain)).any()
    assert region.mask[carried(face_skin)].mean() > 0.97


def test_what_is_no_brain_is_refused():
    grid = Grid(np.eye(4), (40, 40, 40))
    with pytest.raises(CannotDeface):
        face_region(np.zeros((40, 40, 40), dtype=bool), grid)
    with pytest.raises(CannotDeface):
        face_region(np.ones((5, 40, 40), dtype=bool), grid)
