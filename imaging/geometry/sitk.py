"""Arrays in RAS millimetres as SimpleITK images, which live in LPS, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.geometry.grid import Grid

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["from_sitk", "to_sitk"]


LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_sitk(array: NDArray[Any], grid: Grid) -> SimpleITK.Image:
    """SimpleITK image of ``array`` (z, y, x), in LPS as SimpleITK has it."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array.astype(np.uint8) if array.dtype == np.bool_ else array)
    image.SetSpacing(grid.spacing_xyz())
    image.SetOrigin(tuple(float(v) for v in (LPS_FROM_RAS @ grid.affine)[:3, 3]))
    image.SetDirection(tuple(float(v) for v in (LPS_FROM_RAS[:3, :3] @ grid.directions()).ravel()))
    return image


def from_sitk(image: SimpleITK.Image) -> tuple[NDArray[Any], Grid]:
    """Array (z, y, x) and grid (RAS) of a SimpleITK image."""
    import SimpleITK

    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    size = image.GetSize()
    return SimpleITK.GetArrayFromImage(image), Grid(LPS_FROM_RAS @ affine, (size[0], size[1], size[2]))
