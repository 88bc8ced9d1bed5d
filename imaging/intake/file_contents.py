"""What is in a file that somebody brought: DICOM, NIfTI, or a zip archive of these, read with limits from a stream.

Archives are read member by member in memory; nothing is unpacked to disk, so no path in an archive means anything. An
archive inside an archive is not opened: no scanner or PACS makes one, and each level multiplies what a bomb can do.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from imaging.dicom.part10 import is_media_directory, looks_like_dicom
from imaging.intake.byte_sources import ByteSource, MemorySource
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["MAX_FILE", "MAX_MEMBERS", "MAX_TOTAL", "ContainedFile", "contents", "is_nifti"]

MAX_FILE = 1 << 30
MAX_TOTAL = 16 << 30
MAX_MEMBERS = 100_000
MAX_DIRECTORY = 64 << 20
MAX_RATIO = 200
# No ratio is asked before so much has come out: an empty slice is all zeros and packs a thousandfold.
_RATIO_FROM = 64 << 20
# The others unpack a block at a time, however little is asked for: 4 KiB of bzip2 may be gigabytes.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_BLOCK = 1 << 20
_HEAD = 132
_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_NO_IMAGE = "it is neither DICOM nor NIfTI nor a zip archive"
_DIRECTORY = "it is a DICOMDIR, the directory of a medium and no image; the images it lists lie beside it"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class ContainedFile:
    """One file as it will be filed.

    :ivar name: for people.
    :ivar dicom: its bytes if it is DICOM (PS3.10).
    :ivar nifti: where to read it if it is NIfTI by its name. With neither it is no image.
    :ivar why: why it is not used, where there is more to say than that it is no image.
    """

    name: str = field(repr=False)
    dicom: bytes | None = field(default=None, repr=False)
    nifti: ByteSource | None = field(default=None, repr=False)
    why: str = ""


def is_nifti(name: str) -> bool:
    """Whether the name is that of a NIfTI file."""
    return name.lower().endswith((".nii", ".nii.gz"))


def contents(source: ByteSource) -> Iterator[ContainedFile]:
    """Everything in ``source`` that may be an image, and what is none. Never more than one member in memory.

    :raises UserVisibleError: an archive that is damaged, encrypted or a bomb.
    """
    if is_nifti(source.name):
        yield ContainedFile(source.name, nifti=source)
        return
    with source.open() as stream:
        head = stream.read(_HEAD)
        if looks_like_dicom(head):
            if source.size > MAX_FILE:
                yield ContainedFile(source.name, why="it is larger than any image")
            else:
                yield _dicom(source.name, head + stream.read(MAX_FILE))
        elif head.startswith((_ZIP, _EMPTY_ZIP)) or source.name.lower().endswith(".zip"):
            yield from _members(source, stream)
        else:
            yield ContainedFile(source.name, why=_NO_IMAGE)


def _dicom(name: str, data: bytes) -> ContainedFile:
    """A DICOM file; a DICOMDIR is called one."""
    return ContainedFile(name, why=_DIRECTORY) if is_media_directory(data) else ContainedFile(name, dicom=data)


def _members(source: ByteSource, stream: IO[bytes]) -> Iterator[ContainedFile]:
    name = source.name
    try:
        _check_directory(name, stream)
        archive = zipfile.ZipFile(stream)
    except _UNREADABLE:
        raise UserVisibleError(f"{name} is not a readable zip archive.", code="bad-zip") from None
    with archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        if len(members) > MAX_MEMBERS:
            raise UserVisibleError(f"{name} has more than {MAX_MEMBERS} members.", code="zip-bomb")
        allowed = min(MAX_TOTAL, max(_RATIO_FROM, MAX_RATIO * max(source.size, 1)))
        for member in members:
            if member.flag_bits & 1:
                raise UserVisibleError(f"{name} is encrypted.", what_to_do="Unpack it first.", code="bad-zip")
            if member.compress_type not in _METHODS:
                raise UserVisibleError(
                    f"{name} is packed in a way that is not read.",
                    what_to_do="Pack it as a plain zip (deflate).",
                    code="bad-zip",
                )
            try:
                found = _member(archive, member, name, min(allowed, MAX_FILE))
            except _ArchiveTooLarge:
                raise UserVisibleError(f"{name} unpacks to far more than images do.", code="zip-bomb") from None
            except _UNREADABLE:
                raise UserVisibleError(f"{name} is damaged.", code="bad-zip") from None
            allowed -= len(found.dicom or b"") or (found.nifti.size if found.nifti else 0) or _HEAD
            yield found


class _ArchiveTooLarge(Exception):
    """A member unpacks to more than is allowed."""


def _check_directory(name: str, stream: IO[bytes]) -> None:
    """Refuse a directory that would fill the memory before a single member was read."""
    # What zipfile itself goes by; reading it a second way could be led to another record.
    record: Any = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    stream.seek(0)
    if record and record[zipfile._ECD_SIZE] > MAX_DIRECTORY:  # type: ignore[attr-defined]
        raise UserVisibleError(f"{name} has more than {MAX_MEMBERS} members.", code="zip-bomb")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, most: int) -> ContainedFile:
    """:raises _TooMuch: it holds more than ``most`` bytes; no more than these were unpacked."""
    shown = f"a member of {name}"
    with archive.open(member) as inner:
        head = inner.read(_HEAD)
        image = is_nifti(member.filename)
        if not image and not looks_like_dicom(head):
            nested = head.startswith(_ZIP)
            return ContainedFile(shown, why="an archive inside an archive is not opened" if nested else _NO_IMAGE)
        # What the directory of an archive says about sizes may be a lie: count what comes out.
        unpacked = bytearray(head)
        while block := inner.read(_BLOCK):
            unpacked += block
            if len(unpacked) > most:
                raise _ArchiveTooLarge
    data = bytes(unpacked)
    if image:
        return ContainedFile(shown, nifti=MemorySource(member.filename.replace("\\", "/").rsplit("/", 1)[-1], data))
    return _dicom(shown, data)
