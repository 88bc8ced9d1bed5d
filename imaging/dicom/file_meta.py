"""What stands before the data set of a DICOM file: preamble, prefix and file meta information (PS3.10 section 7.1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from imaging.dicom.elements import ElementReader, MalformedDataSet

__all__ = ["MAX_META", "Implementation", "content_start", "file_meta", "meta_values"]

MAX_META = 1 << 16
_FIRST = 144  # behind preamble, prefix and the group length
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_NOTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX})


class Implementation(NamedTuple):
    """Who wrote a file. :param version_name: at most 16 characters (SH)."""

    class_uid: str
    version_name: str


def content_start(data: bytes) -> int:
    """Where the data set begins: behind the file meta information, whose length is its first element.

    :raises MalformedDataSet: no prefix, or no such length.
    """
    if data[128:132] != b"DICM":
        raise MalformedDataSet("no DICOM file: the prefix is missing")
    if data[132:138] != b"\x02\x00\x00\x00UL" or len(data) < _FIRST:
        raise MalformedDataSet("no length of the file meta information")
    start = _FIRST + int(struct.unpack("<I", data[140:144])[0])
    if start > len(data):
        raise MalformedDataSet("the file meta information is cut short")
    if start > MAX_META:
        raise MalformedDataSet("the file meta information is too long")
    return start


def meta_values(data: bytes) -> Mapping[int, bytes]:
    """Media Storage SOP Class and Instance UID and the transfer syntax, by tag, as stored; what is absent or empty is not in it.

    :raises MalformedDataSet:
    """
    reader = ElementReader(data, little=True)  # group 2 is Explicit VR Little Endian, whatever follows
    elements, _ = reader.survey(_FIRST, content_start(data), implicit=False, wanted=_NOTED)
    return {element.tag: data[element.start : element.end] for element in elements if element.end > element.start}


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, writer: Implementation) -> bytes:
    """Bytes to put before a data set. Written directly, since it is done for every instance that is received."""
    elements = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _uid(0x0002, sop_class_uid),
            _uid(0x0003, sop_instance_uid),
            _uid(0x0010, transfer_syntax_uid),
            _uid(0x0012, writer.class_uid),
            _short(0x0013, b"SH", writer.version_name.encode("ascii"), b" "),
        )
    )
    return b"\x00" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(elements)) + elements


def _uid(element: int, value: str) -> bytes:
    return _short(element, b"UI", value.encode("ascii", "replace"), b"\0")


def _short(element: int, vr: bytes, value: bytes, pad: bytes) -> bytes:
    value += pad * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
