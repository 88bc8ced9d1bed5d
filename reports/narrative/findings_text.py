"""Sentences about the measured findings: hedged, and every figure cited to its place in the content."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from imaging.brats.regions import Region
from imaging.longitudinal.rano import SMALL_MM3
from imaging.schemas.measurement import RegionMeasurement
from oncoflow_site.foundation.figures import NOT_ASSESSED, date_text, dice_text, millilitres, millimetres, percent
from oncoflow_site.foundation.schema import plain
from reports.content.paths import REGION_NAMES, resolve
from reports.content.provenance import closing_sentence, maker_of, maker_words, outside_range
from reports.content.schema import FindingCitation, NarrativeKind, NarrativeSentence, ReportFacts
from reports.narrative.sentences import has_number

if TYPE_CHECKING:
    from reports.narrative.quotes import Quote

__all__ = ["CATEGORY_NAMES", "finding_sentences", "impression", "limitation_sentences"]

CATEGORY_NAMES = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
}
_REGIONS: tuple[Region, ...] = ("ET", "TC", "WT")


class _CitedSentence:
    """Collects one sentence's text and the citations of the figures in it."""

    def __init__(self, facts: ReportFacts) -> None:
        self.facts = facts
        self.citations: list[FindingCitation] = []

    def word(self, path: str, shown: str) -> str:
        """``shown`` for the value at ``path``."""
        self.citations.append(FindingCitation(path=path, value=plain(resolve(self.facts, path)), shown=shown))
        return shown

    def ml(self, path: str) -> str:
        return self.word(path, millilitres(resolve(self.facts, path))) + " ml"

    def mm(self, path: str) -> str:
        return self.word(path, millimetres(resolve(self.facts, path))) + " mm"

    def percent(self, path: str) -> str:
        return self.word(path, percent(resolve(self.facts, path))) + " %"

    def dice(self, path: str) -> str:
        return self.word(path, dice_text(resolve(self.facts, path)))

    def date(self, path: str) -> str:
        return self.word(path, date_text(resolve(self.facts, path)))

    def sentence(self, text: str, kind: NarrativeKind = "finding") -> NarrativeSentence:
        return NarrativeSentence(text=text, kind=kind, citations=tuple(self.citations))


def finding_sentences(facts: ReportFacts) -> list[NarrativeSentence]:
    """Volumes, diameters, change, lesions, category and agreement, each only where it was computed."""
    sentences: list[NarrativeSentence] = []
    for region in _REGIONS:
        sentences += _region_sentences(facts, region)
    sentences += _lesion_sentences(facts)
    sentences += _response_sentences(facts)
    sentences += _agreement_sentences(facts)
    return sentences


def _region_sentences(facts: ReportFacts, region: Region) -> list[NarrativeSentence]:
    measured = facts.findings.regions.get(region)
    if measured is None:
        return []
    name, base = REGION_NAMES[region], f"findings.regions.{region}"
    write = _CitedSentence(facts)
    if measured.volume_mm3 is None:
        reason = measured.reason or "no volume was computed"
        # The reason may carry digits of its own; it is shown in the table, cited here by its place.
        write.word(f"{base}.volume_mm3", NOT_ASSESSED)
        hint = "" if has_number(reason) else f": {reason.rstrip('.')}"
        return [write.sentence(f"The volume of the {name} ({region}) was not assessed{hint}.", "limitation")]
    if measured.volume_mm3 == 0:
        write.word(f"{base}.volume_mm3", "No")
        text = f"No {name} ({region}) was outlined on this study; disease below what the models can detect is not excluded."
        found = [write.sentence(text)]
    else:
        found = [_volume_sentence(facts, write, region, measured)]
    return found + _change_sentences(facts, region) + _alike_sentences(facts, region)


def _volume_sentence(
    facts: ReportFacts, write: _CitedSentence, region: Region, measured: RegionMeasurement
) -> NarrativeSentence:
    base = f"findings.regions.{region}"
    maker = maker_of(facts.findings, region)
    who = maker_words(facts.findings, region)
    outside = outside_range(measured, maker)
    comma = "," if "," in who else ""
    text = (
        f"{who}{comma} gives an estimated {REGION_NAMES[region]} ({region}) volume of {write.ml(f'{base}.volume_mm3')}"
    )
    if measured.uncertainty_mm3 is not None:
        low, high = write.ml(f"{base}.uncertainty_mm3.low"), write.ml(f"{base}.uncertainty_mm3.high")
        text += f"; the single models range from {low} to {high}" + (f", and {outside}" if outside else "")
    if region == "ET" and measured.longest_axial_diameter_mm:
        text += f"; its longest axial diameter is about {write.mm(f'{base}.longest_axial_diameter_mm')}"
        if measured.perpendicular_diameter_mm:
            text += f", {write.mm(f'{base}.perpendicular_diameter_mm')} across"
    return write.sentence(f"{text}.")


