"""The anatomy of a volume set: MNI152 and the midline on its T1, searched once and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imaging.measurement.midline_shift import Midline, find_midline
from imaging.measurement.volumetry import SPACING_UNKNOWN
from imaging.models import Anatomy, VolumeSet
from imaging.volumes.load import load_volumes

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["anatomy_of", "no_midline"]

VERSION = 1
WITHOUT_T1 = "Without a T1 series before contrast the midline cannot be found."


def no_midline(volume_set: VolumeSet) -> str:
    """Why no midline is looked for in a volume set; empty where it is."""
    if not volume_set.study.spacing_known:
        return SPACING_UNKNOWN
    return "" if volume_set.volumes.filter(sequence="T1").exists() else WITHOUT_T1


def anatomy_of(ctx: JobContext, volume_set: VolumeSet) -> Midline:
    """The midline of a volume set in which one can be looked for (`no_midline`); found at the first call, then kept.

    Whether a tumour hides the septum is not part of it: `Midline.under`.
    """
    kept = Anatomy.objects.filter(volume_set=volume_set, version=VERSION).first()
    if kept is not None:
        return Midline.of(kept.midline)
    volumes = load_volumes(volume_set.study, volume_set=volume_set)
    brain = volume_set.parameters.brain
    doubt = (brain.reason or "no reason was kept") if brain is not None and brain.plausible is False else ""
    midline = find_midline(volumes.images["T1"], volumes.brain_mask, volumes.grid, doubtful=doubt)
    with ctx.commit():
        Anatomy.objects.get_or_create(volume_set=volume_set, version=VERSION, defaults={"midline": midline.record()})
    return midline
