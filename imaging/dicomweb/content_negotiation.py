"""Media types of DICOMweb: what a client accepts against what can be given (PS3.18 section 8.7; RFC 9110 section 12.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["DICOM_JSON", "MediaRange", "NotAcceptable", "accepted", "choose_json", "parse_media_type"]

DICOM_JSON = "application/dicom+json"
MAX_HEADER = 4096
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf"\s*;\s*({_WORD})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^;,\s\"]*))")
_TYPE = re.compile(rf"\s*({_WORD}/{_WORD}|\*/\*|\*|{_WORD}/\*)")


class NotAcceptable(Exception):
    """Nothing the client accepts can be given: 406. The message names what could be."""


@dataclass(frozen=True)
class MediaRange:
    """One range of an Accept header.

    :param type: lower case, e.g. ``multipart/related``, ``*/*``.
    :param parameters: lower-case names; ``q`` left out.
    """

    type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    quality: float = 1.0

    @property
    def inner(self) -> str:
        """The type of the parts of ``multipart/related``; the type itself otherwise; ``*/*`` where it is open."""
        if self.type == "multipart/related":
            return self.parameters.get("type", "*/*").lower()
        return self.type

    @property
    def multipart(self) -> bool:
        """Whether parts are asked for, or nothing in particular."""
        return self.type in ("multipart/related", "multipart/*", "*/*")

    @property
    def transfer_syntax(self) -> str:
        """The parameter transfer-syntax: a UID, ``*`` for as stored, or empty."""
        return self.parameters.get("transfer-syntax", "")

    def covers(self, media_type: str) -> bool:
        """Whether the (inner) range includes ``media_type``."""
        wanted = self.inner
        return wanted in ("*/*", media_type) or (wanted.endswith("/*") and media_type.startswith(wanted[:-1]))


def parse_media_type(value: str) -> MediaRange:
    """A single media type, as of a Content-Type header. :raises ValueError: it is none."""
    found = list(_ranges(value))
    if len(found) != 1 or "*" in found[0].type:
        raise ValueError("not a media type")
    return found[0]


def accepted(header: str, override: str = "") -> list[MediaRange]:
    """The ranges of an Accept header (or of the ``accept`` query parameter), best first; ``*/*`` where there is none.

    :raises NotAcceptable: it cannot be read.
    """
    text = override or header
    if not text.strip():
        return [MediaRange("*/*")]
    try:
        found = [one for one in _ranges(text) if one.quality > 0]
    except ValueError as error:
        raise NotAcceptable("the Accept header cannot be read") from error
    return sorted(found, key=lambda one: -one.quality)


def choose_json(ranges: list[MediaRange]) -> str:
    """``application/dicom+json``, or ``application/json`` for who asks for that only. :raises NotAcceptable:"""
    for one in ranges:
        if one.type != "multipart/related" and one.covers(DICOM_JSON):
            return DICOM_JSON
        if one.type == "application/json":
            return "application/json"
    raise NotAcceptable(f"only {DICOM_JSON} can be given")


def _ranges(text: str) -> Iterator[MediaRange]:
    if len(text) > MAX_HEADER:
        raise ValueError("too long")
    position = 0
    while position < len(text):
        match = _TYPE.match(text, position)
        if match is None:
            raise ValueError("no media type")
        kind = match[1].lower()
        kind = "*/*" if kind == "*" else kind  # sent by Java's URLConnection
        position = match.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(text, position)) is not None:
            quoted, plain = parameter[2], parameter[3]
            parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            position = parameter.end()
        yield MediaRange(kind, parameters, _quality(parameters.pop("q", "1")))
        rest = re.compile(r"\s*(,|$)").match(text, position)
        if rest is None:
            raise ValueError("no comma between media types")
        position = rest.end()


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
