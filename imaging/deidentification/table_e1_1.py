"""PS3.15 Table E.1-1 as data, and what it asks of an attribute under the options we declare.

``data/table_e_1_1.csv`` holds every row of the table with the columns of the standard: the Basic Profile and ten options,
the options by their CID 7050 code. A new edition of the standard is a new file; nothing here knows an attribute by name.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

__all__ = ["EDITION", "REPEATING", "TABLE", "Row", "resolve"]

EDITION = "PS3.15 2026d"
PRIVATE = "PRIVATE"
REPEATING = {
    "50xxxxxx": (0xFF000000, 0x50000000),
    "60xx3000": (0xFF00FFFF, 0x60003000),
    "60xx4000": (0xFF00FFFF, 0x60004000),
}
"""Rows for repeating groups (PS3.5 section 7.6): (mask, value) of the tags they stand for."""
OPTIONS = ("113111", "113110", "113109", "113112", "113108", "113106", "113107", "113105", "113104", "113103")
_PATH = Path(__file__).with_name("data") / "table_e_1_1.csv"


@dataclass(frozen=True)
class Row:
    """One row.

    :param tag: eight hexadecimal digits, with x in repeating groups; or PRIVATE.
    :param basic: X remove, Z empty or dummy, D dummy, U replace the UID; X/Z, X/D, Z/D, X/Z/D, X/Z/U* by the attribute's
        type in the IOD (Table E.1-1a).
    :param options: CID 7050 code -> K keep or C clean.
    """

    tag: str
    keyword: str
    basic: str
    options: Mapping[str, str]

    @property
    def number(self) -> int | None:
        """The tag as a number; None for a repeating group and for private attributes."""
        return int(self.tag, 16) if self.tag != PRIVATE and "x" not in self.tag else None


def _load() -> tuple[Row, ...]:
    with _PATH.open(encoding="utf-8", newline="") as file:
        return tuple(
            Row(
                line["tag"],
                line["keyword"],
                line["basic"],
                MappingProxyType({code: line[code] for code in OPTIONS if line[code]}),
            )
            for line in csv.DictReader(file)
        )


TABLE: tuple[Row, ...] = _load()


def resolve(row: Row, options: Iterable[str], attribute_type: str = "3") -> tuple[str, str]:
    """What the table asks: (action, code of the option that asks it or 113100).

    An option's K or C stands above the Basic Profile (section E.1.1); K above C where two declared options differ.

    :param attribute_type: of the attribute in the IOD (PS3.5 section 7.4): 1, 1C, 2, 2C or 3.
    :returns: action K, C, X, Z, D or U ("U" of X/Z/U*: the UIDs inside are replaced).
    """
    asked = [(row.options[code], code) for code in options if code in row.options]
    for action in ("K", "C"):
        for given, code in asked:
            if given == action:
                return action, code
    choices = row.basic.rstrip("*").split("/")
    if len(choices) == 1 or "U" in choices:
        return choices[-1], "113100"
    wanted = {"1": "D", "2": "Z"}.get(attribute_type[0], "X")
    if wanted in choices:
        return wanted, "113100"
    # The next stricter than what the type needs would break the IOD; the next weaker keeps it whole.
    return next(choice for choice in (("Z", "D") if wanted == "X" else ("D", "Z")) if choice in choices), "113100"
