"""Research export: only what shows no face leaves, under the pseudonym, with shifted dates (PS3.15 E.3.2, option 113102).

The prepared volumes, which are exactly zero outside the brain; where wanted what `preprocessing.intensity` makes of them; and
de-identified DICOM series with the face taken off. A head whose brain is not known well enough to take its face off is
refused by name.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from django.core.exceptions import PermissionDenied
from django.db import transaction
from numpy.typing import NDArray
from pydicom import dcmread

from audit.services import Actor, record, record_refusal
from clinical.access import require_patient
from clinical.roles import can
from imaging.defacing.deface_study import StudyFace, defaced_file
from imaging.defacing.face_plane import CannotDeface
from imaging.deidentification.deidentify_study import shift_days
from imaging.geometry.nifti import read_nifti, write_nifti
from imaging.models import InstanceState, Study, Volume, VolumeSet
from imaging.preprocessing.intensity import SPACE, atlas_step, intensity_steps, replay
from imaging.preprocessing.mni152 import fit_atlas
from imaging.segmentation.label_maps import current_segmentation
from imaging.volumes.load import grid_of, latest_volume_set
from imaging.volumes.reproduce import library_versions
from imaging.volumes.series_reader import series_instances
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.schema import JsonDict

if TYPE_CHECKING:
    from clinical.models import User

__all__ = ["Derivative", "ExportRefused", "Exported", "defaced_series", "export_study"]

EVENT = "research.export"
EXPORT = "110106"  # PS3.16 CID 400 Audit Event ID: Export
SUFFIX = {"T1": "T1w", "T1c": "ce-gad_T1w", "T2": "T2w", "FLAIR": "FLAIR"}


class ExportRefused(UserVisibleError):
    """A study that may not leave; the message names it by its id and says why."""


@dataclass(frozen=True)
class Exported:
    """What left: the session's folder, its files, and their bytes altogether."""

    folder: Path
    files: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Derivative:
    """What an export holds besides the volumes as they are.

    :param dicom: the source series too, de-identified and defaced.
    :param atlas: everything on MNI152's 1 mm grid too.
    :param bias: and ``intensity``: volumes evened out too, see `imaging.preprocessing.intensity.intensity_steps`.
    """

    dicom: bool = False
    atlas: bool = False
    bias: bool = False
    intensity: str = ""


def export_study(study: Study, out: Path, *, by: User, wanted: Derivative = Derivative()) -> Exported:
    """Write ``study`` under ``out`` as ``sub-PSEUDONYM/ses-SHIFTEDDATE``: all of it, or nothing.

    :raises PermissionDenied: role or patient is not theirs (recorded).
    :raises ExportRefused: not de-identified and defaced (recorded).
    """
    if not can(by, "export_research"):
        _refuse(study, by, "role")
        raise PermissionDenied("Your role does not allow this.")
    require_patient(by, study.patient_id, event=EVENT, resource=study.subject)
    subject = "".join(one for one in study.patient.pseudonym if one.isalnum())
    day = study.performed_at.date() + timedelta(days=shift_days(study.patient))
    session = f"sub-{subject}/ses-{day:%Y%m%d}"
    target = out / session
    if target.exists():
        raise ExportRefused(f"Study {study.pk} was exported here before: {session} exists.")
    partial = out / f".partial-{new_id()}"
    try:
        files = _write(partial, _contents(study, f"sub-{subject}_ses-{day:%Y%m%d}", wanted))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Recorded before it lies there under its name: an export that cannot be recorded does not happen.
        with transaction.atomic():
            record(
                EVENT,
                action="R",
                resource=study.subject,
                patient_id=study.patient_id,
                actor=Actor.user(by),
                detail={"dicom_event": EXPORT, "files": len(files), **asdict(wanted)},
            )
            partial.rename(target)
    except ExportRefused:
        _refuse(study, by, "not defaced")
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(target, tuple(files), sum((target / name).stat().st_size for name in files))


def _refuse(study: Study, by: User, why: str) -> None:
    record_refusal(
        EVENT,
        action="R",
        resource=study.subject,
        patient_id=study.patient_id,
        actor=Actor.user(by),
        detail={"why": why, "dicom_event": EXPORT},
    )


def _write(folder: Path, contents: Iterable[tuple[str, bytes]]) -> list[str]:
    sums = []
    for name, data in contents:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sums.append((hashlib.sha256(data).hexdigest(), name))
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums), encoding="ascii")
    return [*(name for _, name in sums), "SHA256SUMS"]


