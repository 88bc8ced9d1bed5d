"""Sentences about the measured findings: hedged, and every figure cited to its place in the content."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from reports.content.figures import REGION_NAMES, date_text, dice_text, millilitres, millimetres, percent, resolve
from reports.narrative.sentences import Kind, Sentence, has_number

__all__ = ["CATEGORY_NAMES", "finding_sentences", "impression", "limitation_sentences"]

CATEGORY_NAMES = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
}
SMALL_MM3 = 100.0
"""Below 0.1 ml a volume is of the order of what repeated scans differ by."""

Facts = Mapping[str, Any]


class _CitedSentence:
    """Collects one sentence's text and the citations of the figures in it."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.citations: list[dict[str, Any]] = []

    def _cite(self, path: str, shown: str) -> str:
        self.citations.append({"kind": "finding", "path": path, "value": resolve(self.facts, path), "shown": shown})
        return shown

    def ml(self, path: str) -> str:
        return self._cite(path, millilitres(resolve(self.facts, path))) + " ml"

    def mm(self, path: str) -> str:
        return self._cite(path, millimetres(resolve(self.facts, path))) + " mm"

    def percent(self, path: str) -> str:
        return self._cite(path, percent(resolve(self.facts, path))) + " %"

    def dice(self, path: str) -> str:
        return self._cite(path, dice_text(resolve(self.facts, path)))

    def date(self, path: str) -> str:
        return self._cite(path, date_text(datetime.fromisoformat(resolve(self.facts, path))))

    def word(self, path: str, shown: str) -> str:
        return self._cite(path, shown)

    def sentence(self, text: str, kind: Kind = "finding") -> Sentence:
        return Sentence(text, kind, tuple(self.citations))


def _get(facts: Facts, path: str) -> Any:
    try:
        return resolve(facts, path)
    except LookupError:
        return None


def finding_sentences(facts: Facts) -> list[Sentence]:
    """Volumes, diameters, change, lesions, category and agreement, each only where it was computed."""
    sentences: list[Sentence] = []
    for region in REGION_NAMES:
        sentences += _region_sentences(facts, region)
    sentences += _lesion_sentences(facts)
    sentences += _response_sentences(facts)
    sentences += _agreement_sentences(facts)
    return sentences


def _region_sentences(facts: Facts, region: str) -> list[Sentence]:
    name = REGION_NAMES[region]
    base = f"findings.regions.{region}"
    if _get(facts, base) is None:
        return []
    volume = _get(facts, f"{base}.volume_mm3")
    write = _CitedSentence(facts)
    if volume is None:
        reason = _get(facts, f"{base}.reason") or "no volume was computed"
        # The reason may carry digits of its own; it is shown in the table, cited here by its place.
        write.word(f"{base}.volume_mm3", "not assessed")
        hint = "" if has_number(str(reason)) else f": {str(reason).rstrip('.')}"
        return [write.sentence(f"The volume of the {name} ({region}) was not assessed{hint}.", "limitation")]
    if volume == 0:
        write.word(f"{base}.volume_mm3", "No")
        found = [
            write.sentence(
                f"No {name} ({region}) was outlined on this study; disease below what the models can detect is not excluded."
            )
        ]
    else:
        who = "A person's outline" if _get(facts, "findings.segmentation.kind") == "person" else "The models' consensus"
        text = f"{who} gives an estimated {name} ({region}) volume of {write.ml(f'{base}.volume_mm3')}"
        low, high = _get(facts, f"{base}.uncertainty_mm3.low"), _get(facts, f"{base}.uncertainty_mm3.high")
        if low is not None and high is not None:
            low_text, high_text = write.ml(f"{base}.uncertainty_mm3.low"), write.ml(f"{base}.uncertainty_mm3.high")
            text += f"; the single models range from {low_text} to {high_text}"
        long_axis = _get(facts, f"{base}.longest_axial_diameter_mm")
        if region == "ET" and long_axis:
            text += f"; its longest axial diameter is about {write.mm(f'{base}.longest_axial_diameter_mm')}"
            if _get(facts, f"{base}.perpendicular_diameter_mm"):
                text += f", {write.mm(f'{base}.perpendicular_diameter_mm')} across"
        found = [write.sentence(f"{text}.")]
    return found + _change_sentences(facts, region)


def _change_sentences(facts: Facts, region: str) -> list[Sentence]:
    base = f"comparison.regions.{region}"
    prior_date = _get(facts, "comparison.prior_performed_at")
    if prior_date is None or _get(facts, base) is None:
        return []
    name = REGION_NAMES[region]
    change, current, prior = (_get(facts, f"{base}.{key}") for key in ("change_percent", "current_mm3", "prior_mm3"))
    write = _CitedSentence(facts)
    since = f"Compared with the study of {write.date('comparison.prior_performed_at')}"
    if change is None:
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
    verb = "increased" if change > 0 else "decreased"
    text = f"{since}, the {name} volume is estimated to have {verb} by {shown}"
    if prior is not None and current is not None:
        text += f" (from {write.ml(f'{base}.prior_mm3')} to {write.ml(f'{base}.current_mm3')})"
    return [write.sentence(f"{text}.")]


def _lesion_sentences(facts: Facts) -> list[Sentence]:
    sentences = []
    for index, lesion in enumerate(_get(facts, "comparison.lesions") or []):
        write = _CitedSentence(facts)
        label = write.word(f"comparison.lesions.{index}.id", str(lesion["id"]))
        status = lesion.get("status")
        write.word(f"comparison.lesions.{index}.status", str(status))
        if status == "gone":
            sentences.append(
                write.sentence(
                    f"Lesion {label}, seen on the earlier study, is no longer outlined and is taken to be gone."
                )
            )
        elif status == "new" and _get(facts, "comparison.prior_study_id"):
            sentences.append(write.sentence(f"Lesion {label} is outlined for the first time; it may be new."))
    return sentences


