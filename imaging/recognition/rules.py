"""What an MRI series shows, told from its header: physics first, the description last.

Rules follow from the weighting equations of spin and gradient echoes and from the ranges scanners are run with at 1.5 T
and 3 T; every answer carries a confidence and the numbers that led to it, and a person may override it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom.dataset import Dataset

from imaging.dicom.acquisition import AcquisitionParameters, acquisition_parameters
from imaging.dicom.contrast_agent import contrast_words
from imaging.dicom.image_kind import kind_in_words
from imaging.models import MrSequence
from oncoflow_site.foundation.schema import JsonDict

__all__ = [
    "Recognition",
    "described_sequence",
    "recognise",
    "recognise_facts",
    "recognise_name",
    "telling_words",
    "weighting",
]


# Words of Image Type values 3 and later (PS3.3 C.8.3.1.1.1 and what scanners write) that no anatomical volume has.
_NOT_ANATOMY = (
    "LOCALIZER ADC EADC FA TRACEW TRACE DIFFUSION PERFUSION TTP MTT TMAX RCBV RCBF RELCBF RELCBV CBV CBF "
    "SWI VELOCITY MOSAIC SCREENSAVE SCREEN FMRI ASL TENSOR T2_STAR_WEIGHTED "
    "T2_STAR SPECTROSCOPY DIFFUSION_ANISO DIFFUSION_ISO ISO QSM MAP TMAP T1MAP T2MAP FIELD_MAP B0 B1 PCA TOF PC ZSCORE "
    "COLFA EXP BOLD MEANS"
)
NOT_ANATOMY = frozenset(_NOT_ANATOMY.split())
HEAD = frozenset(
    {"", "HEAD", "BRAIN", "SKULL", "HEADNECK", "HEAD_NECK", "CEREBRUM", "HIRN", "KOPF", "SCHAEDEL", "NEURO"}
)
# Kinds that share the numbers of a T1 or T2 (an inflow angiogram, a scout, the b = 0 image) but are none: believed.
SAYS_OTHER = re.compile(
    r"(locali[sz]er|scout|survey|3[- ]?pl(ane)?(?![a-z])|calibration|asset|(?<![a-z])dwi|(?<![a-z])dti|dif{1,2}(?![a-z])|"
    r"diffusion|(?<![a-z])e?adc(?![a-z])|trace|swi|(?<![a-z])swan(?![a-z])|venobold|suscept|t2w?[ _-]?(\*|star|ffe)|"
    r"hemo|haemo|(?<![a-z])gre[_ -]?t2|perf|(?<![a-z])dce|(?<![a-z])dsc(?![a-z])|dynamic|(?<![a-z])dyn(?![a-z])|"
    r"twist|tricks|(?<![a-z])p?c?asl(?![a-z])|bold|fmri|(?<![a-z])rest(?![a-z])|(?<![a-z])tof|angio|(?<![a-z])c?e?[-_ ]?mra|"
    r"(?<![a-z])s?3di(?![a-z])|(?<![a-z])mrv|(?<![a-z])pca?(?![a-z])|phase[ _-]?contrast|spectro|"
    r"(?<![a-z])(csi|svs|press)(?![a-z])|"
    r"(?<![a-z])b[01](?![0-9a-z])|field[ _-]?map|(?<![a-z])min?ip|(?<![a-z])mip|(?<![a-z])subtr?(?![a-z])|subtraction|"
    r"(?<![a-z])dir(?![a-z])|double[ _-]inv|(?<![a-z])stir|fiesta|(?<![a-z])ciss|true[ -]?fi|b-?ssfp|b[-_ ]?ffe|balanced|"
    r"t[12][ _-]?map|inv[12](?![0-9])|(?<![a-z])qsm|proton|(?<![a-z])pdw?(?![a-z])|(?<![a-z])mtc?(?![a-z])|cine|"
    r"spine|wirbel|(?<![a-z])(c|t|l)[-_ ]?sp(?![a-z])|lumb|cervical|thorac|orbit|(?<![a-z])iac(?![a-z])|pituit|sella|hypophy)",
    re.IGNORECASE,
)
DESCRIPTIONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (MrSequence.OTHER, SAYS_OTHER),
    (MrSequence.FLAIR, re.compile(r"(flair|dark[- _]?fluid|(?<![a-z])tirm)", re.I)),
    (MrSequence.T2, re.compile(r"(?<![a-z0-9])t2(?![0-9*])", re.I)),
    (
        MrSequence.T1,
        re.compile(
            r"((?<![a-z0-9])s?t1(?![0-9])|mp-?rage|spgr|bravo|\btfl\b|\bflash\b|\bfspgr\b|\bvibe\b|\bthrive\b)", re.I
        ),
    ),
)
FLAIR_T1 = re.compile(r"(?<![a-z0-9])t1[ _-]*(w[ _-]*)?(3d[ _-]*)?(flair|tirm|dark[-_ ]?fluid)", re.I)


@dataclass(frozen=True)
class Recognition:
    """The answer for one series.

    :param sequence: a value of `imaging.models.Sequence`.
    :param confidence: 0 to 1.
    :param reason: the numbers and words that led to it; contains nothing of a patient.
    :param parameters: the acquisition facts used (times in ms, angles in degrees), for display.
    :param question: what a person has to say before the answer may be used; empty where nothing is open.
    """

    sequence: str
    confidence: float
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    question: str = ""


def recognise(dataset: Dataset) -> Recognition:
    """What the series of ``dataset`` (a header; pixels not needed) shows. Never raises for odd values."""
    return recognise_facts(acquisition_parameters(dataset))


def recognise_facts(facts: AcquisitionParameters) -> Recognition:
    """The answer for facts that are read already."""
    if facts.modality != "MR":
        return Recognition(MrSequence.OTHER, 1.0, "not a magnetic resonance image")
    parameters = _parameters(facts)
    words = telling_words(facts)
    described = described_sequence(words)
    found = _not_anatomy(facts)
    if found is None and (kind := kind_in_words(words)):
        return Recognition(MrSequence.OTHER, 0.8, f"the description names it: {kind}", parameters)
    if found is None and described == MrSequence.OTHER:
        # A missed series is flagged and a person can say what it shows; a wrong name would be segmented.
        found = (MrSequence.OTHER, 0.8, "the description names another kind of series")
    found = found or _by_physics(facts)
    if found is None:
        if described is None:
            return Recognition(
                MrSequence.UNKNOWN, 0.0, "no echo and repetition time, and no telling description", parameters
            )
        found = (described, 0.5, "no echo and repetition time; told from the description only")
    sequence, confidence, reason = found
    if described not in (None, MrSequence.OTHER) and described != sequence and confidence < 0.98:
        confidence = round(confidence * 0.8, 2)
        reason += f"; the description speaks of {MrSequence(described).label}"
        if {sequence, described} == {MrSequence.T2, MrSequence.FLAIR} and facts.ti is None:
            # Without an inversion time the numbers of the two are the same.
            return Recognition(MrSequence.UNKNOWN, 0.3, f"{reason}, and no inversion time is given", parameters)
        if not facts.scanning & {"SE", "GR"}:
            return Recognition(MrSequence.UNKNOWN, 0.3, f"{reason}, and the kind of echo is not given", parameters)
    if not words and (doubt := _needs_words(facts, sequence)):
        return Recognition(MrSequence.UNKNOWN, 0.4, f"{reason}; {doubt}", parameters)
    if sequence == MrSequence.T1:
        return _contrast(facts, words, Recognition(sequence, confidence, reason, parameters))
    return Recognition(sequence, confidence, reason, parameters)


def telling_words(facts: AcquisitionParameters) -> str:
    """The words that speak of this series: GE writes the examination's name into Protocol Name, for every series of it."""
    if facts.description and re.match(r"ge(?![a-z])|general electric", facts.manufacturer, re.I):
        return facts.description
    return facts.words


