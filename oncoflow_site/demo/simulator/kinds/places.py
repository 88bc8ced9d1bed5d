"""Where in a brain a kind of lesion may lie: candidate places, weighted by what the kind asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncoflow_site.demo.simulator.anatomy import load_template
from oncoflow_site.demo.simulator.fields import Floats, Grid

__all__ = ["Places"]


@dataclass
class Places:
    """Random points of one head: mni and head (3, n) in mm, and what the template has there.

    depth: below the brain's surface; ventricle: distance from the wall (negative inside), both mm; cerebellar: below the tent.
    """

    mni: Floats
    head: NDArray[np.float64]
    depth: Floats
    grey: Floats
    white: Floats
    ventricle: Floats

    @classmethod
    def of(cls, rng: np.random.Generator, grid: Grid, mni: Floats, count: int = 6000) -> Places:
        """Draw `count` points of the grid; `mni` are its coordinates."""
        template = load_template(2)
        picks = rng.integers(0, np.prod(grid.shape), count)
        at = np.stack(np.unravel_index(picks, grid.shape))
        points = mni[:, at[0], at[1], at[2]]
        head = np.asarray(grid.origin)[:, None] + grid.spacing * (at + rng.uniform(-0.5, 0.5, at.shape))
        return cls(
            mni=points,
            head=head,
            depth=-template.sample(template.brain_distance, points),
            grey=template.sample(template.grey, points),
            white=template.sample(template.white, points),
            ventricle=template.sample(template.ventricle_distance, points),
        )

    @property
    def cerebral(self) -> Floats:
        """1 in the hemispheres, 0.2 in the cerebellum, 0 in the lower stem and outside the brain."""
        below = (self.mni[2] < -18) & (self.mni[1] < -34)
        inside = (self.depth > 1.0) & (self.mni[2] > -55)
        stem = (np.abs(self.mni[0]) < 20) & (self.mni[2] < -16) & (self.mni[1] < 4)
        return np.where(inside, np.where(below, 0.2, np.where(stem, 0.15, 1.0)), 0.0).astype(np.float32)

    def draw(self, rng: np.random.Generator, weight: Floats) -> tuple[NDArray[np.float64], float]:
        """A place in head space (mm) and its depth; uniform over the brain where no point fits the weight."""
        weight = np.asarray(weight, float) * self.cerebral
        if weight.sum() <= 0:
            weight = np.asarray(self.cerebral, float)
        chosen = int(rng.choice(len(weight), p=weight / weight.sum()))
        return self.head[:, chosen], float(self.depth[chosen])

    def white_matter(self, rng: np.random.Generator, least_depth: float = 5.0) -> tuple[NDArray[np.float64], float]:
        """Anywhere in tissue, white matter rather than grey."""
        tissue = np.clip(self.white + 0.6 * self.grey - 0.35, 0, 1)
        return self.draw(rng, tissue * (self.depth > least_depth) * (self.ventricle > 3.0))

    def cortex(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
        """In cortex near the surface, sylvian and mesial cortex included."""
        nuclei = (np.abs(self.mni[0]) < 33) & (np.abs(self.mni[1] + 5) < 29) & (np.abs(self.mni[2] - 4) < 18)
        low = np.where(self.mni[2] < -28, 0.3, 1.0)
        return self.draw(rng, (self.grey > 0.55) * (self.depth < 18.0) * ~nuclei * (self.ventricle > 4.0) * low)

    def border(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
        """Where grey and white matter meet."""
        return self.draw(rng, self.grey * self.white * (self.depth > 3.0) * (self.ventricle > 4.0))

    def near_surface(self, rng: np.random.Generator, low: float, high: float) -> tuple[NDArray[np.float64], float]:
        """`low` to `high` mm below the surface."""
        return self.draw(rng, ((self.depth > low) & (self.depth < high) & (self.grey + self.white > 0.5)).astype(float))

    def near_ventricle(self, rng: np.random.Generator, low: float, high: float) -> tuple[NDArray[np.float64], float]:
        """`low` to `high` mm from a ventricle's wall."""
        fits = (self.ventricle > low) & (self.ventricle < high) & (self.white > 0.5)
        return self.draw(rng, fits.astype(float))
