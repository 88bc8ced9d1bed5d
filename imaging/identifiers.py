"""What names a patient or a scan, encrypted beside the rows of `imaging.models`, and the keyed hashes to find it by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache

from clinical import vault
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.schema import JsonDict

__all__ = [
    "SeriesIdentity",
    "StudyIdentity",
    "accession_index",
    "is_standard_uid",
    "map_uid",
    "open_series",
    "open_sop_instance_uid",
    "open_study",
    "seal",
    "uid_index",
]

# PS3.6: UIDs below this root are defined by the standard (classes, syntaxes, well-known frames) and name nobody.
STANDARD_ROOT = "1.2.840.10008."


@dataclass(frozen=True)
class StudyIdentity:
    """Study level identifiers as sent. ``frame_of_reference`` is that of the first series that had one."""

    study_instance_uid: str
    accession: str = ""
    frame_of_reference: str = ""


@dataclass(frozen=True)
class SeriesIdentity:
    """Series level identifiers as sent, with the description before cleaning and what else its header says of the acquisition
    (`imaging.dicom.acquisition.to_json`; its free text may name somebody)."""

    series_instance_uid: str
    frame_of_reference: str = ""
    description: str = ""
    acquisition: JsonDict = field(default_factory=dict)


def seal(
    subject: str, value: StudyIdentity | SeriesIdentity | str, *, context: str, key: keys.aead.Aead | None = None
) -> bytes:
    """Encrypt with the data key of ``subject``. ``context`` is bound to the ciphertext and needed to open it.

    :param key: `foundation.keys.data_key` of ``subject``, where the caller has read it just now.
    """
    plain = value if isinstance(value, str) else json.dumps(asdict(value), separators=(",", ":"))
    return keys.encrypt(subject, plain.encode(), context, key=key)


def open_study(subject: str, ciphertext: bytes) -> StudyIdentity:
    """Inverse of `seal` for a study."""
    return StudyIdentity(**json.loads(keys.decrypt(subject, bytes(ciphertext), "study")))


def open_series(subject: str, ciphertext: bytes) -> SeriesIdentity:
    """Inverse of `seal` for a series."""
    return SeriesIdentity(**json.loads(keys.decrypt(subject, bytes(ciphertext), "series")))


def open_sop_instance_uid(subject: str, ciphertext: bytes) -> str:
    """The SOP Instance UID as sent."""
    return keys.decrypt(subject, bytes(ciphertext), "instance").decode()


def uid_index(uid: str) -> str:
    """Blind index of a UID as sent: 64 hexadecimal digits; empty for an empty one. An order that announces it has the same."""
    return vault.dicom_uid_index(uid) or ""


def accession_index(accession: str) -> str:
    """Blind index of an accession number; empty for an empty one. The order of that number has the same."""
    return vault.accession_index(accession) or ""


def is_standard_uid(uid: str) -> bool:
    """Whether PS3.6 Annex A lists it."""
    if not uid.startswith(STANDARD_ROOT):
        return False
    from pydicom.uid import UID_dictionary  # not every process needs pydicom, and few UIDs come here

    return uid in UID_dictionary


@lru_cache(maxsize=65536)
def map_uid(uid: str) -> str:
    """The UID that stands for ``uid`` in de-identified data sets (PS3.15 Table E.1-1 action U).

    ``2.25.`` + the first 128 bits of a keyed hash (PS3.5 section B.2 form): the same UID gives the same result in every
    study and process that holds the key. UIDs of the standard itself are kept: those that it lists, for somebody may have
    made others below its root.
    """
    if not uid or is_standard_uid(uid):
        return uid
    return f"2.25.{int.from_bytes(keys.keyed_hash('dicom-uid-map', uid)[:16], 'big')}"
