"""The query of a QIDO-RS search (PS3.18 section 8.3.4 and 10.6): which attributes, how matched, how many.

Matching is that of PS3.4 section C.2.2.2: single value, list of UID, wild card, range, sequence; on DICOM JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

__all__ = ["LEVELS", "BadQuery", "Level", "Query", "matches", "parse_query"]

MAX_KEYS = 32
MAX_VALUE = 1024


class BadQuery(ValueError):
    """The query cannot be understood: 400. The message names the parameter and no value."""


@dataclass(frozen=True)
class Level:
    """What an answer of one level carries always (PS3.18 Tables 10.6.3-3 to 10.6.3-5)."""

    name: str
    most: int
    default: int
    tags: tuple[str, ...]


# Ours besides the tables': the descriptions, which every viewer's list shows.
_STUDY = ("00080005 00080020 00080030 00080050 00080056 00080061 00080090 00080201 00081030 00081190 00100010 00100020 "
          "00100030 00100040 0020000D 00200010 00201206 00201208")  # fmt: skip
_SERIES = "00080005 00080056 00080060 00080201 0008103E 00081190 0020000E 00200011 00201209 00400244 00400245 00400275"
_INSTANCE = "00080005 00080016 00080018 00080056 00080201 00081190 00200013 00280008 00280010 00280011 00280100"
LEVELS: dict[str, Level] = {
    "studies": Level("studies", 1000, 100, tuple(_STUDY.split())),
    "series": Level("series", 5000, 1000, tuple(_SERIES.split())),
    "instances": Level("instances", 20000, 5000, tuple(_INSTANCE.split())),
}
_OPTIONS = frozenset(
    {"limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"}
)
_NO_WILDCARD = frozenset({"DA", "TM", "DT", "UI", "IS", "DS", "US", "UL", "SS", "SL", "FD", "FL", "AS", "AT", "SQ"})


@dataclass(frozen=True)
class Query:
    """A parsed query.

    :param keys: path of tags (one, or ``sequence, item``) -> value asked for.
    :param include: tags to add, or None for all.
    :param warnings: texts for Warning headers.
    """

    keys: Mapping[tuple[str, ...], str]
    include: frozenset[str] | None
    limit: int
    offset: int
    warnings: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The matching keys without their values, for the audit record."""
        return [".".join(path) for path in sorted(self.keys)]


def parse_query(parameters: Iterable[tuple[str, str]], level: Level) -> Query:
    """Read the query parameters. :raises BadQuery: an unknown parameter, or a number that is none."""
    keys: dict[tuple[str, ...], str] = {}
    include: set[str] = set()
    everything = False
    limit, offset = level.default, 0
    warnings: list[str] = []
    for name, value in parameters:
        if not value.isprintable():  # no value of a key has such; PostgreSQL takes no NUL
            raise BadQuery("a value holds a character that no text has")
        if name == "limit":
            limit = min(_count(name, value), level.most)
        elif name == "offset":
            offset = _count(name, value)
        elif name == "includefield":
            for one in filter(None, (part.strip() for part in value.split(","))):
                if one.lower() == "all":
                    everything = True
                else:
                    include.add(_path(one)[0])
        elif name in _OPTIONS:
            if value.lower() == "true":
                warnings.append(f"The {name} parameter is not supported. Only literal matching has been performed.")
        elif name == "accept":
            continue
        else:
            path = _path(name)
            if len(value) > MAX_VALUE or len(keys) >= MAX_KEYS:
                raise BadQuery("the query is too long")
            if path in keys:
                raise BadQuery(f"{keyword_for_tag(int(path[-1], 16))} is asked for twice")
            if value not in ("", "*"):  # universal matching: everything
                keys[path] = value
    return Query(keys, None if everything else frozenset(include), limit, offset, tuple(warnings))


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value):
        raise BadQuery(f"{name} is not a number")
    return int(value)


def _path(name: str) -> tuple[str, ...]:
    parts = name.split(".")
    if len(parts) > 3:
        raise BadQuery("an attribute is nested too deep")
    return tuple(_tag(part) for part in parts)


def _tag(name: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return name.upper()
    tag = tag_for_keyword(name)
    if tag is None:
        raise BadQuery("a parameter is neither an attribute nor an option")
    return f"{int(tag):08X}"


@lru_cache(maxsize=2048)
def _vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError:
        return "UN"


def matches(header: Mapping[str, Any], path: Sequence[str], wanted: str) -> bool:
    """Whether an attribute of a DICOM JSON object matches. A sequence matches when one of its items does."""
    member = header.get(path[0]) or {}
    values = member.get("Value") or []
    if len(path) > 1:
        return any(isinstance(item, dict) and matches(item, path[1:], wanted) for item in values)
    vr = _vr(path[0])
    found = [_text(value) for value in values if value is not None]
    return any(_one(vr, value, wanted) for value in found)


def _text(value: Any) -> str:
    if isinstance(value, dict):  # a person's name: its component groups
        return "=".join(str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    return str(value).strip()


def _one(vr: str, value: str, wanted: str) -> bool:
    if vr == "UI":
        return value in re.split(r"[,\\]", wanted)
    if vr in ("DA", "TM", "DT") and "-" in wanted:
        return in_range(value, wanted)
    if vr in ("IS", "DS", "US", "UL", "SS", "SL", "FD", "FL"):
        try:
            return float(value) == float(wanted)
        except ValueError:
            return False
    if vr in _NO_WILDCARD:
        return value == wanted
    if vr == "PN":
        groups = [value, *value.split("=")]
        return any(_wild(group.rstrip("^").casefold(), wanted.rstrip("^").casefold()) for group in groups)
    return _wild(value, wanted)


def in_range(value: str, wanted: str) -> bool:
    """Range matching of dates and times: ``a-b``, ``a-``, ``-b``, ends included; times compare by their digits."""
    first, _, last = wanted.partition("-")
    first, last, value = (re.sub(r"[:.\s]", "", one) for one in (first, last, value))
    if not value:
        return False
    return (not first or value.ljust(len(first), "0") >= first) and (not last or value[: len(last)] <= last)


def _wild(value: str, wanted: str) -> bool:
    """``*`` and ``?`` (PS3.4 section C.2.2.2.4), in linear time however many stars there are."""
    v = w = mark = 0
    star = -1
    while v < len(value):
        if w < len(wanted) and wanted[w] == "*":
            star, mark = w, v
            w += 1
        elif w < len(wanted) and wanted[w] in ("?", value[v]):
            v, w = v + 1, w + 1
        elif star >= 0:
            mark += 1
            v, w = mark, star + 1
        else:
            return False
    return all(one == "*" for one in wanted[w:])
