"""What our labels are called: PS3.16 CID 7150, CID 7168 (brain lesion segmentation with necrosis), and their colours."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept

__all__ = ["AI", "ALTERED_STRUCTURE", "BRAIN", "SEGMENTS", "SegmentTerm", "term_of"]

ALTERED_STRUCTURE = CodedConcept("49755003", "SCT", "Morphologically Altered Structure")
BRAIN = CodedConcept("12738006", "SCT", "Brain")
AI = CodedConcept("123110", "DCM", "Artificial Intelligence")


@dataclass(frozen=True)
class SegmentTerm:
    """One label: its name for people, its code and its colour (those of `imaging.rendering.slices`)."""

    label: str
    type: CodedConcept
    colour: CIELabColor


SEGMENTS: dict[int, SegmentTerm] = {
    1: SegmentTerm(
        "Necrotic and non-enhancing tumour core",
        CodedConcept("6574001", "SCT", "Necrosis"),
        CIELabColor.from_rgb(240, 228, 66),
    ),
    2: SegmentTerm(
        "Oedema or infiltrated tissue",
        CodedConcept("79654002", "SCT", "Edema"),
        CIELabColor.from_rgb(86, 180, 233),
    ),
    3: SegmentTerm(
        "Enhancing tumour",
        CodedConcept("C113842", "NCIt", "Enhancing Lesion"),
        CIELabColor.from_rgb(213, 94, 0),
    ),
}
"""Label -> what it is. Labels as in `imaging.segmentation.label_maps`."""

_NEOPLASM = CodedConcept("108369006", "SCT", "Neoplasm")


def term_of(label: int, not_assessed: Collection[str] = ()) -> SegmentTerm:
    """What a label is where some regions are not assessed: without its core told apart, the whole tumour is no oedema."""
    if label == 2 and "TC" in not_assessed:
        return SegmentTerm("Whole tumour, core not assessed", _NEOPLASM, SEGMENTS[2].colour)
    if label == 1 and "ET" in not_assessed:
        return SegmentTerm("Tumour core, enhancement not assessed", _NEOPLASM, SEGMENTS[1].colour)
    return SEGMENTS[label]
