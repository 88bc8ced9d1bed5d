"""What an MRI series shows, told from its header: physics first, the description last.

Rules follow from the weighting equations of spin and gradient echoes and from the ranges scanners are run with at 1.5 T
and 3 T; every answer carries a confidence and the numbers that led to it, and a person may override it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset

from imaging.models import InstanceState, Sequence

if TYPE_CHECKING:
    from imaging.models import Series, Study

__all__ = ["HEADER_TAGS", "Recognition", "best_series", "recognise", "recognise_name"]

_HEADER_TAGS = (
    "Modality ImageType ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime "
    "InversionTime FlipAngle EchoTrainLength ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusVolume "
    "DiffusionBValue NumberOfTemporalPositions SeriesDescription ProtocolName PulseSequenceName EchoPulseSequence "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence InversionRecovery AcquisitionContrast "
    "MagneticFieldStrength SliceThickness "
)
HEADER_TAGS = tuple(_HEADER_TAGS.split())

# ImageType values 3 and later (PS3.3 C.8.3.1.1.1 and what scanners write) that no anatomical volume has.
_NOT_ANATOMY = (
    "LOCALIZER ADC FA TRACEW TRACE EADC DIFFUSION PERFUSION TTP MTT RCBV RCBF CBV CBF SUBTRACTION SUB MIP MINIP "
    "MNIP SWI MIP_SWI PHASE_MAP VELOCITY PHASE PROJECTION CSAPARALLEL MOSAIC SCREENSAVE FMRI ASL TENSOR "
    "T2_STAR_WEIGHTED SPECTROSCOPY DIFFUSION_ANISO "
)
NOT_ANATOMY = frozenset(_NOT_ANATOMY.split())
NO_CONTRAST = re.compile(r"^\s*(no|none|nil|n/?a|without|non[- ]?contrast|0)?\s*$", re.IGNORECASE)
SAYS_CONTRAST = re.compile(
    r"(\bpost\b|\bpost[_ -]?(gd|gad|con|km)|gadolin|(?<![a-z])gad(o)?(?![a-z])|(?<![a-z])gd(?![a-z])|\+\s?c\b|\bt1[_ -]?c\b|"
    r"\bt1ce\b|(?<![a-z])ce(?![a-z])|contrast|(?<![a-z])km(?![a-z])|\bwith c\b)",
    re.IGNORECASE,
)
SAYS_NO_CONTRAST = re.compile(
    r"(\bpre\b|\bnativ|without|w/o|non[-_ ]?contrast|\bno[-_ ]?(gd|gad|contrast|km)\b|-\s?c\b)", re.I
)
DESCRIPTIONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        Sequence.OTHER,
        re.compile(
            r"(localizer|scout|survey|\bdwi\b|\bdti\b|diff|\badc\b|swi\b|\bswan\b|t2\s?\*|t2star|hemo|"
            r"perf|\basl\b|\bbold\b|fmri|\btof\b|angio|\bmra\b|spectro|b0\b|field ?map|mip\b|\bsub\b)",
            re.I,
        ),
    ),
    (Sequence.FLAIR, re.compile(r"(flair|dark[- _]?fluid|tirm)", re.I)),
    (Sequence.T2, re.compile(r"(?<![a-z0-9])t2(?![0-9*])", re.I)),
    (
        Sequence.T1,
        re.compile(
            r"((?<![a-z0-9])t1(?![0-9])|mp-?rage|spgr|bravo|\btfl\b|\bflash\b|\bfspgr\b|\bvibe\b|\bthrive\b)", re.I
        ),
    ),
)


@dataclass(frozen=True)
class Recognition:
    """The answer for one series.

    :param sequence: a value of `imaging.models.Sequence`.
    :param confidence: 0 to 1.
    :param reason: the numbers and words that led to it; contains nothing of a patient.
    :param parameters: the acquisition facts used (times in ms, angles in degrees), for display.
    """

    sequence: str
    confidence: float
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Facts:
    """Header facts of a classic or enhanced MR image, None where not given."""

    tr: float | None
    te: float | None
    ti: float | None
    flip: float | None
    scanning: frozenset[str]
    acquisition: str
    image_type: tuple[str, ...]
    b_value: float | None
    temporal: int
    contrast: bool
    description: str
    field_strength: float | None
    said_contrast: str  # AcquisitionContrast (0008,9209) of enhanced images


def recognise(dataset: Dataset) -> Recognition:
    """What the series of ``dataset`` (a header; pixels not needed) shows. Never raises for odd values."""
    modality = _text(dataset.get("Modality"))
    if modality != "MR":
        return Recognition(Sequence.OTHER, 1.0, "not a magnetic resonance image")
    facts = _facts(dataset)
    parameters = _parameters(facts)
    found = _not_anatomy(facts) or _by_physics(facts)
    described = _described(facts.description)
    if found is None:
        if described is None:
            return Recognition(
                Sequence.UNKNOWN, 0.0, "no echo and repetition time, and no telling description", parameters
            )
        found = (described, 0.5, "no echo and repetition time; told from the description only")
    sequence, confidence, reason = found
    if described is not None and described != sequence and confidence < 1.0:
        confidence = round(confidence * 0.8, 2)
        reason += f"; the description speaks of {Sequence(described).label}"
    if sequence == Sequence.T1:
        sequence, confidence, reason = _contrast(facts, confidence, reason)
    return Recognition(sequence, confidence, reason, parameters)


def recognise_name(name: str) -> str | None:
    """The sequence a NIfTI file name declares by convention (``*_t1.nii.gz``, ``-t1c``, ``_t1gd``, ``_t2``, ``_flair``).

    Only a convenience of the ingest command, which shows what it took; None when the name says nothing.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", name.lower())
    ending = re.split(r"[-_ .]", stem)[-1]
    return {
        "t1": Sequence.T1, "t1n": Sequence.T1, "t1w": Sequence.T1, "t1pre": Sequence.T1,
        "t1c": Sequence.T1C, "t1gd": Sequence.T1C, "t1ce": Sequence.T1C, "t1post": Sequence.T1C,
        "t2": Sequence.T2, "t2w": Sequence.T2,
        "fla": Sequence.FLAIR, "flair": Sequence.FLAIR, "t2f": Sequence.FLAIR,
    }.get(ending)  # fmt: skip


