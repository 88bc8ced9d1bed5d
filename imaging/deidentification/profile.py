"""What happens to each attribute: Table E.1-1 under our options, and our allow-list for what the table does not name.

``data/table_e_1_1.csv`` is the standard's, ``data/profile.json`` is ours. An attribute that neither names is removed.
``data/defined_terms.json`` holds the standard's terms of code strings, ``data/vocabulary.json`` the words of medicine and
research that stay in descriptors, beside those of technique in the profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, tag_for_keyword

from imaging.deidentification.table_e1_1 import EDITION, TABLE, Row, resolve

__all__ = ["ACTIONS", "RULES", "Rule", "Rules"]

FIRST_OF_A_DATA_SET = 0x00080000  # groups 0 to 6 are commands, file meta information and directories
_FOLDER = Path(__file__).with_name("data")
_LISTS = ("joining", "also_names", "titles", "announcing", "announcing_numbers", "version_numbers")
_DATA = _FOLDER / "profile.json"
ACTIONS = {
    "X": "removed",
    "Z": "emptied",
    "D": "replaced by a dummy",
    "U": "UID replaced",
    "C": "cleaned",
    "S": "date shifted",
    "A": "age, 90 and over as 90",
    "K": "kept",
    "P": "private, removed",
    "PK": "private, on the safe list, kept",
    "V": "removed or emptied for its value",
}
"""How the report of a study names what was done."""


@dataclass(frozen=True)
class Rule:
    """What happens to one attribute.

    :param action: X, Z, D, U as in the table; pseudonym; and the ways to keep or clean: K (a value of its kind), C (known
        words), S (shift the date), T (keep the time of day), A (age), contrast, code, version, walk (into a sequence).
    :param terms: the standard's terms of a code string. :param closed: nothing but these may stay.
    :param otherwise: X, Z or D, where nothing of the value can stay.
    :param needed: geometry or pixels cannot do without; a value that cannot stay is an error.
    :param by_class: SOP Class UID -> action, where the attribute's type in that IOD decides.
    """

    keyword: str
    tag: int
    action: str
    vrs: frozenset[str]
    count: int
    terms: frozenset[str] = frozenset()
    closed: bool = False
    otherwise: str = "X"
    needed: bool = False
    by_class: Mapping[str, str] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether what becomes of an element depends on nothing but itself."""
        return self.action not in ("walk", "code") and not self.by_class

    @property
    def vr(self) -> str:
        """The VR it is written in when its value is ours."""
        return min(self.vrs)


@dataclass(frozen=True)
class Rules:
    """Everything known about attributes. ``by_tag`` holds the whole table; what is in neither file is removed."""

    by_tag: Mapping[int, Rule]
    words: frozenset[str]
    joining: frozenset[str]
    also_names: frozenset[str]
    titles: frozenset[str]
    announcing: frozenset[str]
    announcing_numbers: frozenset[str]
    version_numbers: frozenset[str]
    all_terms: frozenset[str]
    needed: frozenset[int]
    private: Mapping[tuple[str, int, int], str]
    method: str
    options: tuple[str, ...]
    edition: str = EDITION


def _count(vm: str) -> int:
    last = vm.rsplit("-", 1)[-1]
    return int(last) if last.isdigit() else 64


@dataclass(frozen=True)
class _Terms:
    """Defined terms by keyword, and the keywords where nothing else may stay."""

    by_keyword: Mapping[str, frozenset[str]]
    closed: frozenset[str]


def _terms() -> _Terms:
    data = json.loads((_FOLDER / "defined_terms.json").read_text(encoding="utf-8"))
    by_keyword = {keyword: frozenset("|".join(lines).split("|")) for keyword, lines in data["terms"].items()}
    return _Terms(MappingProxyType(by_keyword), frozenset(" ".join(data["closed"]).split()))


