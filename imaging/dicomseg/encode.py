"""A label map of ours as a BINARY DICOM Segmentation of its reference series, in one of two identities.

`Identity.DEIDENTIFIED` refers to the de-identified instances and is what viewers get; `Identity.ORIGINAL` refers to the
instances as received and is what the PACS gets. Both are functions of the segmentation alone: the same UIDs every time,
and the UIDs of the first are those of the second mapped as everything else is (PS3.15 action U).

highdicom does the encoding. It takes the planes in the order of the list of source images, whatever their positions, and
encodes a mask without a voxel as all frames: order and emptiness are settled here.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any
from zoneinfo import ZoneInfo

import highdicom as hd
import numpy as np
from django.conf import settings
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging.deidentification.deidentify_study import shift_days
from imaging.dicom.image_plane import VolumeRefused
from imaging.dicomseg.segment_codes import AI, ALTERED_STRUCTURE, BRAIN, SEGMENTS, term_of
from imaging.geometry.sitk import LPS_FROM_RAS
from imaging.identifiers import map_uid
from imaging.models import Instance, Segmentation, SegmentationKind, Volume
from imaging.schemas.outline import FusedExpert, FusedOutline, ModelOutline
from imaging.segmentation.label_maps import load_labels
from imaging.volumes.native_space import native_frames, native_grid, to_native_grid
from oncoflow_site.foundation import keys, objects
from oncoflow_site.foundation.errors import UserVisibleError, required

__all__ = ["Identity", "NotEncodable", "encode", "reference_volume"]

MANUFACTURER = "OncoFlow"
MODEL_NAME = "OncoFlow"
SOFTWARE_VERSION = "0.1.0"
FIRST_SERIES_NUMBER = 9000
_LO = 64
# Type 2 of the Patient and General Study modules: there in every image, perhaps empty; not every sender knows that.
_TYPE_2 = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime ReferringPhysicianName"
_STATEMENTS = (
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
    "LongitudinalTemporalInformationModified"
)


class Identity(enum.Enum):
    """Whose names a segmentation object carries."""

    DEIDENTIFIED = "deidentified"
    ORIGINAL = "original"


class NotEncodable(UserVisibleError):
    """There is no DICOM Segmentation of this label map; ``code`` says why: no-source, empty, several-objects, refused."""


def reference_volume(segmentation: Segmentation) -> Volume:
    """The volume whose series the outline is drawn on: the reference of its volume set.

    :raises NotEncodable: made from NIfTI files, which have no instances to refer to.
    """
    volume_set = segmentation.volume_set
    name = volume_set.parameters.reference or "T1c"
    volume = volume_set.volumes.filter(sequence=name).select_related("source_series", "volume_set").first()
    if volume is None or volume.source_series is None or volume.source_series.nifti_id is not None:
        raise NotEncodable("This study has no DICOM images that a segmentation could refer to.", code="no-source")
    return volume


def encode(segmentation: Segmentation, identity: Identity = Identity.DEIDENTIFIED) -> bytes:
    """The segmentation as a DICOM file (Explicit VR Little Endian).

    :raises NotEncodable: no source images, nothing outlined on their grid, or a source that cannot be referred to.
    """
    volume = reference_volume(segmentation)
    series = required(volume.source_series, "the series of the reference volume")
    try:
        frames = native_frames(series)
    except VolumeRefused as error:
        raise NotEncodable(f"The series behind it cannot be referred to. {error.message}", code="refused") from error
    on_scanner = to_native_grid(load_labels(segmentation), volume)
    present = [label for label in SEGMENTS if np.any(on_scanner == label)]
    if not present:
        raise NotEncodable("Nothing is outlined on the images of this study.", code="empty")
    sources, pixels = _matched(frames, _numbered(on_scanner, present), identity)
    for source in sources:
        _complete(source, volume)
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(segmentation, number, label, identity) for number, label in enumerate(present, start=1)
        ],
        series_instance_uid=_uid("series", str(segmentation.pk), identity),
        series_number=FIRST_SERIES_NUMBER + segmentation.version,
        sop_instance_uid=_uid("instance", str(segmentation.pk), identity),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=SOFTWARE_VERSION,
        device_serial_number=keys.keyed_hash("device-serial", MANUFACTURER).hex()[:16],
        content_label="TUMOUR",
        content_description="Brain tumour outlined; decision support, no diagnosis",
        series_description=f"OncoFlow {segmentation.get_kind_display()} v{segmentation.version}"[:_LO],
        omit_empty_frames=True,
    )
    _date(made, segmentation, identity)
    if identity is Identity.DEIDENTIFIED:
        for keyword in _STATEMENTS.split():
            if keyword in sources[0]:
                made[keyword] = sources[0][keyword]
    out = BytesIO()
    made.save_as(out)
    return out.getvalue()


def _complete(header: Dataset, volume: Volume) -> None:
    """Fill in, on our copy, what highdicom looks for in one place only: the thickness of a classic image, and the shared
    measures and orientation of a multi-frame one that gives them frame by frame."""
    grid = native_grid(volume)
    x, y, z = grid.spacing_xyz()
    shared = header.get("SharedFunctionalGroupsSequence")
    if shared is None:
        if header.get("SliceThickness") in (None, ""):
            header.SliceThickness = round(z, 6)
        return
    lps = LPS_FROM_RAS[:3, :3] @ grid.directions()
    if "PixelMeasuresSequence" not in shared[0]:
        shared[0].PixelMeasuresSequence = hd.PixelMeasuresSequence((y, x), slice_thickness=z, spacing_between_slices=z)
    if "PlaneOrientationSequence" not in shared[0]:
        orientation = [*map(float, lps[:, 0]), *map(float, lps[:, 1])]
        shared[0].PlaneOrientationSequence = hd.PlaneOrientationSequence("PATIENT", orientation)


def _uid(what: str, key: str, identity: Identity) -> str:
    """A UID of ours (PS3.5 section B.2 form), always the same for the same thing."""
    own = f"2.25.{int.from_bytes(keys.keyed_hash(f'dicom-seg-{what}', key)[:16], 'big')}"
    return map_uid(own) if identity is Identity.DEIDENTIFIED else own


def _numbered(labels: NDArray[np.uint8], present: list[int]) -> NDArray[np.uint8]:
    """Segment numbers 1, 2, … without a gap (PS3.3 C.8.20.2) in place of labels."""
    table = np.zeros(256, dtype=np.uint8)
    for number, label in enumerate(present, start=1):
        table[label] = number
    return np.asarray(table[labels])


def _matched(
    frames: list[tuple[Instance, int]], planes: NDArray[np.uint8], identity: Identity
) -> tuple[list[Dataset], NDArray[np.uint8]]:
    """Source headers and the planes in the order of their frames.

    :param frames: instance and frame of each plane. :param planes: (z, y, x).
    """
    instances = list({instance.pk: instance for instance, _ in frames}.values())
    headers = [_header(instance, identity) for instance in instances]
    if len(instances) == len(frames):
        if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
            raise NotEncodable("The series behind it is several multi-frame objects.", code="several-objects")
        return headers, planes
    if len(instances) > 1:
        raise NotEncodable("The series behind it is several multi-frame objects.", code="several-objects")
    ordered = np.zeros_like(planes)
    for z, (_, frame) in enumerate(frames):
        ordered[frame] = planes[z]
    return headers, ordered


def _header(instance: Instance, identity: Identity) -> Dataset:
    stored = instance.original if identity is Identity.ORIGINAL else instance.deidentified
    if stored is None:
        raise NotEncodable("The series behind it is not de-identified yet.", code="no-source")
    header = dcmread(BytesIO(objects.get(stored)), stop_before_pixels=True)
    for keyword in _TYPE_2.split():
        if keyword not in header:
            setattr(header, keyword, None)
    return header


def _description(segmentation: Segmentation, number: int, label: int, identity: Identity) -> hd.seg.SegmentDescription:
    term = term_of(label, segmentation.not_assessed)
    kind, algorithm = _maker(segmentation)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=term.label,
        segmented_property_category=ALTERED_STRUCTURE,
        segmented_property_type=term.type,
        algorithm_type=kind,
        algorithm_identification=algorithm,
        # The same for every study of a patient: what is followed over time.
        tracking_uid=_uid("tracking", f"{segmentation.study.patient_id}:{label}", identity),
        tracking_id=term.label,
        anatomic_regions=[BRAIN],
        display_color=term.colour,
    )


def _maker(segmentation: Segmentation) -> tuple[Any, hd.AlgorithmIdentificationSequence | None]:
    """Segment Algorithm Type and, where one had a part in it, the algorithm."""
    values = hd.seg.SegmentAlgorithmTypeValues
    if segmentation.kind in (SegmentationKind.EXPERT, SegmentationKind.CONSENSUS):
        return values.AUTOMATIC, _algorithm(segmentation)
    source = segmentation.parent
    while source is not None and source.kind not in (SegmentationKind.EXPERT, SegmentationKind.CONSENSUS):
        source = source.parent
    if source is None:
        return values.MANUAL, None
    return values.SEMIAUTOMATIC, _algorithm(source)


def _algorithm(segmentation: Segmentation) -> hd.AlgorithmIdentificationSequence:
    """Name, version and parameters of the model, or of the panel with all its models."""
    model = segmentation.model
    if segmentation.kind == SegmentationKind.EXPERT:
        made = model if isinstance(model, ModelOutline) else ModelOutline(name="", version="")
        name, version = made.name or segmentation.author, made.version or "unknown"
        known = {"sha256": made.sha256, "architecture": made.architecture}
        parameters = {key: value for key, value in known.items() if value}
    else:
        fused = model if isinstance(model, FusedOutline) else FusedOutline(fusion="unknown", experts=())
        name, version = f"OncoFlow panel, {fused.fusion or 'unknown'} fusion", SOFTWARE_VERSION
        outlines = Segmentation.objects.filter(pk__in=[one.segmentation for one in fused.experts if one.segmentation])
        models = {str(pk): made for pk, made in outlines.values_list("pk", "model")}
        parameters = {one.name: _expert(one, models.get(one.segmentation or "")) for one in fused.experts}
    return hd.AlgorithmIdentificationSequence(
        name=name[:_LO], family=AI, version=version[:_LO], source=MANUFACTURER, parameters=parameters or None
    )


def _expert(expert: FusedExpert, made: ModelOutline | FusedOutline | None) -> str:
    """Version, beginning of the weights' hash, and role of one expert of a consensus."""
    version, sha256 = (made.version, made.sha256) if isinstance(made, ModelOutline) else ("", "")
    return " ".join(part for part in (version or "unknown", sha256[:16], expert.role) if part)


def _date(made: Dataset, segmentation: Segmentation, identity: Identity) -> None:
    """Series and content get the moment the outline was made, not that of encoding: shifted like all the patient's dates."""
    moment: datetime = segmentation.created_at.astimezone(ZoneInfo(str(settings.TIME_ZONE)))
    if identity is Identity.DEIDENTIFIED:
        moment += timedelta(days=shift_days(segmentation.study.patient))
    for kind in ("Series", "Content", "InstanceCreation"):
        setattr(made, f"{kind}Date", moment.strftime("%Y%m%d"))
        setattr(made, f"{kind}Time", moment.strftime("%H%M%S"))
    if "TimezoneOffsetFromUTC" in made:
        made.TimezoneOffsetFromUTC = moment.strftime("%z")
