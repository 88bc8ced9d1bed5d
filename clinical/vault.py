"""Small encrypted values and blind indexes of this room."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from datetime import date
from typing import Any

from oncoflow_site.foundation import keys
from oncoflow_site.foundation.schema import JsonDict

__all__ = [
    "accession_index",
    "birth_date_index",
    "blind_index",
    "dicom_uid_index",
    "ei_index",
    "family3_index",
    "family_index",
    "identifier_index",
    "normal_name",
    "open_json",
    "seal_json",
]

_SEPARATOR = "\x1f"  # cannot occur in a number, so that ("A", "B1") and ("AB", "1") differ


def seal_json(subject: str, data: Mapping[str, Any], *, context: str) -> bytes:
    """``data`` encrypted under the data key of ``subject``; ``context`` must be the same to open it."""
    plain = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return keys.encrypt(subject, plain, context)


def open_json(subject: str, ciphertext: bytes | memoryview, *, context: str) -> JsonDict:
    """The reverse of `seal_json`."""
    data = json.loads(keys.decrypt(subject, bytes(ciphertext), context))
    if not isinstance(data, dict):
        raise TypeError("an encrypted value does not hold an object")
    return data


def blind_index(purpose: str, *parts: str) -> str:
    """Keyed hash of ``parts`` as 64 hexadecimal digits; equal for equal parts and purpose only."""
    return keys.keyed_hash(purpose, _SEPARATOR.join(parts)).hex()


def normal_name(text: str) -> str:
    """A name for comparison: upper case, no diacritics, letters and digits only (``Müller-Lüdenscheidt`` ->
    ``MULLERLUDENSCHEIDT``; letters of other scripts stay)."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if char.isalnum()).upper()


def identifier_index(authority: str, kind: str, value: str) -> str:
    """Blind index of a patient's number under its assigning authority. Case and inner blanks do not count."""
    return blind_index("patient.identifier", authority.strip(), kind.strip(), "".join(value.split()).upper())


def family_index(family: str) -> str:
    """Blind index of the normalised family name."""
    return blind_index("patient.family", normal_name(family))


def family3_index(family: str) -> str:
    """Blind index of the first three letters of the normalised family name."""
    return blind_index("patient.family3", normal_name(family)[:3])


def birth_date_index(born: date) -> str:
    """Blind index of a birth date."""
    return blind_index("patient.birth_date", born.isoformat())


def ei_index(purpose: str, number: str, authority: str = "") -> str | None:
    """Blind index of an entity identifier (HL7 EI: the number and its namespace together), None without a number."""
    number = number.strip()
    return blind_index(purpose, authority.strip(), number) if number else None


def accession_index(number: str) -> str | None:
    """Blind index of an accession number, the same for an order and for a study, so that a match is a join and discloses
    nothing; None without a number."""
    return ei_index("order.accession", number)


def dicom_uid_index(uid: str) -> str | None:
    """Blind index of a DICOM UID as sent, the same for what an order announces and for what arrives; None without one."""
    uid = uid.strip()
    return keys.keyed_hash("dicom-uid-index", uid).hex() if uid else None
