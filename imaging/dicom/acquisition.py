"""What an MR image's header says about its acquisition, classic or enhanced, read once and in plain numbers and words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

__all__ = ["HEADER_TAGS", "AcquisitionParameters", "acquisition_parameters", "text_of"]

_HEADER_TAGS = (
    "Modality ImageType ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime "
    "InversionTime FlipAngle EchoTrainLength ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusVolume "
    "DiffusionBValue NumberOfTemporalPositions SeriesDescription ProtocolName PulseSequenceName EchoPulseSequence "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence InversionRecovery AcquisitionContrast "
    "MagneticFieldStrength SliceThickness AngioFlag BodyPartExamined Manufacturer ManufacturerModelName SequenceName"
)
HEADER_TAGS = tuple(_HEADER_TAGS.split())
NO_CONTRAST = frozenset({"", "NO", "NONE", "NIL", "N/A", "NA", "WITHOUT", "NON CONTRAST", "NON-CONTRAST", "0"})


@dataclass(frozen=True)
class AcquisitionParameters:
    """Header facts, None or empty where not given. Times in ms, angles in degrees, field in tesla.

    :param image_type: words of the values of Image Type, upper case, split at anything but letters and digits.
    :param contrast: whether the header names a contrast agent. :param contrast_stated: whether it has the attribute.
    :param description: Series Description and Protocol Name as sent: may hold a name, never shown.
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
    contrast: bool
    contrast_stated: bool
    angiography: bool
    body_part: str
    manufacturer: str
    model: str
    description: str
    said_contrast: str


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


def _groups(dataset: Dataset) -> list[Dataset]:
    """Where a fact may stand: the data set itself, its shared groups, its first frame's groups."""
    places = [dataset]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.get(name)
        if not items or not isinstance(items, Sequence):  # a sequence may come with any value representation
            continue
        for macro in ("MRTimingAndRelatedParametersSequence", "MREchoSequence", "MRModifierSequence",
                      "MRImageFrameTypeSequence", "MRDiffusionSequence", "ContrastBolusUsageSequence"):  # fmt: skip
            group = items[0].get(macro)
            if group and isinstance(group, Sequence):
                places.append(group[0])
    return places


def acquisition_parameters(dataset: Dataset) -> AcquisitionParameters:
    """Read the facts. Never raises for odd values."""
    places = _groups(dataset)

    def first(*names: str) -> Any:
        for place in places:
            for name in names:
                value = place.get(name)
                if value is not None and text_of(value):
                    return value
        return None

    scanning = set(_words(dataset.get("ScanningSequence")))
    echo = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE"}.get(text_of(dataset.get("EchoPulseSequence")).upper())
    scanning |= {echo} if echo else set()
    if text_of(first("InversionRecovery")).upper() == "YES":
        scanning.add("IR")
    if text_of(first("EchoPlanarPulseSequence")).upper() == "YES":
        scanning.add("EP")
    agent = dataset.get("ContrastBolusAgent")
    contrast = bool(dataset.get("ContrastBolusAgentSequence")) or (text_of(agent).upper() not in NO_CONTRAST)
    ti = _number(first("InversionTime", "InversionTimes"))
    return AcquisitionParameters(
        modality=text_of(dataset.get("Modality")),
        tr=_number(first("RepetitionTime")),
        te=_number(first("EchoTime", "EffectiveEchoTime")),
        ti=ti if ti and ti > 0 else None,
        flip=_number(first("FlipAngle")),
        field=_number(dataset.get("MagneticFieldStrength")),
        scanning=frozenset(scanning),
        variant=frozenset(_words(dataset.get("SequenceVariant"))),
        acquisition=text_of(first("MRAcquisitionType")).upper(),
        image_type=_words(dataset.get("ImageType")),
        b_value=_number(first("DiffusionBValue")),
        temporal=int(_number(first("NumberOfTemporalPositions")) or 1),
        contrast=contrast,
        contrast_stated=agent is not None,
        angiography=text_of(dataset.get("AngioFlag")).upper() == "Y",
        body_part=text_of(dataset.get("BodyPartExamined")).upper(),
        manufacturer=text_of(dataset.get("Manufacturer")),
        model=text_of(dataset.get("ManufacturerModelName")),
        description=" ".join(text_of(dataset.get(name)) for name in ("SeriesDescription", "ProtocolName")).strip(),
        said_contrast=text_of(first("AcquisitionContrast")).upper(),
    )
