"""Small phantoms for the tests of the imaging room: a head built on the MNI152 template, and tumours of known size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from imaging.geometry.grid import Grid
from imaging.geometry.resample import resample
from imaging.preprocessing.brain_extraction import _template

HEAD_VALUES = {"T1": (1.0, 0.3, 0.1, 1.5), "T2": (1.0, 2.6, 0.1, 1.0), "FLAIR": (1.0, 0.3, 0.1, 0.9)}


def rigid(angles_deg: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """4x4 of a rotation about the origin, then a shift (RAS mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def sphere(grid: Grid, centre_ras: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    """A ball on a grid, (z, y, x)."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij")
    world = grid.world(np.stack([x, y, z], axis=-1))
    return np.linalg.norm(world - np.asarray(centre_ras), axis=-1) <= radius_mm


def head(
    spacing_mm: float = 2.0, pose: NDArray[np.float64] | None = None, scale: float = 1.0, seed: int = 0
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_], Grid]:
    """T1, T2 and FLAIR of a head with skull, scalp and a tumour; the true brain mask; the grid."""
    rng = np.random.default_rng(seed)
    template, template_grid = _template()
    z, y, x = (np.asarray(n) for n in template_grid.shape_zyx)
    big = np.pad(template, 20)
    affine = template_grid.affine.copy()
    affine[:3, 3] = template_grid.world(np.array([-20, -20, -20]))
    big_grid = Grid(affine, (int(x) + 40, int(y) + 40, int(z) + 40))
    brain = big > 0
    fluid = ndimage.binary_dilation(brain, iterations=1) & ~brain
    skull = ndimage.binary_dilation(brain, iterations=4) & ~brain & ~fluid
    neck = sphere(big_grid, (0, -10, -95), 62)
    scalp = (ndimage.binary_dilation(brain, iterations=7) | neck) & ~(brain | fluid | skull)
    tumour = sphere(big_grid, (-35, 0, 30), 18) & brain
    images = {}
    typical = float(np.median(template[template > 0]))
    for name, (tissue, water, bone, fat) in HEAD_VALUES.items():
        image = np.zeros(big.shape, dtype=np.float32)
        grey = big / typical if name == "T1" else 2.0 - big / typical
        image[brain] = np.clip(grey[brain] * tissue, 0.05, 3)
        image[fluid], image[skull], image[scalp] = water, bone, fat
        image[tumour] = 0.6 if name == "T1" else 1.9
        images[name] = image
    motion = np.linalg.inv(rigid((0, 0, 0), (0, 0, 0)) if pose is None else pose) @ np.diag([1 / scale] * 3 + [1.0])
    onto = big_grid.with_spacing((spacing_mm,) * 3)
    truth = resample(brain.astype(np.float32), big_grid, onto, motion) >= 0.5
    bias = 1.0 + 0.15 * np.linspace(-1, 1, onto.shape_zyx[1])[None, :, None]
    posed = {}
    for name, image in images.items():
        value = resample(image, big_grid, onto, motion) * bias * 300.0
        posed[name] = np.abs(value + rng.normal(0, 9, value.shape)).astype(np.float32)
    return posed, truth, onto
