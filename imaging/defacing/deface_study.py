"""Faces off the images of a study: where each image lies in the head, the copy without its face, and the books.

Every plane is placed by its own header, so that volumes, localisers and series of several echoes or b-values are treated
alike. A series behind a volume goes the way of its registration; any other must share the frame of reference of the study's
reference. What cannot be placed keeps its face, and with ``ONCOFLOW_DEFACE`` nobody is offered it.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from audit import services as audit
from imaging.defacing.face_plane import CannotDeface, Face, find_face
from imaging.deidentification.engine import CODES
from imaging.dicom.functional_groups import FunctionalGroups
from imaging.dicom.image_plane import ImagePlane, VolumeRefused, image_planes
from imaging.events import STUDY_DEFACED
from imaging.geometry.grid import GeometryError, Grid
from imaging.geometry.nifti import read_nifti
from imaging.geometry.sitk import LPS_FROM_RAS
from imaging.identifiers import map_uid
from imaging.models import DefacedInstance, FaceRemoval, Instance, InstanceState, Series, Study, VolumeSet
from imaging.segmentation.label_maps import current_segmentation
from imaging.volumes.load import grid_of, latest_volume_set
from oncoflow_site.foundation import failpoints, objects
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.schema import JsonDict

if TYPE_CHECKING:
    from oncoflow_site.foundation.jobs import JobContext
    from oncoflow_site.foundation.models import StoredObject

__all__ = ["StudyFace", "deface_study", "defaced_file", "study_face"]

BATCH = 16
DERIVATION = "Face removed: what lies beyond a plane under the brain has the lowest value of the image"


class StudyFace:
    """Where the face of one study is, and from there on each of its images.

    :raises CannotDeface: the brain of the study is not known well enough.
    """

    def __init__(self, study: Study, volume_set: VolumeSet) -> None:
        brain = volume_set.parameters.brain
        if brain is None or not brain.plausible or volume_set.brain_mask is None:
            raise CannotDeface("its brain mask is doubtful, so its face cannot be taken off for certain")
        array, _ = read_nifti(objects.get(volume_set.brain_mask), as_float=False)
        self.volume_set = volume_set
        self.brain: NDArray[np.bool_] = np.asarray(array) > 0
        self.face: Face = find_face(self.brain, grid_of(volume_set), keep=_outlined(study, volume_set))
        self._ways: dict[Any, NDArray[np.float64]] = {}
        self._frames: set[str] = set()
        reference = volume_set.parameters.reference
        for volume in volume_set.volumes.select_related("source_series"):
            if volume.source_series is None or volume.source_series.nifti_id is not None:
                continue
            matrix = volume.transform.matrix_ras if volume.transform else np.eye(4)
            self._ways[volume.source_series_id] = np.asarray(matrix, dtype=np.float64)
            if volume.sequence == reference:
                self._frames = _frames_of_reference(volume.source_series)

    @property
    def plane(self) -> JsonDict:
        """JSON-able: the plane that parts face and brain."""
        return {"normal": [round(float(v), 6) for v in self.face.normal], "offset_mm": round(self.face.offset, 3)}

    def masks(self, series: Series, dataset: Dataset) -> dict[int, NDArray[np.bool_]]:
        """What is removed of each frame of one image: frame -> bool (rows, columns).

        :raises CannotDeface: nobody knows where in the head it lies.
        """
        way = self._ways.get(series.pk)
        if way is None:
            if str(dataset.get("FrameOfReferenceUID") or "-") not in self._frames:
                raise CannotDeface("it does not share the frame of reference of the study's volumes")
            way = np.eye(4)
        groups = FunctionalGroups(dataset)
        try:
            return {
                plane.frame: self._mask(plane, way, _thickness(dataset, groups, plane.frame))
                for plane in image_planes(dataset, 0)
            }
        except VolumeRefused as error:
            raise CannotDeface(error.message.rstrip(".")) from error
        except GeometryError as error:
            raise CannotDeface(str(error)) from error

    def _mask(self, plane: ImagePlane, way: NDArray[np.float64], thick: float) -> NDArray[np.bool_]:
        row, column = plane.orientation[:3], plane.orientation[3:]
        lps = np.eye(4)
        lps[:3, 0] = row * plane.spacing[1]
        lps[:3, 1] = column * plane.spacing[0]
        lps[:3, 2] = np.cross(row, column) * thick
        lps[:3, 3] = plane.position
        # RAS mm of the scanner's space, from there to that of the brain mask.
        own = np.linalg.inv(way) @ LPS_FROM_RAS @ lps
        return self.face.on(Grid(own, (plane.shape[1], plane.shape[0], 1)))[0]


def study_face(study: Study) -> StudyFace:
    """The face of a study's newest preparation. :raises CannotDeface: there is none, or its brain is doubtful."""
    volume_set = latest_volume_set(study)
    if volume_set is None:
        raise CannotDeface("it has no prepared volumes, so nothing says where its face is")
    return StudyFace(study, volume_set)


