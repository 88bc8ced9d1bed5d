"""A received file as PS3.10 has it, from what pydicom and dcmtk read too.

Files come without preamble, without file meta information, or with a length of it that is wrong or missing; data sets hold
elements of a value representation that nobody knows. All readers behind this service want them well formed, so they are
written well formed once, where they come in: the head anew, unknown elements as UN, the rest byte for byte.
"""

from __future__ import annotations

import struct

from pydicom.uid import UID

from imaging.dicom.elements import (
    LONG,
    PIXEL_TAGS,
    UNDEFINED,
    VRS,
    Element,
    ElementReader,
    ElementWriter,
    MalformedDataSet,
)
from imaging.dicom.file_meta import MAX_META, Implementation, content_start, file_meta

__all__ = [
    "HEAD_BYTES",
    "MEDIA_DIRECTORY",
    "WRITER",
    "is_media_directory",
    "looks_like_dicom",
    "well_formed",
    "with_known_vrs",
]

HEAD_BYTES = 132
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR (PS3.3 annex F): a directory of files, and no image."""
WRITER = Implementation("2.25.191823450116390744170463115237429517521", "ONCOFLOW_2")
_SOP_CLASS, _SOP_INSTANCE, _SYNTAX = 0x00020002, 0x00020003, 0x00020010
_FIRST_GROUP = 0x0008
_MAX_FIRST = 512  # bytes of the first value of a data set: a length, a character set, an image type
_EXPLICIT_LITTLE, _IMPLICIT_LITTLE, _EXPLICIT_BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


def _syntax_of(data: bytes, position: int) -> str | None:
    """The uncompressed transfer syntax that the first element of a data set is written in; None where it begins with none."""
    first = data[position : position + 8]
    if len(first) < 8:
        return None
    known = first[4:6] in VRS
    if known and first[:2] == b"\x00\x08":
        return _EXPLICIT_BIG
    group, number, length = struct.unpack("<HHI", first)
    if group != _FIRST_GROUP or number > 0x0100:
        return None
    if known:
        return _EXPLICIT_LITTLE
    return _IMPLICIT_LITTLE if length <= _MAX_FIRST and length % 2 == 0 else None


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins so (132 bytes, fewer of a short file) is one that `well_formed` makes something of."""
    if head[128:132] == b"DICM" or head[:4] == b"DICM":
        return True
    return (head[:2] == b"\x02\x00" and head[4:6] in VRS) or _syntax_of(head, 0) is not None


def is_media_directory(data: bytes) -> bool:
    """Whether a DICOM file is a DICOMDIR, as its file meta information says."""
    begin = 132 if data[128:132] == b"DICM" else 0
    try:
        _, meta = _meta_end(data, begin)
    except MalformedDataSet:
        return False
    return meta.get(_SOP_CLASS, b"").rstrip(b" \0").decode("latin-1") == MEDIA_DIRECTORY


def _is_well_formed(data: bytes) -> bool:
    try:
        start = content_start(data)
    except MalformedDataSet:
        return False
    # Another element of group 2 behind what should be all of it, or none where the last should be: a wrong length.
    return data[start : start + 2] != b"\x02\x00" and _meta_end(data, 132)[0] == start


def _meta_end(data: bytes, position: int) -> tuple[int, dict[int, bytes]]:
    """Where group 2 ends by its own elements, and their values by tag.

    :raises MalformedDataSet: cut short, or longer than any.
    """
    values: dict[int, bytes] = {}
    begin = position
    while data[position : position + 2] == b"\x02\x00" and len(data) - position >= 8:
        number = int.from_bytes(data[position + 2 : position + 4], "little")
        vr = data[position + 4 : position + 6]
        if vr in LONG:
            start, length = position + 12, int.from_bytes(data[position + 8 : position + 12], "little")
        elif vr in VRS:
            start, length = position + 8, int.from_bytes(data[position + 6 : position + 8], "little")
        else:  # in implicit VR, as some writers have it
            start, length = position + 8, int.from_bytes(data[position + 4 : position + 8], "little")
        position = start + length
        if length == UNDEFINED or position > len(data):
            raise MalformedDataSet("the file meta information is cut short")
        if position - begin > MAX_META:
            raise MalformedDataSet("the file meta information is too long")
        values[0x00020000 | number] = data[start:position]
    return position, values


def well_formed(data: bytes) -> bytes:
    """``data`` itself where preamble, prefix and file meta information are right, else with these written anew.

    Without a transfer syntax it is known by its first element, as long as its pixels are not compressed.

    :raises MalformedDataSet: no DICOM file; or compressed pixels of a syntax that is said nowhere.
    """
    if _is_well_formed(data):
        return data
    begin = 132 if data[128:132] == b"DICM" else 4 if data[:4] == b"DICM" else 0
    if begin == 0 and not looks_like_dicom(data[:HEAD_BYTES]):
        raise MalformedDataSet("no DICOM file: the prefix is missing")
    start, meta = _meta_end(data, begin)
    said = meta.get(_SYNTAX, b"").rstrip(b" \0").decode("latin-1")
    syntax = UID(said or _syntax_of(data, start) or "")
    if not syntax.is_transfer_syntax:
        raise MalformedDataSet("transfer syntax missing or not supported")
    texts = {tag: meta.get(tag, b"").strip(b" \0").decode("latin-1") for tag in (_SOP_CLASS, _SOP_INSTANCE)}
    if not said or not all(texts.values()):
        if syntax.is_deflated:
            raise MalformedDataSet("the file meta information names no SOP instance")
        reader = ElementReader(data, little=syntax.is_little_endian)
        wanted = frozenset({0x00080016, 0x00080018}) | PIXEL_TAGS
        elements, _ = reader.survey(start, len(data), implicit=syntax.is_implicit_VR, wanted=wanted)
        for element in elements:
            if element.tag in PIXEL_TAGS and element.undefined and not said:
                raise MalformedDataSet("its pixels are compressed, and no transfer syntax says how")
            key = {0x00080016: _SOP_CLASS, 0x00080018: _SOP_INSTANCE}.get(element.tag)
            if key is not None and not texts[key]:
                texts[key] = data[element.start : element.end].strip(b" \0").decode("latin-1")
    return file_meta(texts[_SOP_CLASS], texts[_SOP_INSTANCE], str(syntax), WRITER) + data[start:]


def with_known_vrs(data: bytes, start: int, *, little: bool) -> bytes:
    """A file in explicit VR whose elements of unknown value representations are UN, at every level; the rest as it is.

    :raises MalformedDataSet: it cannot be walked.
    """
    reader = ElementReader(data, little=little)
    writer = ElementWriter(implicit=False, little=little)
    elements = reader.elements(start, len(data), implicit=False)
    end = elements[-1].end if elements else start
    return data[:start] + b"".join(_known(reader, writer, element, 0) for element in elements) + data[end:]


def _known(reader: ElementReader, writer: ElementWriter, element: Element, depth: int) -> bytes:
    data = reader.data
    stored = data[element.head : element.end]
    if element.vr == "UN" and data[element.head + 4 : element.head + 6] != b"UN":
        return writer.element(element.tag, "UN", data[element.start : element.end])
    if element.vr != "SQ":
        return stored
    items = [
        b"".join(_known(reader, writer, one, depth + 1) for one in item)
        for item in reader.items(element, depth=depth + 1)
    ]
    before = [b"".join(data[one.head : one.end] for one in item) for item in reader.items(element, depth=depth + 1)]
    if items == before:
        return stored
    return writer.element(element.tag, "SQ", b"".join(writer.item(item) for item in items))
