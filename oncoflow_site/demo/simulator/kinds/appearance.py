"""Random appearance: every tissue's intensities drawn anew in every sequence, after SynthSeg (Billot et al., Med Image Anal 2023).

Only what makes a compartment visible at all is kept: oedema is brighter than tissue in FLAIR or T2, enhancement brighter
in T1c than what surrounds it. Everything else, that of fluid and of normal tissue included, is free.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oncoflow_site.demo.simulator.contrast import Look

__all__ = ["random_appearance"]


def random_appearance(look: Look, rng: np.random.Generator) -> Look:
    """The same examination in tissues that look like none that physics would make."""
    u = rng.uniform

    def spread(value: float, by: float = 0.22) -> float:
        return float(value * np.exp(rng.normal(0, by)))

    grey = (u(0.5, 1.15), u(0.55, 1.15), u(0.85, 2.2), u(0.8, 1.6))
    csf = (u(0.1, 0.75), u(0.1, 0.8), u(1.6, 7.0), u(0.05, 0.95))
    normal = max(1.0, grey[3])
    flair = max(float(np.exp(u(np.log(1.15), np.log(2.8)))), 1.1 * normal)
    t1 = u(0.5, 1.1)
    oedema = (t1, t1 * u(0.85, 1.08), max(u(1.15, 3.6), 1.05 * grey[2]), flair)
    core = (
        spread(look.core[0]),
        spread(look.core[1]),
        spread(look.core[2]),
        spread(look.core[3]),
    )
    bright = max(float(np.exp(u(np.log(0.9), np.log(2.6)))), 1.18 * oedema[1], 1.1 * core[1])
    enhancing = (
        min(spread(look.enhancing[0]), 0.95 * bright),
        bright,
        spread(look.enhancing[2]),
        spread(look.enhancing[3]),
    )
    return replace(
        look,
        grey=grey,
        deep=u(0.2, 0.9),
        csf=csf,
        oedema=oedema,
        core=core,
        enhancing=enhancing,
        vessel=(u(0.3, 1.4), u(0.8, 3.6), u(0.2, 1.6), u(0.2, 1.4)),
        dura=(u(0.4, 1.1), u(0.8, 2.8), u(0.4, 1.8), u(0.4, 1.4)),
        choroid=(u(0.5, 1.0), u(0.9, 2.6), u(1.2, 3.2), u(0.6, 1.8)),
        texture=u(0.02, 0.14),
        oedema_edge=(u(0.45, 0.95), u(3.0, 16.0)),
    )