def _outlined(study: Study, volume_set: VolumeSet) -> NDArray[np.bool_] | None:
    """The outline in force: no voxel of a tumour is touched, wherever it lies."""
    segmentation = current_segmentation(study)
    if segmentation is None or segmentation.volume_set_id != volume_set.pk:
        return None
    labels, _ = read_nifti(objects.get(segmentation.labels), as_float=False)
    return np.asarray(labels) > 0


def _frames_of_reference(series: Series) -> set[str]:
    row = series.instances.filter(state=InstanceState.DEIDENTIFIED).select_related("deidentified").first()
    if row is None or row.deidentified is None:
        return set()
    dataset = dcmread(BytesIO(objects.get(row.deidentified)), specific_tags=["FrameOfReferenceUID"])
    found = str(dataset.get("FrameOfReferenceUID") or "")
    return {found} if found else set()


def _thickness(dataset: Dataset, groups: FunctionalGroups, frame: int) -> float:
    """Slice thickness in mm; 1 where the header does not say it."""
    measures = groups.group("PixelMeasuresSequence", frame)
    try:
        value = float(measures.get("SliceThickness") or dataset.get("SliceThickness") or 1.0)
    except (TypeError, ValueError):
        return 1.0
    return value if 0.1 <= value <= 50 else 1.0


def defaced_file(dataset: Dataset, masks: dict[int, NDArray[np.bool_]], *, own_uid: bool) -> tuple[bytes, int]:
    """One file with the face's pixels at the image's lowest value, and how many they are.

    It says so by 113102, (0028,0302), Image Type and (0008,2111). The brain and all else stay bit for bit.

    :param own_uid: whether the copy gets a SOP Instance UID of its own: where the other one is also given away.
    """
    pixels = np.array(dataset.pixel_array)
    frames = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    lowest = pixels.min()
    count = 0
    for frame, mask in masks.items():
        frames[frame][mask] = lowest
        count += int(np.count_nonzero(mask))
    dataset.PixelData = frames.tobytes()
    dataset["PixelData"].VR = "OW"
    for stale in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if stale in dataset:
            del dataset[stale]
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "113102", "DCM", CODES["113102"]
    codes = [one for one in dataset.get("DeidentificationMethodCodeSequence") or [] if one.CodeValue != "113102"]
    dataset.DeidentificationMethodCodeSequence = sorted([*codes, item], key=lambda one: str(one.CodeValue))
    dataset.RecognizableVisualFeatures = "NO"
    _derived(dataset)
    if own_uid:
        dataset.SOPInstanceUID = map_uid(f"{dataset.SOPInstanceUID}.1")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue(), count


def _derived(dataset: Dataset) -> None:
    """Image Type says DERIVED (PS3.3 C.7.6.1.1.2), in enhanced images in each frame too (C.8.16.1)."""
    groups = FunctionalGroups(dataset)
    for holder in (dataset, *groups.every("MRImageFrameTypeSequence")):
        keyword = "ImageType" if holder is dataset else "FrameType"
        values = [str(one) for one in holder.get(keyword) or []]
        if values:
            setattr(holder, keyword, ["DERIVED", *values[1:]])
    if not groups.multi_frame:
        dataset.DerivationDescription = DERIVATION