def _change_sentences(facts: ReportFacts, region: Region) -> list[NarrativeSentence]:
    comparison = facts.comparison
    change = comparison.regions.get(region) if comparison else None
    if comparison is None or comparison.prior_performed_at is None or change is None:
        return []
    name, base = REGION_NAMES[region], f"comparison.regions.{region}"
    current, prior = change.current_mm3, change.prior_mm3
    write = _CitedSentence(facts)
    since = f"Compared with the study of {write.date('comparison.prior_performed_at')}"
    if change.change_percent is None:
        if prior == 0 and current:
            write.word(f"{base}.prior_mm3", "none")
            text = f"{since}, where none was outlined, {name} of {write.ml(f'{base}.current_mm3')} is now outlined"
            return [write.sentence(f"{text}; no percentage can be given.")]
        return []
    if current == 0 and prior:
        write.word(f"{base}.current_mm3", "no longer")
        return [write.sentence(f"{since}, the {name} ({write.ml(f'{base}.prior_mm3')} then) is no longer outlined.")]
    shown = write.percent(f"{base}.change_percent")
    if float(shown.split()[0]) == 0:
        return [write.sentence(f"{since}, the {name} volume is estimated to be unchanged ({shown}).")]
    verb = "increased" if change.change_percent > 0 else "decreased"
    text = f"{since}, the {name} volume is estimated to have {verb} by {shown}"
    if prior is not None and current is not None:
        text += f" (from {write.ml(f'{base}.prior_mm3')} to {write.ml(f'{base}.current_mm3')})"
    return [write.sentence(f"{text}.")]


_ALIKE = {"consensus": "By the models' outlines of both studies", "person": "By persons' outlines of both studies"}


def _alike_sentences(facts: ReportFacts, region: Region) -> list[NarrativeSentence]:
    """The same two studies by other pairs of outlines of one making."""
    sentences = []
    for index, pair in enumerate(facts.comparison.alike if facts.comparison else ()):
        change, base = pair.regions.get(region), f"comparison.alike.{index}.regions.{region}"
        if change is None or change.change_percent is None:
            continue
        write = _CitedSentence(facts)
        shown = write.percent(f"{base}.change_percent")
        verb = "increased" if change.change_percent > 0 else "decreased"
        text = f"{_ALIKE[pair.maker]}, the {REGION_NAMES[region]} volume is estimated to have {verb} by {shown}"
        if change.prior_mm3 is not None and change.current_mm3 is not None:
            text += f" (from {write.ml(f'{base}.prior_mm3')} to {write.ml(f'{base}.current_mm3')})"
        sentences.append(write.sentence(f"{text}."))
    return sentences


def _lesion_sentences(facts: ReportFacts) -> list[NarrativeSentence]:
    comparison, sentences = facts.comparison, []
    for index, lesion in enumerate(comparison.lesions if comparison else ()):
        write = _CitedSentence(facts)
        label = write.word(f"comparison.lesions.{index}.id", lesion.id)
        write.word(f"comparison.lesions.{index}.status", lesion.status)
        if lesion.status == "gone":
            text = f"Lesion {label}, seen on the earlier study, is no longer outlined and is taken to be gone."
            sentences.append(write.sentence(text))
        elif lesion.status == "new" and comparison and comparison.prior_study_id:
            sentences.append(write.sentence(f"Lesion {label} is outlined for the first time; it may be new."))
    return sentences


def _response_sentences(facts: ReportFacts) -> list[NarrativeSentence]:
    if facts.comparison is None:
        return []
    write, path = _CitedSentence(facts), "comparison.response.category"
    category = facts.comparison.response.category
    if category not in CATEGORY_NAMES:
        write.word(path, NOT_ASSESSED)
        return [write.sentence("A response category (RANO 2.0) was not assessed.", "limitation")]
    shown = write.word(path, CATEGORY_NAMES[category])
    return [
        write.sentence(
            f"On imaging alone the volumes fall in the RANO 2.0 category {shown} ({category}); an overall response also "
            "needs steroid use and clinical status and is for the treating team to judge."
        )
    ]


def _agreement_sentences(facts: ReportFacts) -> list[NarrativeSentence]:
    if facts.panel is None or facts.panel.agreement.a is None:
        return []
    write, region = _CitedSentence(facts), facts.panel.agreement.region
    where = f" in the region where they agree least ({REGION_NAMES[region]})" if region else ""
    text = f"The voting models agree with their consensus with a mean Dice coefficient of {write.dice('panel.agreement.a')}"
    return [write.sentence(f"{text}{where}.")]


def _cited_limitation(facts: ReportFacts, path: str, text: str, before: str = "") -> list[NarrativeSentence]:
    """A sentence that the facts have at ``path``, cited to its place; none where it is empty."""
    write = _CitedSentence(facts)
    return [write.sentence(before + write.word(path, text), "limitation")] if text else []


