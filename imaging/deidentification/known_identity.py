"""What a data set and the service know of the patient and of other persons, to be looked for in every value that stays.

A word list cannot tell a scanner called Vida from a person called so, nor the b-value b4711 from the patient number B4711;
what is known of the persons concerned can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["NOBODY", "KnownIdentity"]

MIN_NAME = 3  # letters: shorter ones are words of every language
MIN_NUMBER = 3
MIN_DIGITS = 4
MIN_INSIDE = 6
MIN_NUMERIC = 6  # a number of an examination has fewer digits more often than it is somebody's
_WORD = re.compile(r"[^\W_]+")


def _plain(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


def _digits(plain: str) -> str:
    return "".join(char for char in plain if char.isdigit()).lstrip("0")


@dataclass(frozen=True)
class KnownIdentity:
    """Names and numbers of persons, folded for comparing.

    :param names: words, lower case. :param numbers: identifiers, lower case, letters and digits only.
    :param digits: their digits without leading zeros, where there are four or more.
    """

    names: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    digits: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str] = (), numbers: Iterable[str] = ()) -> KnownIdentity:
        """From names and identifiers as they are written."""
        words = {word.lower() for name in names for word in _WORD.findall(name) if len(word) >= MIN_NAME}
        plain = {one for one in map(_plain, numbers) if len(one) >= MIN_NUMBER and any(map(str.isdigit, one))}
        digits = {one for one in map(_digits, plain) if len(one) >= MIN_DIGITS}
        return cls(frozenset(words), frozenset(plain), frozenset(digits))

    def __or__(self, other: KnownIdentity) -> KnownIdentity:
        return KnownIdentity(self.names | other.names, self.numbers | other.numbers, self.digits | other.digits)

    def names_person(self, word: str) -> bool:
        """Whether ``word`` is part of a known name."""
        return word.lower() in self.names

    def is_identifier(self, token: str) -> bool:
        """Whether ``token`` is, or holds, a known identifier, however it is grouped and whatever letters stand before it."""
        if not self.numbers:
            return False
        plain = _plain(token)
        return (
            plain in self.numbers
            or _digits(plain) in self.digits
            or any(len(one) >= MIN_INSIDE and one in plain for one in self.numbers)
        )

    def is_grouped(self, first: str, second: str) -> bool:
        """Whether two neighbouring tokens are one known identifier in two pieces."""
        if not self.numbers:
            return False
        plain = _plain(first + second)
        both = any(map(str.isdigit, first)) and any(map(str.isdigit, second))
        return plain in self.numbers or (both and _digits(plain) in self.digits)

    def is_number(self, text: str) -> bool:
        """Whether a decimal or integer string is a known identifier of six or more digits."""
        if not self.digits:
            return False
        return any(
            len(run) >= MIN_NUMERIC and run in self.digits
            for run in (part.lstrip("0") for part in re.findall(r"\d+", text))
        )


NOBODY = KnownIdentity()