def recognise_name(name: str) -> str | None:
    """The sequence a NIfTI file name declares by convention (``*_t1.nii.gz``, ``-t1c``, ``_t1gd``, ``_t2``, ``_flair``).

    Only a convenience of the ingest command, which shows what it took; None when the name says nothing.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", name.lower())
    ending = re.split(r"[-_ .]", stem)[-1]
    return {
        "t1": MrSequence.T1, "t1n": MrSequence.T1, "t1w": MrSequence.T1, "t1pre": MrSequence.T1,
        "t1c": MrSequence.T1C, "t1gd": MrSequence.T1C, "t1ce": MrSequence.T1C, "t1post": MrSequence.T1C,
        "t2": MrSequence.T2, "t2w": MrSequence.T2,
        "fla": MrSequence.FLAIR, "flair": MrSequence.FLAIR, "t2f": MrSequence.FLAIR,
    }.get(ending)  # fmt: skip


def _parameters(facts: AcquisitionParameters) -> JsonDict:
    acquisition = facts.acquisition if facts.acquisition in ("2D", "3D") else None
    values: JsonDict = {
        "RepetitionTime": facts.tr,
        "EchoTime": facts.te,
        "InversionTime": facts.ti,
        "FlipAngle": facts.flip,
        "MRAcquisitionType": acquisition,
        "MagneticFieldStrength": facts.field,
        "ScanningSequence": [*sorted(facts.scanning & {"SE", "IR", "GR", "EP", "RM"})],
        "ContrastBolusAgent": _contrast_state(facts),
    }
    return {name: value for name, value in values.items() if value is not None}


def _contrast_state(facts: AcquisitionParameters) -> str:
    if bool(facts.contrast.given) == bool(facts.contrast.denied):
        return "unclear" if facts.contrast.stated else "not given"
    return "given" if facts.contrast.given else "not given"


def _not_anatomy(facts: AcquisitionParameters) -> tuple[str, float, str] | None:
    if facts.kind:
        return MrSequence.OTHER, 0.98, f"image type: {facts.kind}"
    values = (*facts.image_type[2:], *facts.frame_type)
    words = [word for value in values for word in (value, *re.split(r"[^A-Z0-9]+", value))]
    telling = [word for word in words if word in NOT_ANATOMY]
    if telling:
        return MrSequence.OTHER, 0.98, f"image type {telling[0].lower().replace('_', ' ')}"
    if facts.body_part not in HEAD and not facts.body_part.startswith(("HEAD", "BRAIN")):
        return MrSequence.OTHER, 0.9, "another part of the body"
    if facts.angiography:
        return MrSequence.OTHER, 0.95, "angiography (flagged by the scanner)"
    if facts.image_type[:1] == ("DERIVED",) and facts.image_type[1:2] == ("SECONDARY",):
        return MrSequence.OTHER, 0.85, "derived secondary image"
    if facts.b_value is not None and facts.b_value > 0:
        return MrSequence.OTHER, 0.98, f"diffusion, b {facts.b_value:g}"
    if facts.temporal > 1:
        return MrSequence.OTHER, 0.9, f"{facts.temporal} time points"
    if "EP" in facts.scanning:
        return MrSequence.OTHER, 0.9, "echo planar (diffusion, perfusion or functional)"
    if facts.said_contrast in {"DIFFUSION", "PERFUSION", "FLOW_ENCODED", "TAGGING", "SPECTROSCOPY", "TOF"}:
        return MrSequence.OTHER, 0.95, "acquisition contrast of another kind"
    return None


def weighting(facts: AcquisitionParameters) -> str | None:
    """The sequence by its numbers alone; None without them."""
    found = _by_physics(facts)
    return found[0] if found else None


def _by_physics(facts: AcquisitionParameters) -> tuple[str, float, str] | None:
    """Weighting from TR, TE and TI; None without an echo time or a repetition time."""
    tr, te, ti = facts.tr, facts.te, facts.ti
    if tr is None or te is None:
        return None
    told = f"TR {tr:g} ms, TE {te:g} ms" + (f", TI {ti:g} ms" if ti else "")
    gradient, spin = "GR" in facts.scanning and "SE" not in facts.scanning, "SE" in facts.scanning
    sure = 0.95 if gradient or spin else 0.8
    if ti and ti >= 1400 and tr >= 3500 and te >= 60:
        return MrSequence.FLAIR, sure, f"{told}: inversion nulls fluid, long echo"
    if gradient or (not spin and tr < 100):
        return _gradient(facts, told, sure)
    if ti and ti <= 350 and tr >= 1800:
        return MrSequence.OTHER, 0.8, f"{told}: fat-nulling inversion"
    if ti and te <= 30 and ti <= 1400:
        return MrSequence.T1, sure, f"{told}: inversion recovery with a short echo"
    if ti and te > 30 and ti < 400:
        return MrSequence.OTHER, 0.8, f"{told}: fat-nulling inversion"
    if tr <= 1300 and te <= 40:
        return MrSequence.T1, sure, f"{told}: short repetition, short echo"
    if tr >= 1800 and te >= 65:
        if "IR" in facts.scanning:
            return MrSequence.FLAIR, 0.7, f"{told}: inversion recovery with a long echo, inversion time not given"
        return MrSequence.T2, sure, f"{told}: long repetition, long echo, no inversion"
    if tr >= 1800 and te < 65:
        return MrSequence.OTHER, 0.75, f"{told}: proton density"
    return MrSequence.UNKNOWN, 0.3, f"{told}: no clear weighting"


def _needs_words(facts: AcquisitionParameters, sequence: str) -> str:
    """Why the numbers alone cannot tell, where nothing describes the series; empty where they can."""
    if sequence == MrSequence.T1 and "SE" not in facts.scanning and facts.ti is None:
        if "T1" not in facts.image_type and not ("MP" in facts.variant and facts.acquisition == "3D"):
            return "a scout or an angiogram has the same numbers, and there is no description"
    if sequence == MrSequence.T2 and facts.b_value is not None:
        return "a diffusion series may begin with such an image, and there is no description"
    return ""


def _gradient(facts: AcquisitionParameters, told: str, sure: float) -> tuple[str, float, str]:
    te, tr, flip = facts.te or 0.0, facts.tr or 0.0, facts.flip
    if tr < 15 and (flip or 0.0) >= 35 and not facts.ti:
        return MrSequence.OTHER, 0.8, f"{told}, flip {flip:g}°: balanced steady state"
    if "SS" in facts.variant and "SP" not in facts.variant and tr < 15 and not facts.ti:
        return MrSequence.OTHER, 0.8, f"{told}: steady state without spoiling"
    if te > 12:
        return MrSequence.OTHER, 0.9, f"{told}: gradient echo with a long echo (susceptibility)"
    if facts.ti and facts.ti <= 1500:
        return MrSequence.T1, sure, f"{told}: magnetisation-prepared gradient echo"
    if flip is None:
        return MrSequence.T1, 0.6, f"{told}: gradient echo with a short echo, flip angle not given"
    if (tr <= 60 and flip >= 7) or (tr <= 600 and flip >= 40):
        # An angiogram by inflow has the same numbers; its description tells, and lowers the confidence.
        return MrSequence.T1, min(sure, 0.9), f"{told}, flip {flip:g}°: spoiled gradient echo"
    return MrSequence.OTHER, 0.6, f"{told}, flip {flip:g}°: gradient echo without T1 weighting"


def described_sequence(description: str) -> str | None:
    """What the words name: a value of `imaging.models.MrSequence`, None where they name nothing."""
    if FLAIR_T1.search(description) and not SAYS_OTHER.search(description):
        return MrSequence.T1  # an inversion recovery T1, as one vendor names it
    for sequence, pattern in DESCRIPTIONS:
        if pattern.search(description):
            return sequence
    return None


def _contrast(facts: AcquisitionParameters, words: str, found: Recognition) -> Recognition:
    """T1 or T1c: the elements about contrast, the time of the bolus and the description weighed together.

    A contradiction is nobody's to resolve but a person's: the series is not used until one says what it shows.
    """
    evidence, said = facts.contrast, contrast_words(words)
    given, denied = list(evidence.given), list(evidence.denied)
    if evidence.start is not None and facts.acquired_at is not None and facts.acquired_at % 86400 < evidence.start - 1:
        denied.append("the time of the bolus, after the acquisition")
    header = ""
    if given and denied:
        header = f"the header contradicts itself about contrast ({', '.join(given)} against {', '.join(denied)})"
    elif given and said.denied and not said.given:
        header = "contrast agent in the header, the description denies it"
    elif denied and said.given and not said.denied:
        header = "the header says that no contrast was given, the description that it was"
    elif not given and not denied and said.given and said.denied:
        header = "the description says both with and without contrast"
    elif not given and not denied and evidence.hinted and not said.given and not said.denied:
        header = f"the header hints at contrast without saying so ({', '.join(evidence.hinted)})"
    if header:
        return replace(
            found,
            sequence=MrSequence.UNKNOWN,
            confidence=0.4,
            reason=f"{found.reason}; {header}",
            question="Was this T1-weighted series acquired before or after contrast agent?",
        )
    if given:
        return replace(found, sequence=MrSequence.T1C, reason=f"{found.reason}; contrast agent in the header")
    if denied:
        return replace(found, reason=f"{found.reason}; the header says that no contrast agent was given")
    if said.given:
        confidence = round(found.confidence * (0.9 if evidence.hinted else 0.8), 2)
        reason = f"{found.reason}; contrast agent only in the description"
        return replace(found, sequence=MrSequence.T1C, confidence=confidence, reason=reason)
    if said.denied:
        return replace(found, reason=f"{found.reason}; no contrast agent")
    if not words:
        reason = f"{found.reason}; nothing says whether contrast was given"
        return replace(found, confidence=round(found.confidence * 0.65, 2), reason=reason)
    return replace(found, confidence=round(found.confidence * 0.95, 2), reason=f"{found.reason}; no contrast agent")