def deface_study(ctx: JobContext, study: Study) -> None:
    """Make the copies without faces that ``study`` lacks; does nothing unless ``ONCOFLOW_DEFACE`` is on.

    Can be stopped at any point and called again. A newer preparation, with another brain mask, makes new copies.
    """
    if not settings.ONCOFLOW_DEFACE:
        return
    face, why = None, ""
    try:
        face = study_face(study)
    except CannotDeface as error:
        why = str(error)
    rows = list(study.series.filter(nifti__isnull=True).order_by("number", "id"))
    done = 0
    for number, series in enumerate(rows):
        ctx.progress(number / len(rows), "Taking off faces")
        outcome = FaceRemoval(series=series, removed=False, reason=why[:200])
        if face is not None:
            outcome = _deface_series(ctx, series, face, number / len(rows))
        done += outcome.removed
        with ctx.commit():
            FaceRemoval.objects.filter(series=series).delete()
            outcome.save()
            if not outcome.removed:
                _drop(DefacedInstance.objects.filter(instance__series=series))
    with ctx.commit(done=True):
        audit.record(
            "study.deface",
            action="U",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"series": len(rows), "defaced": done, "held_back": len(rows) - done},
            source="worker",
        )
        emit(STUDY_DEFACED, subject=study.subject, study_id=str(study.pk))


def _deface_series(ctx: JobContext, series: Series, face: StudyFace, reached: float) -> FaceRemoval:
    """Copies of all images of a series, or the reason why there are none."""
    outcome = FaceRemoval(series=series, volume_set=face.volume_set, removed=True, plane=face.plane)
    waiting = series.instances.filter(state=InstanceState.DEIDENTIFIED).select_related("deidentified", "defaced")
    images = list(waiting.order_by("number", "id"))
    try:
        for begin in range(0, len(images), BATCH):
            batch = images[begin : begin + BATCH]
            made = list(_copies(series, face, batch))
            subject = series.study.key_subject
            copies = [
                objects.write(data, subject=subject, kind="dicom-defaced", content_type="application/dicom")
                for _, data, _ in made
            ]
            with ctx.commit():
                for (instance, _, count), stored in zip(made, copies, strict=True):
                    _keep(face.volume_set, instance, stored, count)
            failpoints.hit("imaging.defaced_batch")
            ctx.progress(reached, "Taking off faces")
    except CannotDeface as error:
        outcome.removed, outcome.reason = False, str(error)[:200]
        return outcome
    if not images:
        outcome.removed, outcome.reason = False, "none of its images is de-identified"
    outcome.instances = len(images)
    outcome.voxels = sum(DefacedInstance.objects.filter(instance__in=images).values_list("voxels", flat=True))
    return outcome


def _copies(series: Series, face: StudyFace, batch: list[Instance]) -> Iterator[tuple[Instance, bytes, int]]:
    for instance in batch:
        mine = getattr(instance, "defaced", None)
        if instance.deidentified is None or (mine is not None and mine.volume_set_id == face.volume_set.pk):
            continue
        dataset = dcmread(BytesIO(objects.get(instance.deidentified)))
        masks = face.masks(series, dataset)
        try:
            data, count = defaced_file(dataset, masks, own_uid=False)
        except Exception as error:  # decoders raise anything, and their text may quote the data
            raise CannotDeface("its pixels cannot be decoded") from error
        yield instance, data, count


def _keep(volume_set: VolumeSet, instance: Instance, stored: StoredObject, count: int) -> None:
    """Keep one copy inside the caller's fenced transaction; an older one goes."""
    _drop(DefacedInstance.objects.filter(instance=instance))
    objects.keep(stored)
    DefacedInstance.objects.create(instance=instance, volume_set=volume_set, object=stored, voxels=count)


def _drop(rows: Any) -> None:
    """Delete copies with their bytes, and what the index says of them."""
    for row in rows.select_related("object", "instance"):
        stored = row.object
        published = getattr(row.instance, "published", None)
        if published is not None and published.object_id == stored.pk:
            published.delete()
        row.delete()
        objects.delete(stored)