def _contents(study: Study, stem: str, wanted: Derivative) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of everything that leaves."""
    volume_set = latest_volume_set(study)
    if volume_set is None or volume_set.brain_mask is None:
        raise ExportRefused(
            f"Study {study.pk} has no prepared volumes: nothing of it can be shown to be without a face."
        )
    try:
        face = StudyFace(study, volume_set)
    except CannotDeface as error:
        raise ExportRefused(f"Study {study.pk}: {error}.") from error
    brain = face.brain
    mask_bytes = objects.get(volume_set.brain_mask)
    for volume in volume_set.volumes.select_related("object", "source_series").order_by("sequence"):
        data = objects.get(volume.object)
        array, _ = read_nifti(data)
        if np.any(array[~brain]):
            raise ExportRefused(f"Study {study.pk}: its {volume.sequence} volume is not empty outside the brain.")
        name = f"{stem}_{SUFFIX[volume.sequence]}"
        yield f"anat/{name}.nii.gz", data
        yield f"anat/{name}.json", _sidecar(volume)
    yield f"anat/{stem}_desc-brain_mask.nii.gz", mask_bytes
    segmentation = current_segmentation(study)
    if segmentation is not None and segmentation.volume_set_id == volume_set.pk:
        yield f"anat/{stem}_dseg.nii.gz", objects.get(segmentation.labels)
    yield from _derived(study, volume_set, stem, brain, wanted)
    if wanted.dicom:
        for number, volume in enumerate(volume_set.volumes.order_by("sequence"), start=1):
            for index, data in enumerate(defaced_series(study, volume, face), start=1):
                yield f"dicom/{number}-{volume.sequence}/{index:05d}.dcm", data


def _derived(
    study: Study, volume_set: VolumeSet, stem: str, brain: NDArray[np.bool_], wanted: Derivative
) -> Iterator[tuple[str, bytes]]:
    """Evened out, and in atlas space: each file with the steps that make it again from the volume beside it."""
    evened = wanted.bias or bool(wanted.intensity)
    if not (evened or wanted.atlas):
        return
    grid = grid_of(volume_set)
    volumes = {one.sequence: one for one in volume_set.volumes.select_related("object")}
    onto: list[JsonDict] = []
    if wanted.atlas:
        base = next((volumes[name] for name in ("T1", "T1c") if name in volumes), None)
        if base is None:
            raise ExportRefused(f"Study {study.pk}: without a T1-weighted volume there is no way into atlas space.")
        try:
            onto = [atlas_step(fit_atlas(read_nifti(objects.get(base.object))[0], brain, grid, threads=1))]
        except ValueError as error:
            raise ExportRefused(f"Study {study.pk}: it cannot be brought into atlas space: {error}.") from error
    space = f"space-{SPACE}" if onto else ""
    for sequence, volume in sorted(volumes.items()):
        array, _ = read_nifti(objects.get(volume.object))
        try:
            steps = intensity_steps(array, brain, grid, bias=wanted.bias, intensity=wanted.intensity) + onto
        except ValueError as error:
            raise ExportRefused(f"Study {study.pk}: {sequence}: {error}.") from error
        prefix, _, suffix = SUFFIX[sequence].rpartition("_")
        name = "_".join(one for one in (stem, prefix, space, "desc-evened" if evened else "", suffix) if one)
        record_ = {"Source": f"{stem}_{SUFFIX[sequence]}.nii.gz", "Steps": steps, "Versions": library_versions()}
        yield f"derived/{name}.nii.gz", write_nifti(*replay(array, brain, grid, steps))
        yield f"derived/{name}.json", json.dumps(record_, indent=1, sort_keys=True).encode()
    if onto:
        moved = replay(brain.astype(np.uint8), brain, grid, onto, labels=True)
        yield f"derived/{stem}_{space}_desc-brain_mask.nii.gz", write_nifti(*moved)
        segmentation = current_segmentation(study)
        if segmentation is not None and segmentation.volume_set_id == volume_set.pk:
            labels, _ = read_nifti(objects.get(segmentation.labels), as_float=False)
            yield f"derived/{stem}_{space}_dseg.nii.gz", write_nifti(*replay(labels, brain, grid, onto, labels=True))


def _sidecar(volume: Volume) -> bytes:
    """Acquisition parameters as BIDS has them (seconds); from the series' recorded facts, no text but its cleaned name."""
    series = volume.source_series
    facts: JsonDict = dict(series.parameters) if series is not None else {}
    side: JsonDict = {"SkullStripped": True}
    for keyword in ("RepetitionTime", "EchoTime", "InversionTime"):
        milliseconds = facts.get(keyword)
        if isinstance(milliseconds, (int, float)):
            side[keyword] = milliseconds / 1000.0
    for keyword in ("FlipAngle", "MagneticFieldStrength", "MRAcquisitionType", "SliceThickness"):
        if facts.get(keyword) not in (None, ""):
            side[keyword] = facts[keyword]
    if series is not None and series.description:
        side["SeriesDescription"] = series.description
    return json.dumps(side, indent=1, sort_keys=True).encode()


def defaced_series(study: Study, volume: Volume, face: StudyFace) -> Iterator[bytes]:
    """The de-identified instances of the series behind ``volume`` with the face taken off, as DICOM files.

    Instances get UIDs of their own, for their pixels are others than those of the de-identified ones.

    :raises ExportRefused: the series has no such copies, or no face region can be told.
    """
    if volume.source_series is None or volume.source_series.nifti_id is not None:
        raise ExportRefused(f"Study {study.pk}: its {volume.sequence} did not come as DICOM.")
    for instance in series_instances(volume.source_series):
        if instance.state != InstanceState.DEIDENTIFIED or instance.deidentified is None:
            raise ExportRefused(f"Study {study.pk}: an image of its {volume.sequence} is not de-identified.")
        dataset = dcmread(BytesIO(objects.get(instance.deidentified)))
        try:
            masks = face.masks(volume.source_series, dataset)
        except CannotDeface as error:
            raise ExportRefused(f"Study {study.pk}: {volume.sequence}: {error}.") from error
        yield defaced_file(dataset, masks, own_uid=True)[0]