def best_series(study: Study) -> dict[str, Series]:
    """For each of T1, T1c, T2 and FLAIR that the study has, the series to use.

    A person's override wins; then confidence, 3D acquisition, and the number of images.
    """
    best: dict[str, tuple[tuple[Any, ...], Series]] = {}
    for series in study.series.filter(sequence__in=(Sequence.T1, Sequence.T1C, Sequence.T2, Sequence.FLAIR)):
        images = series.instances.exclude(state=InstanceState.QUARANTINED).count()
        if series.nifti_id is None and images == 0:
            continue
        rank = (
            series.overridden_by_id is not None,
            round(series.sequence_confidence, 1),
            series.parameters.get("MRAcquisitionType") == "3D",
            series.nifti_id is not None,
            images,
            -(series.number or 0),
        )
        if series.sequence not in best or rank > best[series.sequence][0]:
            best[series.sequence] = (rank, series)
    return {sequence: series for sequence, (_, series) in best.items()}


def _text(value: object) -> str:
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
    return tuple(word for part in parts if (word := _text(part).upper()))


def _groups(dataset: Dataset) -> list[Dataset]:
    """Where a fact may stand: the data set itself, its shared groups, its first frame's groups."""
    places = [dataset]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.get(name)
        if not items:
            continue
        for macro in ("MRTimingAndRelatedParametersSequence", "MREchoSequence", "MRModifierSequence",
                      "MRImageFrameTypeSequence", "MRDiffusionSequence", "ContrastBolusUsageSequence"):  # fmt: skip
            if group := items[0].get(macro):
                places.append(group[0])
    return places


def _facts(dataset: Dataset) -> _Facts:
    places = _groups(dataset)

    def first(*names: str) -> Any:
        for place in places:
            for name in names:
                value = place.get(name)
                if value is not None and _text(value):
                    return value
        return None

    scanning = set(_words(dataset.get("ScanningSequence")))
    echo = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE"}.get(_text(dataset.get("EchoPulseSequence")).upper())
    scanning |= {echo} if echo else set()
    if _text(first("InversionRecovery")).upper() == "YES":
        scanning.add("IR")
    if _text(first("EchoPlanarPulseSequence")).upper() == "YES":
        scanning.add("EP")
    agent = dataset.get("ContrastBolusAgent")
    contrast = bool(dataset.get("ContrastBolusAgentSequence")) or (
        agent is not None and not NO_CONTRAST.match(_text(agent))
    )
    ti = _number(first("InversionTime", "InversionTimes"))
    return _Facts(
        tr=_number(first("RepetitionTime")),
        te=_number(first("EchoTime", "EffectiveEchoTime")),
        ti=ti if ti and ti > 0 else None,
        flip=_number(first("FlipAngle")),
        scanning=frozenset(scanning),
        acquisition=_text(first("MRAcquisitionType")).upper(),
        image_type=_words(dataset.get("ImageType")),
        b_value=_number(first("DiffusionBValue")),
        temporal=int(_number(first("NumberOfTemporalPositions")) or 1),
        contrast=contrast,
        description=" ".join(_text(dataset.get(name)) for name in ("SeriesDescription", "ProtocolName")).strip(),
        field_strength=_number(dataset.get("MagneticFieldStrength")),
        said_contrast=_text(first("AcquisitionContrast")).upper(),
    )


def _parameters(facts: _Facts) -> dict[str, Any]:
    acquisition = facts.acquisition if facts.acquisition in ("2D", "3D") else None
    values = {
        "RepetitionTime": facts.tr,
        "EchoTime": facts.te,
        "InversionTime": facts.ti,
        "FlipAngle": facts.flip,
        "MRAcquisitionType": acquisition,
        "MagneticFieldStrength": facts.field_strength,
        "ScanningSequence": sorted(facts.scanning & {"SE", "IR", "GR", "EP", "RM"}),
        "ContrastBolusAgent": "given" if facts.contrast else "not given",
    }
    return {name: value for name, value in values.items() if value is not None}


