"""A person's clicks on a study, answered by the panel's promptable expert in its interactive process.

The volumes are read and sent only when neither the expert nor the supervisor has them (the first click on a study).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.volumes.load import grid_of, latest_volume_set, load_volumes
from inference.experts.contract import Prompt, Refined, Volumes
from inference.registry.models import panel_specs
from inference.supervisor.client import SupervisorClient, read_key
from oncoflow_site.foundation.errors import UserVisibleError

if TYPE_CHECKING:
    from imaging.models import Study, VolumeSet

__all__ = ["PROMPTABLE", "promptable_expert", "refine"]

PROMPTABLE = ("sam",)


def promptable_expert() -> str | None:
    """Name of the expert that answers clicks: the one that is configured, else the panel's first that can; None without."""
    if settings.ONCOFLOW_REFINE_EXPERT:
        return str(settings.ONCOFLOW_REFINE_EXPERT)
    return next((str(spec["name"]) for spec in panel_specs() if spec["kind"] in PROMPTABLE), None)


def refine(study: Study, prompt: Prompt | None) -> tuple[VolumeSet, Refined | None]:
    """The answer to a prompt on the study's newest volumes, and which those are; no prompt: the expert only gets ready.

    :raises UserVisibleError: no volumes, no promptable expert, or a prompt outside the grid.
    :raises ExpertError: the expert cannot be reached, failed or was too slow.
    """
    volume_set = latest_volume_set(study)
    if volume_set is None:
        raise UserVisibleError("This study has no volumes yet.", code="no-volumes")
    expert = promptable_expert()
    if expert is None:
        raise UserVisibleError("No expert of this installation answers clicks.", code="no-expert")
    grid = grid_of(volume_set)
    if prompt is not None:
        places = [point[:3] for point in prompt.points] + list(prompt.box or ())
        if any(not 0 <= n < length for place in places for n, length in zip(place, grid.shape_zyx, strict=True)):
            raise UserVisibleError("A point lies outside the study's grid.", code="outside")
    available = set(volume_set.volumes.values_list("sequence", flat=True))
    sequences = [name for name in PANEL_SEQUENCES if name in available]

    def load() -> Volumes:
        loaded = load_volumes(study, volume_set=volume_set)
        return Volumes({name: loaded.images[name] for name in sequences}, grid.spacing_zyx(), loaded.brain_mask)

    client = SupervisorClient(settings.ONCOFLOW_SUPERVISOR_ADDRESS, read_key(settings.ONCOFLOW_SUPERVISOR_KEY))
    return volume_set, client.refine(
        expert,
        str(volume_set.pk),
        prompt,
        sequences=sequences,
        spacing=grid.spacing_zyx(),
        load=load,
        deadline_s=float(settings.ONCOFLOW_REFINE_DEADLINE_S),
    )
