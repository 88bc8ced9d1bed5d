"""What surrounds the brain: fluid, dura, bone with marrow, fat, muscle, eyes, air.

MNI152 as packaged ends at the brain, so the rest is built from distances to the brain's surface and, for face and
neck, from ellipsoids at their places in MNI space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Place
from .contrast import Look
from .fields import FieldSource, Floats, soft_step

__all__ = ["Shell", "head_surface", "paint_outside", "random_shell"]

_BONE = (0.12, 0.14, 0.12, 0.1)
_SKIN = (0.75, 0.95, 0.9, 0.7)
_MUSCLE = (0.62, 0.8, 0.65, 0.6)
_EYE = (0.28, 0.3, 4.0, 0.35)


@dataclass(frozen=True)
class Shell:
    """Thicknesses in mm from the brain's surface outwards, and intensities (T1, T1c, T2, FLAIR) of marrow and fat."""

    fluid: float
    skull: float
    scalp: float
    marrow: tuple[float, float, float, float]
    fat: tuple[float, float, float, float]


def random_shell(rng: np.random.Generator) -> Shell:
    """A head's own thicknesses."""
    u = rng.uniform
    return Shell(
        fluid=u(1.6, 3.4),
        skull=u(5.5, 8.0),
        scalp=u(4.5, 7.5),
        marrow=(u(0.6, 1.0), u(0.65, 1.1), u(0.5, 0.9), u(0.4, 0.8)),
        fat=(u(1.25, 1.8), u(1.2, 1.75), u(0.9, 1.6), u(0.8, 1.3)),
    )


def _cavity(maps: Place) -> Floats:
    if maps.skull_distance is None:
        raise ValueError("Face and skull need the distance from the skull's cavity: take the place from Anatomy.place.")
    return maps.skull_distance


def head_surface(maps: Place, shell: Shell) -> Floats:
    """Depth below the skin in mm (negative in air): cranium, face and neck together."""
    x, y, z = maps.mni
    cranium = np.float32(shell.fluid + 1.0 + shell.skull + shell.scalp) - _cavity(maps)
    face = 46.0 * (1.0 - np.sqrt((x / 62) ** 2 + ((y - 38) / 66) ** 2 + ((z + 58) / 62) ** 2))
    nose = 14.0 * (1.0 - np.sqrt((x / 14) ** 2 + ((y - 98) / 20) ** 2 + ((z + 52) / 22) ** 2))
    neck = 52.0 - np.sqrt(x * x + ((y + 22) * 0.95) ** 2)
    neck = np.minimum(neck, -60.0 - z)
    return np.maximum(np.maximum(cranium, face), np.maximum(nose, neck)).astype(np.float32)


def paint_outside(maps: Place, images: Floats, look: Look, shell: Shell, source: FieldSource, *, face: bool) -> None:
    """Paint what lies outside the brain into `images` (4, x, y, z), in place. `face`: also face, eyes, neck and air.

    Without `face` only the neighbourhood that an imperfect brain mask could leave in is made.
    """
    far = maps.brain_distance > shell.fluid - 0.6
    where = np.nonzero(far)
    distance = (_cavity(maps) if face else maps.brain_distance)[where]
    x, y, z = (maps.mni[a][where] for a in range(3))
    fine = source.field(maps.grid.axes, 4.0, 60)[where]
    skull_start = np.float32(shell.fluid + 1.0)
    into_skull = distance - skull_start
    middle = 1.0 - np.abs(into_skull - np.float32(shell.skull / 2)) / np.float32(shell.skull / 2)
    marrow = soft_step(middle - 0.45 + 0.12 * fine, 0.12)
    dura = soft_step(0.8 - np.abs(distance - shell.fluid - 0.5), 0.3)
    scalp = soft_step(into_skull - np.float32(shell.skull), 0.4)
    # Muscle beside the temporal bone and below the skull base, interleaved with fat.
    low = soft_step(-30.0 - z, 5.0)
    muscle = np.clip(low + soft_step(8.0 - z, 6.0) * soft_step(np.abs(x) - 52.0, 3.0), 0, 1)
    muscle *= soft_step(1.3 - source.field(maps.grid.axes, 8.0, 61)[where] - 0.3 * fine, 0.5) * scalp
    skin = surface = None
    eye = air = np.zeros_like(distance)
    if face:
        surface = head_surface(maps, shell)[where]
        skin = soft_step(2.2 - surface, 0.5)
        eye = soft_step(12.0 - np.sqrt((np.abs(x) - 32) ** 2 + (y - 64) ** 2 + (z + 36) ** 2), 0.6)
        pharynx = 1.0 - np.sqrt((x / 15) ** 2 + ((y - 62) / 26) ** 2 + ((z + 48) / 16) ** 2)
        frontal = 1.0 - np.sqrt((x / 18) ** 2 + ((y - 78) / 6) ** 2 + ((z + 12) / 12) ** 2)
        throat = 1.0 - np.sqrt((x / 11) ** 2 + ((y - 16) / 10) ** 2 + ((z + 92) / 42) ** 2)
        air = soft_step(np.maximum(np.maximum(pharynx, frontal), throat) * 14.0, 0.6)
        air *= soft_step(into_skull - 2.0, 1.0)
    for n in range(4):
        bone = _BONE[n] + (shell.marrow[n] - _BONE[n]) * marrow
        value = np.where(into_skull < 0, np.float32(look.csf[n]), bone)
        value = value * (1 - dura) + dura * look.dura[n]
        soft = shell.fat[n] * (1 + 0.06 * fine) * (1 - muscle) + muscle * _MUSCLE[n]
        value = value * (1 - scalp) + scalp * soft
        if surface is not None and skin is not None:
            value = value * (1 - skin) + skin * _SKIN[n]
            value = value * (1 - eye) + eye * _EYE[n]
            value = value * (1 - air) * soft_step(surface, 0.4)
        blend = soft_step(distance - np.float32(shell.fluid), 0.3)
        images[n][where] = images[n][where] * (1 - blend) + blend * value