def _not_anatomy(facts: _Facts) -> tuple[str, float, str] | None:
    telling = [word for word in facts.image_type[2:] if word in NOT_ANATOMY]
    if telling:
        return Sequence.OTHER, 0.98, f"image type {telling[0].lower().replace('_', ' ')}"
    if facts.image_type[:1] == ("DERIVED",) and facts.image_type[1:2] == ("SECONDARY",):
        return Sequence.OTHER, 0.85, "derived secondary image"
    if facts.b_value is not None and facts.b_value > 0:
        return Sequence.OTHER, 0.98, f"diffusion, b {facts.b_value:g}"
    if facts.temporal > 1:
        return Sequence.OTHER, 0.9, f"{facts.temporal} time points"
    if "EP" in facts.scanning:
        return Sequence.OTHER, 0.9, "echo planar (diffusion, perfusion or functional)"
    if facts.said_contrast in {"DIFFUSION", "PERFUSION", "FLOW_ENCODED", "TAGGING", "SPECTROSCOPY", "TOF"}:
        return Sequence.OTHER, 0.95, "acquisition contrast of another kind"
    return None


def _by_physics(facts: _Facts) -> tuple[str, float, str] | None:
    """Weighting from TR, TE and TI; None without an echo time or a repetition time."""
    tr, te, ti = facts.tr, facts.te, facts.ti
    if tr is None or te is None:
        return None
    told = f"TR {tr:g} ms, TE {te:g} ms" + (f", TI {ti:g} ms" if ti else "")
    gradient, spin = "GR" in facts.scanning and "SE" not in facts.scanning, "SE" in facts.scanning
    sure = 0.95 if gradient or spin else 0.8
    if ti and ti >= 1400 and tr >= 3500 and te >= 60:
        return Sequence.FLAIR, sure, f"{told}: inversion nulls fluid, long echo"
    if gradient or (not spin and tr < 100 and te < 20):
        return _gradient(facts, told, sure)
    if ti and te <= 30 and ti <= 1400:
        return Sequence.T1, sure, f"{told}: inversion recovery with a short echo"
    if ti and te > 30 and ti < 400:
        return Sequence.OTHER, 0.8, f"{told}: fat-nulling inversion"
    if tr <= 1300 and te <= 40:
        return Sequence.T1, sure, f"{told}: short repetition, short echo"
    if tr >= 1800 and te >= 65:
        if "IR" in facts.scanning:
            return Sequence.FLAIR, 0.7, f"{told}: inversion recovery with a long echo, inversion time not given"
        return Sequence.T2, sure, f"{told}: long repetition, long echo, no inversion"
    if tr >= 1800 and te < 65:
        return Sequence.OTHER, 0.75, f"{told}: proton density"
    return Sequence.UNKNOWN, 0.3, f"{told}: no clear weighting"


def _gradient(facts: _Facts, told: str, sure: float) -> tuple[str, float, str]:
    te, tr, flip = facts.te or 0.0, facts.tr or 0.0, facts.flip
    if te > 12:
        return Sequence.OTHER, 0.9, f"{told}: gradient echo with a long echo (susceptibility)"
    if facts.ti and facts.ti <= 1500:
        return Sequence.T1, sure, f"{told}: magnetisation-prepared gradient echo"
    if flip is None:
        return Sequence.T1, 0.6, f"{told}: gradient echo with a short echo, flip angle not given"
    if (tr <= 60 and flip >= 7) or (tr <= 600 and flip >= 40):
        # An angiogram by inflow has the same numbers; its description tells, and lowers the confidence.
        return Sequence.T1, min(sure, 0.9), f"{told}, flip {flip:g}°: spoiled gradient echo"
    return Sequence.OTHER, 0.6, f"{told}, flip {flip:g}°: gradient echo without T1 weighting"


def _described(description: str) -> str | None:
    for sequence, pattern in DESCRIPTIONS:
        if pattern.search(description):
            return sequence
    return None


def _contrast(facts: _Facts, confidence: float, reason: str) -> tuple[str, float, str]:
    """T1 or T1c: the header's contrast agent decides; the description only where the header is silent."""
    says_yes = bool(SAYS_CONTRAST.search(facts.description)) and not SAYS_NO_CONTRAST.search(facts.description)
    says_no = bool(SAYS_NO_CONTRAST.search(facts.description))
    if facts.contrast:
        if says_no:
            return (
                Sequence.T1C,
                round(confidence * 0.7, 2),
                f"{reason}; contrast agent in the header, the description denies it",
            )
        return Sequence.T1C, confidence, f"{reason}; contrast agent in the header"
    if says_yes:
        return Sequence.T1C, round(confidence * 0.8, 2), f"{reason}; contrast agent only in the description"
    return Sequence.T1, confidence if says_no else round(confidence * 0.95, 2), f"{reason}; no contrast agent"