def _response_sentences(facts: Facts) -> list[Sentence]:
    category = _get(facts, "comparison.response.category")
    if category is None:
        return []
    write = _CitedSentence(facts)
    path = "comparison.response.category"
    if category not in CATEGORY_NAMES:
        write.word(path, "not assessed")
        return [write.sentence("A response category (RANO 2.0) was not assessed.", "limitation")]
    shown = write.word(path, CATEGORY_NAMES[category])
    return [
        write.sentence(
            f"On imaging alone the volumes fall in the RANO 2.0 category {shown} ({category}); an overall response also "
            "needs steroid use and clinical status and is for the treating team to judge."
        )
    ]


def _agreement_sentences(facts: Facts) -> list[Sentence]:
    if not isinstance(_get(facts, "panel.agreement.a"), (int, float)):
        return []
    write = _CitedSentence(facts)
    region = _get(facts, "panel.agreement.region")
    where = f" in the region where they agree least ({REGION_NAMES.get(str(region), region)})" if region else ""
    return [
        write.sentence(
            f"The voting models agree with their consensus with a mean Dice coefficient of "
            f"{write.dice('panel.agreement.a')}{where}."
        )
    ]


def _cited_limitations(facts: Facts, path: str) -> list[Sentence]:
    """The sentences that the facts have at ``path``, cited to their place; none where there are none."""
    text = _get(facts, path)
    if not text:
        return []
    write = _CitedSentence(facts)
    return [write.sentence(write.word(path, str(text)), "limitation")]


def limitation_sentences(facts: Facts) -> list[Sentence]:
    """What the reader must know that was not done."""
    sentences = [
        *_cited_limitations(facts, "study.reduced.reason"),
        *_cited_limitations(facts, "comparison.sequences.note"),
    ]
    for region in REGION_NAMES:
        sentences += [
            Sentence(f"{REGION_NAMES[region].capitalize()} ({region}): {one.text}", one.kind, one.citations)
            for one in _cited_limitations(facts, f"findings.regions.{region}.basis")
        ]
    write = _CitedSentence(facts)
    if _get(facts, "study.spacing_known") is False:
        write.word("study.spacing_known", "not known")
        sentences.append(
            write.sentence(
                "The voxel size of this study is not known, so nothing was given in millimetres.", "limitation"
            )
        )
    if _get(facts, "comparison.registration.converged") is False:
        write = _CitedSentence(facts)
        write.word("comparison.registration.converged", "not")
        text = "The two studies could not be aligned reliably, so lesions were not followed from one to the other."
        sentences.append(write.sentence(text, "limitation"))
    missing = _get(facts, "comparison.response.missing") or []
    if missing:
        write = _CitedSentence(facts)
        names = []
        for index, item in enumerate(missing):
            readable = str(item).replace("_", " ")
            if not any(char.isdigit() for char in readable):
                names.append(write.word(f"comparison.response.missing.{index}", readable))
        if names:
            sentences.append(write.sentence(f"Not available to the response rules: {', '.join(names)}.", "limitation"))
    for index, lesion in enumerate(_get(facts, "findings.lesions") or []):
        volume = (lesion.get("regions") or {}).get("TC")
        if volume is not None and 0 < volume < SMALL_MM3:
            write = _CitedSentence(facts)
            label = write.word(f"findings.lesions.{index}.id", str(lesion["id"]))
            size = write.ml(f"findings.lesions.{index}.regions.TC")
            text = f"Lesion {label} is very small ({size}); a change of it may be no more than scan-to-scan variation."
            sentences.append(write.sentence(text, "limitation"))
    if _get(facts, "demo"):
        write = _CitedSentence(facts)
        write.word("demo", "demonstration")
        sentences.append(
            write.sentence(
                "The models of this demonstration were trained on simulated patients only; their outlines must not be used "
                "for care.",
                "limitation",
            )
        )
    return sentences


def impression(facts: Facts) -> str:
    """Two or three hedged sentences without figures; the figures stand in the table beside them."""
    parts = [str(reduced)] if (reduced := _get(facts, "study.reduced.reason")) else []
    volumes = {region: _get(facts, f"findings.regions.{region}.volume_mm3") for region in REGION_NAMES}
    relative = {region: _get(facts, f"comparison.regions.{region}.change_percent") for region in REGION_NAMES}
    if all(volume is None for volume in volumes.values()) and all(change is None for change in relative.values()):
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
    category = _get(facts, "comparison.response.category")
    lesions = _get(facts, "comparison.lesions") or []
    has_prior = bool(_get(facts, "comparison.prior_study_id"))
    if category in CATEGORY_NAMES:
        parts.append(f"By volume and on imaging alone: {CATEGORY_NAMES[category]} ({category}, RANO 2.0).")
    elif has_prior:
        parts.append("A response category was not assessed.")
    else:
        parts.append("There is no earlier study to compare with; this is the baseline.")
    if has_prior and any(lesion.get("status") == "gone" for lesion in lesions):
        parts.append("A lesion of the earlier study is no longer outlined.")
    if has_prior and any(lesion.get("status") == "new" for lesion in lesions):
        parts.append("A lesion that was not outlined before may be new.")
    parts.append("These are machine measurements for a radiologist to confirm, not a diagnosis.")
    return " ".join(parts)
