"""Who is named in a data set: the words of its name fields and the patient's numbers, wherever they stand."""

from __future__ import annotations

from pydicom.uid import UID

from imaging.deidentification.known_identity import KnownIdentity
from imaging.deidentification.value_cleaning import decoded
from imaging.dicom.elements import Element, ElementReader, MalformedDataSet, known_vr

__all__ = ["persons_of"]

MAX_DEPTH = 4
MAX_BYTES = 1024
# One item for each frame, and no person in any of them: not walked twice.
_FRAMES = frozenset({0x52009229, 0x52009230, 0x00289415})
_IDENTIFIERS = frozenset(
    {
        0x00080050,  # Accession Number
        0x00100020,  # Patient ID
        0x00100030,  # Patient's Birth Date
        0x00101000,  # Other Patient IDs
        0x00101090,  # Medical Record Locator
        0x00102154,  # Patient's Telephone Numbers
        0x00200010,  # Study ID
        0x00380010,  # Admission ID
        0x00380060,  # Service Episode ID
        0x00401001,  # Requested Procedure ID
        0x00400009,  # Scheduled Procedure Step ID
        0x00400253,  # Performed Procedure Step ID
        0x00402016,  # Placer Order Number
        0x00402017,  # Filler Order Number
        0x00120040,  # Clinical Trial Subject ID
        0x00120042,  # Clinical Trial Subject Reading ID
    }
)


def persons_of(data: bytes, elements: list[Element], syntax: UID, character_set: tuple[str, ...]) -> KnownIdentity:
    """Names (every PN element) and identifiers at all levels of a data set."""
    names: list[str] = []
    numbers: list[str] = []
    reader = ElementReader(data, little=syntax.is_little_endian)
    _collect(data, reader, elements, character_set, names, numbers, 0)
    return KnownIdentity.of(names, numbers)


def _collect(
    data: bytes,
    reader: ElementReader,
    elements: list[Element],
    character_set: tuple[str, ...],
    names: list[str],
    numbers: list[str],
    depth: int,
) -> None:
    for element in elements:
        tag = element.tag
        if tag & 0x10000 or tag in _FRAMES:
            continue
        vr = element.vr if element.vr not in ("", "UN") else known_vr(tag)
        if vr == "SQ" and depth < MAX_DEPTH:
            if element.vr == "UN" and not element.undefined:
                continue  # bytes of an unknown make; the walk removes or walks them
            try:
                items = reader.items(element, depth=depth + 1)
            except MalformedDataSet:
                continue  # removed, or refused, where the data set is walked in earnest
            for item in items:
                _collect(data, reader, item, character_set, names, numbers, depth + 1)
        elif vr == "PN" or tag in _IDENTIFIERS:
            text = decoded(data[element.start : min(element.end, element.start + MAX_BYTES)], character_set)
            (names if vr == "PN" else numbers).extend(text.split("\\"))
