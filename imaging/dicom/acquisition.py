"""What an MR image's header says about its acquisition, classic or enhanced, read once and in plain numbers and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset

from imaging.dicom.contrast_agent import CONTRAST_TAGS, ContrastEvidence, contrast_evidence
from imaging.dicom.functional_groups import FunctionalGroups
from imaging.dicom.image_kind import IMAGE_KIND_TAGS, image_kind

__all__ = ["HEADER_TAGS", "AcquisitionParameters", "acquisition_parameters", "from_json", "text_of", "to_json"]

_HEADER_TAGS = (
    "Modality ImageType ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime "
    "InversionTime FlipAngle EchoTrainLength DiffusionBValue NumberOfTemporalPositions SeriesDescription ProtocolName "
    "PulseSequenceName EchoPulseSequence "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence InversionRecovery AcquisitionContrast "
    "MagneticFieldStrength SliceThickness AngioFlag BodyPartExamined Manufacturer ManufacturerModelName SequenceName "
    "AcquisitionDate AcquisitionTime AcquisitionDateTime"
)
HEADER_TAGS = tuple(dict.fromkeys([*_HEADER_TAGS.split(), *CONTRAST_TAGS, *IMAGE_KIND_TAGS]))


@dataclass(frozen=True)
class AcquisitionParameters:
    """Header facts, None or empty where not given. Times in ms, angles in degrees, field in tesla.

    :param image_type: words of the values of Image Type, upper case, split at anything but letters and digits.
    :param frame_type: words of Frame Type from its third value on, of all frames of an enhanced object.
    :param kind: what the image is if it is not the acquired image itself (`imaging.dicom.image_kind`), else empty.
    :param contrast: what the header says about contrast agent.
    :param description: and ``protocol_name``: Series Description and Protocol Name as sent: may hold a name, never shown.
    :param acquired_at: when it was acquired, seconds since 1970 on the scanner's clock; None without a date and a time.
    """

    modality: str
    tr: float | None
    te: float | None
    ti: float | None
    flip: float | None
    field: float | None
    scanning: frozenset[str]
    variant: frozenset[str]
    acquisition: str
    image_type: tuple[str, ...]
    b_value: float | None
    temporal: int
    contrast: ContrastEvidence
    angiography: bool
    body_part: str
    manufacturer: str
    model: str
    description: str
    protocol_name: str
    said_contrast: str
    kind: str = ""
    frame_type: tuple[str, ...] = ()
    acquired_at: float | None = None

    @property
    def words(self) -> str:
        """Description and protocol name in one text."""
        return f"{self.description} {self.protocol_name}".strip()


def text_of(value: object) -> str:
    """A header value as text, without blanks around."""
    return "" if value is None else str(value).strip()


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) < 1e6 else None


def _words(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    parts: Iterable[object] = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    return tuple(word for part in parts if (word := text_of(part).upper()))


_MACROS = (
    "MRTimingAndRelatedParametersSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRImageFrameTypeSequence",
    "MRDiffusionSequence",
    "FrameContentSequence",
    "ContrastBolusUsageSequence",
)


def acquisition_parameters(dataset: Dataset) -> AcquisitionParameters:
    """Read the facts. Never raises for odd values."""
    groups = FunctionalGroups(dataset)
    places = list(groups.places(_MACROS))

    def first(*names: str) -> Any:
        for place in places:
            for name in names:
                value = place.get(name)
                if value is not None and text_of(value):
                    return value
        return None

    scanning = set(_words(first("ScanningSequence")))
    echo = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE"}.get(text_of(first("EchoPulseSequence")).upper())
    scanning |= {echo} if echo else set()
    if text_of(first("InversionRecovery")).upper() == "YES":
        scanning.add("IR")
    if text_of(first("EchoPlanarPulseSequence")).upper() == "YES":
        scanning.add("EP")
    ti = _number(first("InversionTime", "InversionTimes"))
    return AcquisitionParameters(
        modality=text_of(dataset.get("Modality")),
        tr=_number(first("RepetitionTime")),
        te=_number(first("EchoTime", "EffectiveEchoTime")),
        ti=ti if ti and ti > 0 else None,
        flip=_number(first("FlipAngle")),
        field=_number(first("MagneticFieldStrength")),
        scanning=frozenset(scanning),
        variant=frozenset(_words(first("SequenceVariant"))),
        acquisition=text_of(first("MRAcquisitionType")).upper(),
        image_type=_words(dataset.get("ImageType")),
        b_value=_number(first("DiffusionBValue")),
        temporal=int(_number(first("NumberOfTemporalPositions")) or 1),
        contrast=contrast_evidence(places),
        angiography=text_of(first("AngioFlag")).upper() == "Y",
        body_part=text_of(first("BodyPartExamined")).upper(),
        manufacturer=text_of(first("Manufacturer")),
        model=text_of(first("ManufacturerModelName")),
        description=text_of(first("SeriesDescription")),
        protocol_name=text_of(first("ProtocolName")),
        said_contrast=text_of(first("AcquisitionContrast")).upper(),
        kind=image_kind(dataset),
        frame_type=_frame_types(groups),
        acquired_at=_acquired_at(first),
    )


def _frame_types(groups: FunctionalGroups) -> tuple[str, ...]:
    """Values of Frame Type from the third on, of every frame."""
    types = (_words(group.get("FrameType"))[2:] for group in groups.every("MRImageFrameTypeSequence"))
    return tuple(dict.fromkeys(word for words in types for word in words))


def _acquired_at(first: Callable[..., Any]) -> float | None:
    """Acquisition (Date) Time or Frame Acquisition Date Time; only differences within one study mean anything."""
    moment = text_of(first("AcquisitionDateTime", "FrameAcquisitionDateTime"))
    if not moment and text_of(first("AcquisitionDate")):
        moment = text_of(first("AcquisitionDate")).replace(".", "") + text_of(first("AcquisitionTime")).replace(":", "")
    match = re.match(r"(\d{8})(\d{2})(\d{2})(\d{2})?", moment)
    try:
        found = datetime.strptime("".join(part or "00" for part in match.groups()), "%Y%m%d%H%M%S") if match else None
        return found.replace(tzinfo=UTC).timestamp() if found else None
    except (ValueError, OverflowError):
        return None


def to_json(facts: AcquisitionParameters) -> dict[str, Any]:
    """The facts as JSON, to be read again by `from_json`. Holds free text as sent: only to be kept encrypted."""
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(facts).items()}


def from_json(stored: Mapping[str, Any]) -> AcquisitionParameters:
    """Inverse of `to_json`."""
    weighed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["contrast"].items()}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    values |= {name: frozenset(stored[name]) for name in ("scanning", "variant")}
    return AcquisitionParameters(**values | {"contrast": ContrastEvidence(**weighed)})
