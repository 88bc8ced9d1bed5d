"""What the series of a study say together: words that all of them share say nothing about one of them, and contrast agent,
once given, stays for the rest of the examination.

A header is read alone when it arrives; here the answers are weighed again when the study is whole. A person's answer stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imaging.dicom.acquisition import AcquisitionParameters, from_json
from imaging.dicom.contrast_agent import contrast_words
from imaging.identifiers import open_series
from imaging.models import MrSequence
from imaging.recognition.learned_protocols import as_said
from imaging.recognition.rules import (
    Recognition,
    described_sequence,
    recognise_facts,
    telling_words,
    weighting,
)

if TYPE_CHECKING:
    from imaging.models import Series, Study

__all__ = ["SeriesQuestion", "recognise_together", "settle_sequences", "without_shared_words"]

_SEPARATORS = re.compile(r"([\s_,;:()\[\]]+)")
_NO_WORDS = "series"
"""Stands where every word of a description was shared: it had words, and they tell nothing."""
_AGAIN = ("tr", "te", "ti", "flip", "acquisition")


@dataclass(frozen=True)
class SeriesQuestion:
    """What a person has to say about series of the study. ``numbers`` are their Series Numbers where given."""

    numbers: tuple[int, ...]
    question: str


def settle_sequences(study: Study) -> list[SeriesQuestion]:
    """Weigh the series of ``study`` together, write what changes, and return what only a person can answer.

    Inside the caller's transaction. A series that came before its facts were kept stays as it is.
    """
    rows = list(study.series.filter(modality="MR", nifti__isnull=True).order_by("number", "created_at"))
    subject = study.patient.key_subject
    facts: dict[int, AcquisitionParameters] = {}
    for position, row in enumerate(rows):
        stored = open_series(subject, row.ciphertext).acquisition  # type: ignore[arg-type]
        if stored:
            facts[position] = from_json(stored)
    answers = recognise_together(list(facts.values()))
    settled: dict[int, Recognition] = {}
    for position, answer in zip(facts, answers, strict=True):
        row = rows[position]
        if row.overridden_by_id is not None:
            continue
        said = as_said(answer, row.protocol, count=False)
        settled[position] = said
        before = (row.sequence, row.sequence_confidence, row.sequence_reason)
        if (said.sequence, said.confidence, said.reason[:500]) != before:
            row.sequence, row.sequence_confidence = said.sequence, said.confidence
            row.sequence_reason, row.parameters = said.reason[:500], dict(said.parameters)
            row.save(update_fields=["sequence", "sequence_confidence", "sequence_reason", "parameters"])
    return _questions(rows, settled)


def _questions(rows: Sequence[Series], settled: Mapping[int, Recognition]) -> list[SeriesQuestion]:
    asked: dict[str, list[int]] = {}
    for position, answer in settled.items():
        if answer.question:
            number = rows[position].number
            asked.setdefault(answer.question, []).extend([] if number is None else [number])
    return [SeriesQuestion(tuple(numbers), question) for question, numbers in asked.items()]


def recognise_together(series: Sequence[AcquisitionParameters]) -> list[Recognition]:
    """The answers for the MR series of one study, in their order."""
    answers = [recognise_facts(one) for one in without_shared_words(series)]
    for position, answer in _after_contrast(series, answers).items():
        answers[position] = answer
    for position, answer in _alike(series, answers).items():
        answers[position] = answer
    return answers


def without_shared_words(series: Sequence[AcquisitionParameters]) -> list[AcquisitionParameters]:
    """The facts without the words that cannot tell one series of the study from another.

    A Protocol Name that series of different kinds share is the examination's name. Of descriptions, the words go that all
    have while the series differ; what names a weighting goes only where the weightings differ.
    """
    if len(series) < 2:
        return list(series)
    weightings = [weighting(one) for one in series]
    kinds = [_kind(one, weight) for one, weight in zip(series, weightings, strict=True)]
    protocols = [one.protocol_name.lower().strip() for one in series]
    named: dict[str, set[tuple[object, ...]]] = {}
    for name, kind in zip(protocols, kinds, strict=True):
        named.setdefault(name, set()).add(kind)
    everywhere = len(set(kinds)) > 1
    shared_names = _shared([one.protocol_name for one in series]) if everywhere else frozenset()
    shared = _shared([one.description for one in series]) if everywhere else frozenset()
    if len({one for one in weightings if one is not None}) < 2:
        shared -= {word for word in shared if described_sequence(word) is not None}
    reduced = []
    for one, name in zip(series, protocols, strict=True):
        protocol = "" if len(named[name]) > 1 else _dropped(one.protocol_name, shared_names)
        description = _dropped(one.description, shared)
        if one.words and not f"{description}{protocol}".strip():
            description = _NO_WORDS
        reduced.append(replace(one, description=description, protocol_name=protocol))
    return reduced


def _kind(facts: AcquisitionParameters, weight: str | None) -> tuple[object, ...]:
    """What tells series apart by anything but the name under question."""
    evidence, said = facts.contrast, contrast_words(facts.description)
    return (
        weight,
        bool(evidence.given),
        bool(evidence.denied),
        said.given and not said.denied,
        described_sequence(facts.description),
        facts.kind,
    )


def _shared(texts: Sequence[str]) -> frozenset[str]:
    """Words that all texts have, lower case; none where a text is empty."""
    sets = [frozenset(word.lower() for word in _SEPARATORS.split(text) if word.strip(" _,;:()[]")) for text in texts]
    return frozenset.intersection(*sets) if sets else frozenset()


def _dropped(text: str, words: frozenset[str]) -> str:
    if not words:
        return text
    return "".join(part for part in _SEPARATORS.split(text) if part.lower() not in words).strip()


def _after_contrast(series: Sequence[AcquisitionParameters], answers: Sequence[Recognition]) -> dict[int, Recognition]:
    """T1 series acquired after one that surely shows contrast: agent does not leave within an examination."""
    given = [
        one.acquired_at
        for one, answer in zip(series, answers, strict=True)
        if answer.sequence == MrSequence.T1C and one.contrast.given and one.acquired_at is not None
    ]
    if not given:
        return {}
    changed = {}
    for position, (one, answer) in enumerate(zip(series, answers, strict=True)):
        if answer.sequence == MrSequence.T1 and one.acquired_at is not None and one.acquired_at > min(given) + 1:
            changed[position] = replace(
                answer,
                sequence=MrSequence.UNKNOWN,
                confidence=0.4,
                reason=f"{answer.reason}; yet it was acquired after a series with contrast agent",
                question="Was this T1-weighted series acquired before or after contrast agent?",
            )
    return changed


def _alike(series: Sequence[AcquisitionParameters], answers: Sequence[Recognition]) -> dict[int, Recognition]:
    """Two T1 series of the same numbers that nothing tells apart, where one may be before contrast and the other after.

    So it is where no series says anything of contrast; and where every series of the study names an agent, those before
    it was given too.
    """
    found = {answer.sequence for answer in answers}
    silent = MrSequence.T1C not in found and not any(one.contrast.stated for one in series)
    exam_wide = MrSequence.T1 not in found and len(series) > 2 and all(one.contrast.given for one in series)
    if not silent and not exam_wide:
        return {}
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, (one, answer) in enumerate(zip(series, answers, strict=True)):
        if answer.sequence in (MrSequence.T1, MrSequence.T1C):
            said = contrast_words(telling_words(one))
            if said.given == said.denied and not (exam_wide and one.contrast.start is not None):
                groups.setdefault(tuple(getattr(one, name) for name in _AGAIN), []).append(position)
    changed = {}
    for positions in groups.values():
        for position in positions if len(positions) > 1 else ():
            answer = answers[position]
            changed[position] = replace(
                answer,
                confidence=min(answer.confidence, 0.5),
                reason=f"{answer.reason}; another series has the same numbers, and nothing tells which was before contrast",
                question="Which of these T1-weighted series was acquired before contrast agent, and which after?",
            )
    return changed
