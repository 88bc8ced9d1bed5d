"""The head of a DICOM file for a data set that came over the network: preamble, prefix, file meta information."""

from __future__ import annotations

import struct

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

__all__ = ["file_head"]


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Bytes to put before the data set (PS3.10 section 7.1). Written directly, since it is done for every instance.

    :param sop_class_uid: Affected SOP Class UID of the request. :param sop_instance_uid: likewise.
    """
    elements = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _uid(0x0002, sop_class_uid),
            _uid(0x0003, sop_instance_uid),
            _uid(0x0010, transfer_syntax_uid),
            _uid(0x0012, str(PYNETDICOM_IMPLEMENTATION_UID)),
            _short(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION.encode("ascii"), b" "),
        )
    )
    return b"\x00" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(elements)) + elements


def _uid(element: int, value: str) -> bytes:
    return _short(element, b"UI", value.encode("ascii", "replace"), b"\0")


def _short(element: int, vr: bytes, value: bytes, pad: bytes) -> bytes:
    value += pad * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
