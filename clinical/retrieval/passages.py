"""Cutting a stored text into passages that can be cited exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

__all__ = ["MAX_BYTES", "Passage", "trimmed", "windows"]

MAX_BYTES = 600
SENTENCES = 3

# On bytes: every boundary is ASCII, so that slices between boundaries are whole UTF-8 characters.
# A run of blanks is tried from its first one only: from each of them, a long run would take the square of its length.
_BOUNDARY = re.compile(rb"(?<=[.!?;])[\"')\]]{0,2}\s+|(?<!\s)\s*\n\s*\n\s*|\n(?=\s*(?:[-*\xe2]|\d{1,2}[.)]\s))")
_ABBREVIATION = re.compile(
    rb"(?:^|[\s(])(?:approx|bzw|ca|dr|e\.g|fig|i\.e|inkl|mr|mrs|ms|no|nr|pat|prof|resp|st|vs|z\.b|[a-z])\.$",
    re.IGNORECASE,
)
_EDGES = b" \t\n\r,;:.!?-*)]}'\""
_WORD = re.compile(rb"[A-Za-z0-9\x80-\xff]+")


@dataclass(frozen=True)
class Passage:
    """A piece of one of the patient's documents.

    :param document_id: the `clinical.models.ClinicalDocument`.
    :param start: first byte in the document's stored UTF-8 text.
    :param end: byte after the last; ``text == stored[start:end].decode()``.
    :param score: reciprocal-rank-fusion score, for ordering only.
    """

    document_id: UUID
    start: int
    end: int
    text: str
    score: float
    type_text: str
    authored_on: datetime | None


def _segments(size: int, removed: Sequence[tuple[int, int, str]]) -> Iterator[tuple[int, int]]:
    """What lies between the removed spans."""
    position = 0
    for start, end, _ in removed:
        if start > position:
            yield position, start
        position = max(position, end)
    if position < size:
        yield position, size


def _sentences(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for match in _BOUNDARY.finditer(data, start, end):
        if b"\n" not in match.group() and _ABBREVIATION.search(data, max(begin, match.start() - 12), match.start()):
            continue
        yield from _cut(data, begin, match.start())
        begin = match.end()
    yield from _cut(data, begin, end)


def _cut(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A sentence too long for a passage, in pieces: at a blank where there is one, never inside a character."""
    while end - start > MAX_BYTES:
        at = max(data.rfind(b" ", start, start + MAX_BYTES), data.rfind(b"\n", start, start + MAX_BYTES))
        if at <= start:
            at = start + MAX_BYTES
            while at > start and data[at] & 0xC0 == 0x80:
                at -= 1
        yield start, at
        start = at
    if end > start:
        yield start, end


def trimmed(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Without blanks at both ends and stray punctuation at the first; None where no two words are left."""
    piece = data[start:end]
    start += len(piece) - len(piece.lstrip(_EDGES))
    end -= len(piece) - len(piece.rstrip(b" \t\n\r"))
    if start >= end or len(_WORD.findall(data[start:end])) < 2:
        return None
    return start, end


def windows(data: bytes, removed: Sequence[tuple[int, int, str]] = ()) -> list[tuple[int, int]]:
    """(start, end) of passages of up to three sentences and 600 bytes, neighbours sharing a sentence.

    No passage touches a removed span, none is cut inside a character.

    :param data: the stored UTF-8 text.
    :param removed: (byte start, byte end, reason), sorted, from `clinical.cleaning.clean`.
    """
    out: list[tuple[int, int]] = []
    for segment_start, segment_end in _segments(len(data), removed):
        sentences = list(_sentences(data, segment_start, segment_end))
        first = 0
        while first < len(sentences):
            last = first
            while (
                last + 1 < len(sentences)
                and last + 1 - first < SENTENCES
                and sentences[last + 1][1] - sentences[first][0] <= MAX_BYTES
            ):
                last += 1
            window = trimmed(data, sentences[first][0], sentences[last][1])
            if window is not None:
                out.append(window)
            if last + 1 >= len(sentences):
                break
            first = last if last > first else last + 1
    return out