def _bare(tag: int, keyword: str, action: str, terms: _Terms) -> Rule:
    if not dictionary_has_tag(tag):  # newer than our data dictionary: we cannot say what it may hold
        return Rule(keyword, tag, "X", frozenset({"UN"}), 1)
    vrs = frozenset(dictionary_VR(tag).replace(" or ", " ").split())
    own = terms.by_keyword.get(keyword, frozenset())
    return Rule(keyword, tag, action, vrs, _count(dictionary_VM(tag)), own, keyword in terms.closed)


def _cleaning(vrs: frozenset[str]) -> str:
    """How C or K of the table is carried out for a VR; X where it cannot be."""
    if vrs & {"DA", "DT"}:
        return "S"
    if "TM" in vrs:
        return "T"
    if "SQ" in vrs:
        return "walk"
    if vrs & {"LO", "LT", "ST", "UT", "UC", "SH"}:
        return "C"
    return "K" if vrs & {"CS", "DS", "US", "AS"} else "X"


def _of_table(row: Row, tag: int, data: Mapping[str, Any], terms: _Terms) -> Rule:
    """The rule of one row of Table E.1-1."""
    ours = {keyword: way for way, lines in data["carried_out"].items() for keyword in " ".join(lines).split()}
    rule = _bare(tag, row.keyword, "X", terms)
    basic = resolve(row, ())[0]
    types = data["types"].get(row.keyword, {})

    def action_of(attribute_type: str) -> str:
        action, _ = resolve(row, data["options"], attribute_type)
        if action in ("K", "C"):
            return _cleaning(rule.vrs) if rule.vrs != {"UN"} else "X"
        if action == "U" and "SQ" in rule.vrs:
            return "walk"
        if action == "D" and rule.vrs & {"SQ", "OB", "UN"}:
            return "X"
        return action

    by_class = {
        uid: action_of(attribute_type) for attribute_type, uids in types.items() for uid in " ".join(uids).split()
    }
    otherwise = basic if basic in ("Z", "D") and not rule.vrs & {"SQ", "OB", "UN"} else "X"
    action = ours.get(row.keyword) or action_of("3")
    if action == "age":
        action = "A"
    if tag < FIRST_OF_A_DATA_SET:
        action, otherwise = "X", "X"
    return replace(rule, action=action, otherwise=otherwise, by_class=MappingProxyType(by_class))


def _load() -> Rules:
    data = json.loads(_DATA.read_text(encoding="utf-8"))
    data["carried_out"].pop("about")
    terms = _terms()
    vocabulary = json.loads((_FOLDER / "vocabulary.json").read_text(encoding="utf-8"))
    vocabulary.pop("about")
    lists = {kind: frozenset(" ".join(vocabulary.pop(kind)).split()) for kind in _LISTS}
    words = {word for lines in (data["words"], *vocabulary.values()) for word in " ".join(lines).split()}
    needed = frozenset(" ".join(data["needed"]["keywords"]).split())
    rules: dict[int, Rule] = {}
    for row in TABLE:
        if row.number is not None:
            rules[row.number] = _of_table(row, row.number, data, terms)
    for action, lines in data["kept"].items():
        for keyword in " ".join(lines).split():
            tag = tag_for_keyword(keyword)
            if tag is None or tag in rules:
                raise ValueError(f"profile.json: {keyword} is unknown, named twice or in Table E.1-1")
            rules[tag] = _bare(tag, keyword, {"sequence": "walk", "C:code": "code"}.get(action, action), terms)
    for tag, rule in rules.items():
        if rule.keyword in needed:
            rules[tag] = replace(rule, needed=True)
    private = {}
    for entry in data["safe_private"]["entries"]:
        creator, group, element, vr = entry.split("|")
        private[creator, int(group, 16), int(element, 16)] = vr
    return Rules(
        MappingProxyType(rules),
        frozenset(words) | lists["joining"],
        lists["joining"],
        lists["also_names"],
        lists["titles"],
        lists["announcing"],
        lists["announcing_numbers"],
        lists["version_numbers"],
        frozenset().union(*terms.by_keyword.values()),
        frozenset(tag for tag in map(tag_for_keyword, needed) if tag is not None),
        MappingProxyType(private),
        data["method"],
        tuple(data["options"]),
    )


RULES = _load()
