"""Answers about identities, merges and de-identification as schemas; see `oncoflow_site.api.answers`."""

from __future__ import annotations

from pydantic import JsonValue

from oncoflow_site.api.answers import ApiAnswer
from oncoflow_site.foundation.schema import Instant

__all__ = [
    "AttributeAction",
    "ConflictAnswer",
    "ConflictRevealed",
    "DeidentificationAnswer",
    "DeidentificationRow",
    "FaceRow",
    "IdentitiesAnswer",
    "IdentityConfirmed",
    "MergeAnswer",
    "MergeMove",
    "MergePreviewAnswer",
    "MergeSince",
    "MergeWithNews",
    "RevealedIdentity",
]


class ConflictAnswer(ApiAnswer):
    """Two identities that contradict each other; nothing of either."""

    id: str
    kind: str
    patient: str
    other_patient: str | None
    contradicts: tuple[str, ...]
    source: str
    sender: str
    state: str
    times: int
    created_at: Instant
    decided_by: str | None
    reason: str


class RevealedIdentity(ApiAnswer):
    """An identity as it came. ``identifiers``: authority, value, type and, where it is not the usual one, use."""

    family: str
    given: str
    birth_date: str | None
    sex: str
    identifiers: tuple[tuple[str, ...], ...]


class ConflictRevealed(ConflictAnswer):
    """A contradiction with the identity that brought it."""

    identity: RevealedIdentity


class MergeAnswer(ApiAnswer):
    """One merge of two patients, by their ids."""

    id: str
    survivor: str
    prior: str
    state: str
    contradicts: tuple[str, ...]
    source: str
    sender: str
    reason: str
    requested_by: str | None
    merged_at: Instant | None


class MergeSince(ApiAnswer):
    """Rows of one model that came to the survivor since."""

    model: str
    name: str
    ids: tuple[str, ...]


class MergeWithNews(MergeAnswer):
    """A merge, and what has come to the survivor since."""

    came_since: tuple[MergeSince, ...]


class MergeMove(ApiAnswer):
    """How many rows of one model would move."""

    model: str
    name: str
    count: int


class MergePreviewAnswer(ApiAnswer):
    """What a merge would do."""

    survivor: str
    prior: str
    moves: tuple[MergeMove, ...]
    contradicts: tuple[str, ...]
    needs_second_person: bool


class IdentitiesAnswer(ApiAnswer):
    """What waits for a person."""

    conflicts: tuple[ConflictAnswer, ...]
    merges: tuple[MergeAnswer, ...]


class IdentityConfirmed(ApiAnswer):
    """A patient whose identity a person has confirmed."""

    patient: str
    provisional: bool
    confirmed_at: Instant | None


class AttributeAction(ApiAnswer):
    """What was done to one attribute, and how often."""

    tag: str
    keyword: str
    vr: str
    action: str
    count: int


class DeidentificationRow(ApiAnswer):
    """De-identification by one profile and table edition. ``meanings``: code and display; ``pixels``: judgement -> images."""

    profile: str
    table: str
    codes: tuple[str, ...]
    meanings: tuple[tuple[str, str], ...]
    instances: int
    pixels: dict[str, int]
    updated_at: str
    attributes: tuple[AttributeAction, ...]


class FaceRow(ApiAnswer):
    """What became of the face in one series. ``plane``: the cut, as its maker describes it."""

    series: str
    number: int | None
    sequence: str
    removed: bool
    reason: str
    instances: int
    voxels: int
    plane: dict[str, JsonValue]
    at: str


class DeidentificationAnswer(ApiAnswer):
    """De-identification of one study, newest first."""

    study: str
    reports: tuple[DeidentificationRow, ...]
    faces: tuple[FaceRow, ...]