def limitation_sentences(
    facts: ReportFacts, named: Mapping[str, Quote] = MappingProxyType({})
) -> list[NarrativeSentence]:
    """What the reader must know that was not done.

    :param named: what the response rules lack -> the newest sentence of a document that names it.
    """
    comparison = facts.comparison
    sentences: list[NarrativeSentence] = []
    if facts.study.reduced is not None:
        sentences += _cited_limitation(facts, "study.reduced.reason", facts.study.reduced.reason)
    if comparison is not None and comparison.sequences is not None:
        sentences += _cited_limitation(facts, "comparison.sequences.note", comparison.sequences.note)
    for region in _REGIONS:
        if (measured := facts.findings.regions.get(region)) is not None:
            before = f"{REGION_NAMES[region].capitalize()} ({region}): "
            sentences += _cited_limitation(facts, f"findings.regions.{region}.basis", measured.basis, before)
    if not facts.study.spacing_known:
        write = _CitedSentence(facts)
        write.word("study.spacing_known", "not known")
        text = "The voxel size of this study is not known, so nothing was given in millimetres."
        sentences.append(write.sentence(text, "limitation"))
    if comparison is not None and comparison.registration is not None and not comparison.registration.converged:
        write = _CitedSentence(facts)
        write.word("comparison.registration.converged", "not")
        text = "The two studies could not be aligned reliably, so lesions were not followed from one to the other."
        sentences.append(write.sentence(text, "limitation"))
    sentences += _missing_sentences(facts, named)
    for index, lesion in enumerate(facts.findings.lesions):
        volume = lesion.regions.get("TC")
        if volume is not None and 0 < volume < SMALL_MM3:
            write = _CitedSentence(facts)
            label = write.word(f"findings.lesions.{index}.id", lesion.id)
            size = write.ml(f"findings.lesions.{index}.regions.TC")
            text = f"Lesion {label} is very small ({size}); a change of it may be no more than scan-to-scan variation."
            sentences.append(write.sentence(text, "limitation"))
    if facts.demo:
        write = _CitedSentence(facts)
        write.word("demo", "demonstration")
        text = (
            "The models of this demonstration were trained on simulated patients only; their outlines must not be used "
            "for care."
        )
        sentences.append(write.sentence(text, "limitation"))
    return sentences


def _missing_sentences(facts: ReportFacts, named: Mapping[str, Quote]) -> list[NarrativeSentence]:
    """What the response rules would need and only the clinic knows; where a document names it, its words, not confirmed."""
    write, names, sentences = _CitedSentence(facts), [], []
    for index, missing in enumerate(facts.comparison.response.missing if facts.comparison else ()):
        readable, path = missing.replace("_", " "), f"comparison.response.missing.{index}"
        if any(char.isdigit() for char in readable):
            continue
        if (quote := named.get(missing)) is None:
            names.append(write.word(path, readable))
            continue
        about = _CitedSentence(facts)
        subject = about.word(path, readable[0].upper() + readable[1:])
        origin = quote.origin()
        text = (
            f"{subject}: named in {origin[0].lower()}{origin[1:]}, not confirmed, and not used by the response rules: "
            f"“{quote.text}”"
        )
        told = about.sentence(text, "limitation")
        sentences.append(told.model_copy(update={"citations": (*told.citations, quote.citation())}))
    if names:
        sentences.append(write.sentence(f"Not available to the response rules: {', '.join(names)}.", "limitation"))
    return sentences


def impression(facts: ReportFacts) -> str:
    """Two or three hedged sentences without figures; the figures stand in the table beside them."""
    comparison, measured = facts.comparison, facts.findings.regions
    parts = [facts.study.reduced.reason] if facts.study.reduced and facts.study.reduced.reason else []
    volumes = {region: measured[region].volume_mm3 if region in measured else None for region in _REGIONS}
    changes = comparison.regions.values() if comparison else ()
    if all(volume is None for volume in volumes.values()) and all(one.change_percent is None for one in changes):
        parts.append("Volumes were not assessed on this study.")
    elif volumes["ET"]:
        parts.append("Enhancing tumour is outlined on this study.")
    elif volumes["ET"] is None and volumes["WT"]:
        parts.append("Tumour is outlined on this study; whether it enhances was not assessed.")
    elif volumes["WT"] is None and volumes["TC"]:
        parts.append("Tumour core without enhancement is outlined on this study.")
    elif volumes["WT"] is None and volumes["TC"] == 0:
        parts.append("No tumour core is outlined on this study; this does not exclude disease.")
    elif volumes["WT"]:
        parts.append("No enhancing tumour is outlined on this study; non-enhancing signal change is.")
    elif volumes["WT"] == 0:
        parts.append("No tumour is outlined on this study; this does not exclude disease.")
    category = comparison.response.category if comparison else None
    has_prior = bool(comparison and comparison.prior_study_id)
    if category in CATEGORY_NAMES:
        parts.append(f"By volume and on imaging alone: {CATEGORY_NAMES[category]} ({category}, RANO 2.0).")
    elif has_prior:
        parts.append("A response category was not assessed.")
    else:
        parts.append("No earlier study is known to this service.")
    statuses = {lesion.status for lesion in comparison.lesions} if comparison and has_prior else set()
    if "gone" in statuses:
        parts.append("A lesion of the earlier study is no longer outlined.")
    if "new" in statuses:
        parts.append("A lesion that was not outlined before may be new.")
    parts.append(closing_sentence(facts.findings, signed=False))
    return " ".join(parts)
