"""Where a report's figures come from, in words: who made each region's outline, how the images were acquired."""

from __future__ import annotations

from collections.abc import Mapping

from imaging.brats.regions import Region
from imaging.schemas.measurement import RegionMaker, RegionMeasurement
from reports.content.schema import Findings, ReportContent, ReportStudy

__all__ = [
    "acquisition_text",
    "closing_sentence",
    "disclaimer",
    "maker_of",
    "maker_words",
    "makers_text",
    "outside_range",
    "vouched_impression",
]

_MAKERS: Mapping[RegionMaker, str] = {
    "consensus": "the models' consensus",
    "corrected": "the models' consensus, corrected by a person",
    "person": "a person's outline",
    "import": "an outline made elsewhere",
    "expert": "one model's outline",
}
_BY_KIND: Mapping[str, RegionMaker] = {
    "consensus": "consensus", "person": "person", "import": "import", "expert": "expert",
}  # fmt: skip


_OF_MACHINES = "These are machine measurements for a radiologist to confirm, not a diagnosis."


def maker_of(findings: Findings, region: Region) -> RegionMaker:
    """Who made the outline of a region; where it was not recorded by region, who made the whole."""
    measured = findings.regions.get(region)
    recorded = measured.maker if measured is not None else ""
    return recorded or _BY_KIND.get(findings.segmentation.kind, "expert")


def makers_text(findings: Findings, regions: tuple[Region, ...] = ("ET", "TC", "WT")) -> str:
    """Who made what, by region: one clause where all are of one making."""
    by_maker: dict[str, list[str]] = {}
    for region in regions:
        measured = findings.regions.get(region)
        if measured is not None and measured.outlined:
            by_maker.setdefault(_MAKERS[maker_of(findings, region)], []).append(region)
    if len(by_maker) == 1:
        return next(iter(by_maker))
    return "; ".join(f"{', '.join(names)}: {maker}" for maker, names in by_maker.items())


def maker_words(findings: Findings, region: Region) -> str:
    """Who made the outline of a region, as the subject of a sentence."""
    words = _MAKERS[maker_of(findings, region)]
    return words[0].upper() + words[1:]


def outside_range(measured: RegionMeasurement, maker: RegionMaker) -> str:
    """Why the volume lies outside the range of the single models, as a clause; empty where it lies within."""
    spread, volume = measured.uncertainty_mm3, measured.volume_mm3
    if spread is None or volume is None or spread.low <= volume <= spread.high:
        return ""
    where = "below" if volume < spread.low else "above"
    if maker in ("person", "corrected", "import"):
        return f"it lies {where} that range because a person changed the outline"
    if volume < spread.low:
        return "it lies below that range because the models outline different places and the consensus holds what most share"
    return "it lies above that range because the consensus joins what the single models outline apart"


def by_machine(findings: Findings) -> bool:
    """Whether any region's outline is a machine's, changed by a person or not."""
    outlined = [name for name, one in findings.regions.items() if one.outlined]
    return any(maker_of(findings, name) in ("consensus", "corrected", "expert") for name in outlined)


def closing_sentence(findings: Findings, *, signed: bool) -> str:
    """The last sentence of an impression: what it is, and who stands for it."""
    if signed:
        return "Measured by software and signed by the radiologist named below; decision support, not a diagnosis."
    if by_machine(findings):
        return _OF_MACHINES
    return "These are measurements of a person's outline by software, for a radiologist to confirm, not a diagnosis."


def vouched_impression(content: ReportContent) -> str:
    """The impression as a person signs it: it no longer asks a radiologist to confirm what this one has confirmed.

    A draft of before ends with the machine's sentence whoever outlined.
    """
    text = content.impression
    for asked in (closing_sentence(content.findings, signed=False), _OF_MACHINES):
        text = text.replace(asked, closing_sentence(content.findings, signed=True))
    return text


def disclaimer(findings: Findings) -> str:
    """What the report is and is not; who outlined is said as it was."""
    outlined = (
        "The outlines and measurements in this report were made by machine-learning models and may be wrong; "
        if by_machine(findings)
        else "The outlines in this report were made by a person, the measurements by software; both may be wrong; "
    )
    return (
        f"Decision support. {outlined}"
        "they are not a diagnosis and do not replace the reading of the images by a radiologist. Volumes depend on "
        "acquisition, registration and the models used; a category of response given here rests on images alone."
    )


def acquisition_text(study: ReportStudy) -> str:
    """Scanner, field, slice thickness and contrast agent by sequence, as the headers say; empty where nothing was told."""
    lines = []
    for one in study.acquisition:
        facts = [
            one.scanner or "scanner not stated",
            f"{one.field_t:g} T" if one.field_t else "field not stated",
            f"slices of {one.slice_thickness_mm:g} mm" if one.slice_thickness_mm else "slice thickness not stated",
        ]
        contrast = {"given": "contrast agent given", "not given": "no contrast agent"}.get(one.contrast, "")
        if one.agent and one.contrast == "given":
            contrast += f" ({one.agent})"
        lines.append((one.sequence, "; ".join([*facts, contrast or "contrast agent not stated"])))
    grouped: dict[str, list[str]] = {}
    for sequence, text in lines:
        grouped.setdefault(text, []).append(sequence)
    return " ".join(f"{', '.join(names)}: {text}." for text, names in grouped.items())
