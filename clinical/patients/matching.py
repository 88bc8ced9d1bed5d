"""Which numbers recognise a patient, and what contradicts a match.

A number recognises a patient only if its type (HL7 table 0203) is one that the assigning authority is configured to match
on, ``MR`` by default, and the authority is known here. What a match must not contradict are name, birth date and sex; what
one side does not say contradicts nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from django.conf import settings

from clinical.identity import Identifier, IdentityData
from clinical.models import AssigningAuthority, Patient
from clinical.vault import normal_name
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = [
    "IdentityContradiction",
    "MatchingPolicy",
    "contradictions",
    "matching_policy",
    "names_agree",
]

_OIDS = "ONCOFLOW_AUTHORITY_OIDS"
# Spellings of one name: MUELLER and MULLER, BJOERN and BJORN.
_EXPANDED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})
_ALIKE = 0.8  # ratio of matching letters (Ratcliff and Obershelp) from which two spellings are taken for one name


@dataclass(frozen=True)
class MatchingPolicy:
    """Known assigning authorities and the types of their numbers that recognise a patient.

    :param types: authority -> HL7 table 0203 codes.
    :param names: every other name, OID or URI of an authority, casefolded -> authority.
    """

    types: Mapping[str, frozenset[str]]
    names: Mapping[str, str]

    def matches(self, identifier: Identifier) -> bool:
        """Whether this number recognises its patient."""
        return identifier.kind in self.types.get(identifier.authority, ())

    def authority(self, *names: str) -> str:
        """The known authority that the first known of ``names`` means; else the first of them that is not empty."""
        given = [name.strip() for name in names if name.strip()]
        for name in given:
            if name in self.types:
                return name
            found = self.names.get(name.casefold().removeprefix("urn:oid:"))
            if found:
                return found
        return given[0] if given else ""

    def matching(self, identifiers: Iterable[Identifier]) -> tuple[Identifier, ...]:
        """Those of ``identifiers`` that recognise a patient."""
        return tuple(one for one in identifiers if self.matches(one))


def matching_policy() -> MatchingPolicy:
    """The policy in force: the hospital's own authority, and what the administration holds beside it."""
    home = str(settings.ONCOFLOW_ASSIGNING_AUTHORITY)
    types = {home: frozenset({"MR"})}
    names = {home.casefold(): home}
    configured: Mapping[str, str] = getattr(settings, _OIDS, {})
    for oid, name in configured.items():
        names[oid.casefold()] = name
    for row in AssigningAuthority.objects.all():
        types[row.name] = frozenset(str(code).strip().upper() for code in row.matching_types)
        for other in (row.name, row.universal_id, row.system, *map(str, row.other_names)):
            if other.strip():
                names[other.strip().casefold().removeprefix("urn:oid:")] = row.name
    return MatchingPolicy(types, names)


class IdentityContradiction(UserVisibleError):
    """A number matches, and what stands beside it contradicts; or the numbers are those of two patients.

    Nothing was matched. A door that can wait notes it on the work list (`conflicts.note_conflict`) after its own
    transaction has been rolled back.

    :ivar patients: whom the numbers match; one, or two.
    :ivar contradicts: of ``name``, ``birth_date``, ``sex``; empty for the numbers of two patients.
    :ivar identity: the identity as it came. Never printed.
    """

    def __init__(self, patients: tuple[Patient, ...], contradicts: tuple[str, ...], identity: IdentityData) -> None:
        if len(patients) > 1:
            text, code = "These identifiers belong to different patients.", "patient-identifiers-conflict"
        else:
            said = " and ".join(one.replace("_", " ") for one in contradicts)
            text, code = f"The number is that of a patient whose {said} is another.", "patient-contradiction"
        super().__init__(text, what_to_do="A person decides on the page of identities whose data these are.", code=code)
        self.patients = patients
        self.contradicts = contradicts
        self.identity = identity


def _words(name: str) -> set[str]:
    parts = re.split(r"[\s,;^.'’\-]+", name)
    return {form for part in parts for form in (_plain(part), _plain(part.casefold().translate(_EXPANDED))) if form}


def _plain(part: str) -> str:
    return normal_name(unicodedata.normalize("NFC", part))


def names_agree(first: str, second: str) -> bool:
    """Whether two family names, or two given names, can be the same person's: a part in common (``Müller-Kraft`` and
    ``MUELLER``), an initial, or another spelling (``Meyer`` and ``Meier``)."""
    left, right = _words(first), _words(second)
    if left & right:
        return True
    if any(
        len(one) == 1 and other.startswith(one) for a, b in ((left, right), (right, left)) for one in a for other in b
    ):
        return True
    return any(SequenceMatcher(None, one, other).ratio() >= _ALIKE for one in left for other in right)


def _name_contradicts(known: IdentityData, told: IdentityData) -> bool:
    if not known.family or not told.family:
        return bool(not known.family and not told.family and known.given and told.given) and not names_agree(
            known.given, told.given
        )
    given_known = bool(known.given and told.given)
    if given_known and names_agree(known.family, told.given) and names_agree(known.given, told.family):
        return False  # family and given name changed places, as scanners like to do
    given_agrees = given_known and names_agree(known.given, told.given)
    if names_agree(known.family, told.family):
        return given_known and not given_agrees  # twins: everything but the given name may be the same
    # Another family name is a marriage only where the rest says that it is the same person.
    same_birth_date = known.birth_date is not None and known.birth_date == told.birth_date
    return not (given_agrees and same_birth_date)


def contradictions(known: IdentityData, told: IdentityData) -> tuple[str, ...]:
    """What of ``told`` cannot be said of the person ``known``: of ``name``, ``birth_date``, ``sex``.

    A spelling, a changed order of the names, and a new family name with the same given name and birth date are no
    contradiction. Sex contradicts between M and F only.
    """
    found = []
    if _name_contradicts(known, told):
        found.append("name")
    if known.birth_date and told.birth_date and known.birth_date != told.birth_date:
        found.append("birth_date")
    if {known.sex, told.sex} == {"M", "F"}:
        found.append("sex")
    return tuple(found)
