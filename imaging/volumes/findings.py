"""What speaks against trusting a study's volumes, found while they were made: kept with them, shown, and a reason to hold.

The study is computed all the same. A finding names no person and no value that could.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from django.utils import timezone
from numpy.typing import NDArray

from imaging.geometry.grid import to_ras
from imaging.models import Volume
from imaging.schemas.volumes import VolumeFinding

if TYPE_CHECKING:
    from imaging.models import Study

__all__ = [
    "ASK",
    "GEOMETRY_DOUBTS",
    "VolumeFinding",
    "each_once",
    "finding",
    "same_voxels",
    "study_findings",
    "voxels_sha256",
]

ASK = "A technician can say what each series shows."
GEOMETRY_DOUBTS = "GeometryDoubts"
"""Key of `Series.parameters`: what speaks against the geometry that a NIfTI file's header gives."""
_CLOCKS_DIFFER = timedelta(hours=1)


def finding(code: str, message: str) -> VolumeFinding:
    """``code`` for machines, ``message`` a sentence for a radiologist."""
    return VolumeFinding(code=code, message=message)


def each_once(findings: Iterable[VolumeFinding]) -> tuple[VolumeFinding, ...]:
    """The findings, each once, in order."""
    return tuple({(one.code, one.message): one for one in findings}.values())


def study_findings(study: Study) -> list[VolumeFinding]:
    """What the study's own facts say against it."""
    performed, arrived = study.performed_at, study.created_at
    later = timezone.localtime(performed).date() > timezone.localtime(arrived).date()
    if later and performed - arrived > _CLOCKS_DIFFER:
        return [finding("date-in-future", "The date of this examination is after the day on which it arrived.")]
    return []


def voxels_sha256(array: NDArray[Any], affine: NDArray[np.float64]) -> str:
    """Of the voxels of a source in RAS order, whatever file they came in; empty where they are all alike."""
    turned, _ = to_ras(np.asarray(array, dtype=np.float32), affine)
    if float(np.ptp(turned)) == 0.0:
        return ""
    return hashlib.sha256(np.ascontiguousarray(turned).data).hexdigest()


def same_voxels(study: Study, hashes: Mapping[str, str]) -> list[VolumeFinding]:
    """The sequences whose voxels are, one for one, those of a study of another date or another patient."""
    found = []
    day = timezone.localtime(study.performed_at).date()
    for sequence, digest in sorted(hashes.items()):
        if not digest:
            continue
        others = Volume.objects.filter(source_sha256=digest).exclude(volume_set__study=study)
        for patient_id, performed_at in others.values_list(
            "volume_set__study__patient_id", "volume_set__study__performed_at"
        ):
            if patient_id != study.patient_id:
                whose = "of another patient"
            elif timezone.localtime(performed_at).date() != day:
                whose = "of this patient under another date"
            else:
                continue
            found.append(finding("same-voxels", f"The {sequence} images are voxel for voxel those of a study {whose}."))
    return list(each_once(found))
