"""What kind of image it is that a header describes: acquired, or made of others; which Dixon part; which component.

From Image Type (PS3.3 C.7.6.1.1.2, C.8.3.1.1.1, and for enhanced objects C.8.13.3.1.1), from Frame Type of every frame, and from
the attributes that say the same in enhanced objects (Complex Image Component, Volume Based Calculation Technique). A value
is looked up whole before its words are: IN_PHASE is a Dixon part, PHASE is a component.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom.dataset import Dataset

from imaging.dicom.functional_groups import FunctionalGroups

__all__ = ["IMAGE_KIND_TAGS", "image_kind", "kind_in_words"]

IMAGE_KIND_TAGS = ("ImageType", "ComplexImageComponent", "VolumeBasedCalculationTechnique")

_DIXON_FAT = "fat image (Dixon)"
_DIXON_OUT = "opposed-phase image (Dixon)"
_FRACTION = "fat or water fraction map (Dixon)"
_SUBTRACTION = "subtraction of two series"
_PROJECTION = "intensity projection"
_REFORMAT = "reformatted from another series"
_PHASE = "phase image"
_COMPLEX = "real or imaginary component"
_SYNTHETIC = "synthetic image"

# Values taken whole, blanks and hyphens as underscores. "" is an image that shows anatomy as the sequence does.
_KINDS: tuple[tuple[str, str], ...] = (
    ("", "IN_PHASE INPHASE IN_PHASE_IMAGE IP DIXON_IN DIXON_IP WATER W WATER_ONLY DIXON_W DIXON_WATER"),
    ("", "M MAGNITUDE MAG M_SE M_IR M_FFE M_TFE M_GE"),
    (_DIXON_FAT, "FAT F FAT_ONLY DIXON_F DIXON_FAT LIPID"),
    (_DIXON_OUT, "OUT_OF_PHASE OUT_PHASE OUTPHASE OPP_PHASE OPPOSED_PHASE OPPPHASE OPPOSED OP OOP DIXON_OPP DIXON_OP"),
    (_FRACTION, "FAT_FRACTION FATFRACTION FATFRAC FF WATER_FRACTION WF PDFF"),
    (_SUBTRACTION, "SUBTRACTION SUB SUBTRACTED SUBT SUBTRACT DIFFERENCE"),
    (_PROJECTION, "MIP MAX_IP MIN_IP MINIP MNIP MAXIP PROJECTION PROJECTION_IMAGE MEAN_IP"),
    (_REFORMAT, "MPR CSA_MPR CSAMPR CURVED_MPR CPR REFORMATTED REFORMAT MPR_THICK CSAPARALLEL RESAMPLED"),
    (_REFORMAT, "VOLUME_RENDER SURFACE_RENDER VRT SSD"),
    (_PHASE, "P PHASE PHASE_MAP PHASEMAP PHASE_DIFFERENCE PHASE_DIFF PHS"),
    (_COMPLEX, "R REAL I IMAGINARY IMAG"),
    (_SYNTHETIC, "SYNTHETIC SYNTH SYNTHESIZED SYNMR SYMRI SYNTHETIC_MR MAGIC VIRTUAL"),
)
_WHOLE: dict[str, str] = {value: kind for kind, values in _KINDS for value in values.split()}
_SPLIT = {
    word: kind
    for word, kind in _WHOLE.items()
    if kind and len(word) > 2 and "_" not in word and word not in ("FAT", "REAL", "IMAG", "VIRTUAL")
}
_A, _Z = r"(?<![a-z])", r"(?![a-z])"
_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            _SUBTRACTION,
            rf"{_A}(?:sub(?:t(?:r(?:act\w*|a\w*)?)?)?(?![-_ ]?\d)|differenz\w*|soustract\w*|sottra\w*|substra\w*)"
            rf"{_Z}|减影|サブトラ",
        ),
        (_FRACTION, rf"(?:fat|water)[ _-]*fra(?:c\w*)?{_Z}|{_A}pdff{_Z}"),
        (_DIXON_OUT, rf"(?:out[ _-]*(?:of[ _-]*)?|opp(?:osed)?[ _-]*)phase|{_A}(?:opp|oop){_Z}"),
        (
            _DIXON_FAT,
            rf"{_A}fat[ _-]*(?:only|image|img){_Z}|^ *fat *:|(?:dix|ideal|flex|lava).*[ _-]f(?:at)?$|"
            rf"(?:dix|ideal)(?:on)?[ _-]fat{_Z}",
        ),
        (_SYNTHETIC, rf"{_A}(?:synth\w*|synmr|symri|magic){_Z}|virtual(?:ly)?[ _-]*(?:contrast|t1|t2|gd|gad)"),
        (
            _REFORMAT,
            rf"(?:mprage|space|vibe|bravo|spgr|cube|tfe|flair|tse).*[ _-]mpr{_Z}|{_A}(?:mpr[ _-]*(?:thick|range|recon)\w*|"
            rf"csa[ _-]*mpr|reformat\w*|recon[ _-]*(?:cor|sag|ax|tra)\w*){_Z}",
        ),
        (_PROJECTION, rf"{_A}(?:max[ _-]*ip|min[ _-]*ip){_Z}"),
        (_PHASE, rf"{_A}(?:phase[ _-]*(?:map|image|img|diff\w*)|pha){_Z}|{_A}(?<!in[ _-])phase$"),
    )
)


def image_kind(dataset: Dataset) -> str:
    """What the image is if it is not the acquired anatomical image itself; empty if it is that.

    Frames of several kinds in one object are named too: no volume is made of them. Never raises for odd values.
    """
    types = [_values(dataset.get("ImageType"))[2:]]
    components = [
        _values(dataset.get("ComplexImageComponent")),
        _values(dataset.get("VolumeBasedCalculationTechnique")),
    ]
    groups = FunctionalGroups(dataset)
    frames = {
        (
            *_values(group.get("FrameType"))[2:],
            *_values(group.get("ComplexImageComponent")),
            *_values(group.get("VolumeBasedCalculationTechnique")),
        )
        for group in (*groups.every("MRImageFrameTypeSequence"), *groups.every("CTImageFrameTypeSequence"))
    }
    kinds = sorted({_kind(frame) for frame in frames})
    if len(set(kinds)) > 1:
        return "frames of several kinds in one object"
    return next(
        (one for one in (*kinds, _kind(value for values in (*types, *components) for value in values)) if one), ""
    )


def kind_in_words(description: str) -> str:
    """The same from a description: only what its words name plainly; empty otherwise."""
    return next((kind for kind, pattern in _WORDS if pattern.search(description)), "")


def _kind(values: Iterable[str]) -> str:
    whole = ["_".join(value.replace("-", " ").replace("_", " ").split()) for value in values]
    for value in whole:
        if value in _WHOLE:
            if _WHOLE[value]:
                return _WHOLE[value]
            continue
        for word in re.split(r"[^A-Z0-9]+", value):
            if word in _SPLIT:
                return _SPLIT[word]
    return ""


def _values(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    parts: Iterable[object] = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    return tuple(word for part in parts if (word := str(part).strip().upper()))
