"""Segmentations: label maps on the grid of a volume set, stored encrypted, versioned, never changed.

Labels are those of BraTS: 0 background, 1 NCR (necrotic and non-enhancing core), 2 ED (oedema / infiltrated tissue),
3 ET (enhancing tumour). Regions are nested: ET within TC (1, 3) within WT (1, 2, 3).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from django.db import transaction
from django.db.models import Max, OuterRef, Subquery
from numpy.typing import NDArray

from imaging.brats.regions import LARGEST_LABEL, OWN_LABEL, REGIONS, Region
from imaging.geometry.grid import GeometryError
from imaging.geometry.nifti import read_nifti, write_nifti
from imaging.models import Segmentation, SegmentationKind, VolumeSet
from imaging.schemas.assessed import RegionsNotAssessed
from imaging.schemas.outline import FusedOutline, ModelOutline
from imaging.segmentation.probability_maps import encode_probability
from imaging.volumes.load import grid_of
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError

if TYPE_CHECKING:
    from imaging.models import Study
    from oncoflow_site.foundation.models import StoredObject

__all__ = [
    "WrittenLabels",
    "assessed_regions",
    "current_segmentation",
    "current_segmentations",
    "load_labels",
    "save_segmentation",
    "write_labels",
]

_IN_FORCE = (SegmentationKind.PERSON, SegmentationKind.IMPORT, SegmentationKind.CONSENSUS)
"""Kinds that may be in force, the one that stands above the others first."""


def assessed_regions(segmentation: Segmentation) -> tuple[Region, ...]:
    """The regions that a segmentation says something about, innermost first."""
    return tuple(region for region in REGIONS if region not in segmentation.not_assessed)


@dataclass(frozen=True)
class WrittenLabels:
    """A label map, checked, its bytes durable, and named by no row yet: `write_labels` makes it, `save_segmentation` keeps it."""

    volume_set: VolumeSet
    labels: StoredObject
    probability: StoredObject | None
    not_assessed: RegionsNotAssessed


def write_labels(
    study: Study,
    volume_set: VolumeSet,
    labels: NDArray[np.uint8],
    *,
    probability: bytes | Mapping[str, NDArray[Any]] | None = None,
    not_assessed: RegionsNotAssessed | None = None,
) -> WrittenLabels:
    """Check a label map and write its bytes, before the transaction that saves it.

    :param labels: uint8 (z, y, x) on the grid of ``volume_set``, values 0 to 3.
    :param probability: region probabilities, or their bytes from `encode_probability`.
    :param not_assessed: regions that it says nothing about, each with a sentence why; none of their own labels may be in it.
    :raises ValueError: wrong shape, type or label values, a label of a region that is not assessed, volumes of another
        study.
    """
    if volume_set.study_id != study.id:
        raise ValueError("the volumes belong to another study")
    labels = np.asarray(labels)
    grid = grid_of(volume_set)
    if labels.dtype != np.uint8 or labels.shape != grid.shape_zyx:
        raise ValueError("labels must be uint8 on the grid of the volume set")
    if labels.size and int(labels.max()) > LARGEST_LABEL:
        raise ValueError("labels must be 0, 1, 2 or 3")
    left_out = dict(not_assessed or {})
    if not set(left_out) <= set(REGIONS) or any(np.any(labels == OWN_LABEL[region]) for region in left_out):
        raise ValueError("a region that is not assessed has a label of its own")
    subject = study.key_subject
    stored_probability = None
    if probability is not None:
        data = probability if isinstance(probability, bytes) else encode_probability(probability)
        stored_probability = objects.write(data, subject=subject, kind="probability", content_type="application/gzip")
    stored = objects.write(
        write_nifti(labels, grid), subject=subject, kind="segmentation", content_type="application/gzip"
    )
    return WrittenLabels(volume_set, stored, stored_probability, left_out)


def save_segmentation(
    study: Study,
    written: WrittenLabels,
    *,
    kind: str,
    author: str,
    model: ModelOutline | FusedOutline | None = None,
    parent: Segmentation | None = None,
    edited: bool = False,
    reason: str = "",
) -> Segmentation:
    """Keep a label map as the study's next segmentation version. Inside the caller's transaction.

    :param kind: expert, consensus, person or import.
    :param author: name of the expert or the user; never anything of a patient.
    :param model: the model or fusion that made it; None for a person's.
    :param edited: it is ``parent`` with a person's changes, not an outline of its own.
    :raises ValueError: no such kind, labels or a parent of another study, or no transaction.
    """
    if not transaction.get_connection().in_atomic_block:
        raise ValueError("a segmentation is saved inside a transaction of its caller")
    if kind not in SegmentationKind.values:
        raise ValueError(f"unknown kind of segmentation {kind!r}")
    if written.volume_set.study_id != study.id or (parent is not None and parent.study_id != study.id):
        raise ValueError("the volumes or the parent belong to another study")
    objects.keep(written.labels, written.probability)
    last = Segmentation.objects.filter(study=study).aggregate(last=Max("version"))["last"] or 0
    return Segmentation.objects.create(
        study=study,
        volume_set=written.volume_set,
        kind=kind,
        version=last + 1,
        author=author,
        model=model,
        labels=written.labels,
        probability=written.probability,
        parent=parent,
        edited=edited,
        reason=reason,
        not_assessed=dict(written.not_assessed),
    )


def load_labels(segmentation: Segmentation) -> NDArray[np.uint8]:
    """Label map (z, y, x) uint8; its hash is verified.

    :raises PermanentError: the stored bytes are not what was stored, or do not fit the grid.
    """
    try:
        array, grid = read_nifti(objects.get(segmentation.labels), as_float=False)
    except GeometryError as error:
        raise PermanentError(f"stored segmentation unreadable: {error}") from None
    if grid.shape_xyz != grid_of(segmentation.volume_set).shape_xyz:
        raise PermanentError("stored segmentation does not fit its volumes")
    return np.asarray(array, dtype=np.uint8)


def current_segmentations(studies: Iterable[Study]) -> dict[uuid.UUID, Segmentation]:
    """Study -> the outline in force: of its newest volumes, a person's latest, else an import, else the consensus.

    One query, however many studies; a study without one is left out. The volume set and the stored labels come with it.
    """
    newest = VolumeSet.objects.filter(study=OuterRef("study")).order_by("-version")
    rows = Segmentation.objects.filter(
        study__in=[study.pk for study in studies], kind__in=_IN_FORCE, volume_set=Subquery(newest.values("pk")[:1])
    )
    found: dict[uuid.UUID, Segmentation] = {}
    for row in rows.select_related("volume_set", "labels", "study").order_by("version"):
        before = found.get(row.study_id)
        if before is None or _IN_FORCE.index(row.kind) <= _IN_FORCE.index(before.kind):
            found[row.study_id] = row
    return found


def current_segmentation(study: Study) -> Segmentation | None:
    """`current_segmentations` of one study."""
    return current_segmentations([study]).get(study.pk)
