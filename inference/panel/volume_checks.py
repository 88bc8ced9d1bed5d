"""The checks of a volume set, computed at the first panel and kept: neither a correction nor another fusion computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.domain_shift import distribution
from inference.domain_shift.study_checks import study_flags
from inference.models import StudyChecks
from inference.schemas.checks import CheckedVolumes

if TYPE_CHECKING:
    from imaging.models import VolumeSet
    from imaging.volumes.load import LoadedVolumes
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["VERSION", "checks_of"]

VERSION = 1


def checks_of(ctx: JobContext, volume_set: VolumeSet, loaded: LoadedVolumes) -> CheckedVolumes:
    """What the checks say of ``loaded``, the volumes of ``volume_set``."""
    kept = StudyChecks.objects.filter(volume_set=volume_set, version=VERSION).first()
    if kept is not None:
        return kept.found
    spacing = loaded.grid.spacing_zyx()
    flags = study_flags(
        loaded.images,
        loaded.brain_mask,
        spacing,
        spacing_known=loaded.spacing_known,
        parameters=volume_set.parameters,
    )
    values: tuple[float, ...] | None = None
    if loaded.spacing_known:
        try:
            values = tuple(float(v) for v in distribution.features(loaded.images, loaded.brain_mask, spacing))
        except ValueError:
            values = None
    found = CheckedVolumes(flags=flags, sequences=tuple(sorted(loaded.images)), features=values)
    with ctx.commit():
        StudyChecks.objects.get_or_create(volume_set=volume_set, version=VERSION, defaults={"found": found})
    return found
