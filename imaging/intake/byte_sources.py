"""Where files lie before they are filed: on disk, in parts that a door took in, in a bucket. Each reads as a seekable stream."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from oncoflow_site.foundation import objects, stores
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import StoredObject

__all__ = ["ByteSource", "FileSource", "MemorySource", "PartsSource", "RangeReader", "StoreSource", "sources_of_paths"]

_BUFFER = 1 << 20


class ByteSource(Protocol):
    """One file.

    :ivar name: as its sender called it: shown back to that person, never logged.
    :ivar size: bytes.
    :ivar sequence: what a person declared this NIfTI file to be; empty where nobody did.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sequence(self) -> str: ...

    def open(self) -> IO[bytes]:
        """A seekable binary stream of the whole file."""
        ...


class RangeReader(io.RawIOBase):
    """A seekable stream over ``read_at(offset, length)``, which returns fewer bytes only at the end."""

    def __init__(self, size: int, read_at: Callable[[int, int], bytes]) -> None:
        self._size, self._read_at, self._place = size, read_at, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if place < 0:
            raise ValueError("a place before the beginning")
        self._place = place
        return place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._read_at(self._place, max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _buffered(size: int, read_at: Callable[[int, int], bytes]) -> IO[bytes]:
    return io.BufferedReader(RangeReader(size, read_at), _BUFFER)


@dataclass(frozen=True)
class FileSource:
    """A file on this machine."""

    path: Path
    sequence: str = ""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open(self) -> IO[bytes]:
        return self.path.open("rb")


@dataclass(frozen=True)
class MemorySource:
    """Bytes, e.g. a member of an archive."""

    name: str = field(repr=False)
    data: bytes = field(repr=False)
    sequence: str = ""

    @property
    def size(self) -> int:
        return len(self.data)

    def open(self) -> IO[bytes]:
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class PartsSource:
    """Encrypted objects, one after another."""

    name: str = field(repr=False)
    parts: Sequence[StoredObject] = field(repr=False)
    sequence: str = ""

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def _read_at(self, offset: int, length: int) -> bytes:
        pieces = []
        for part in self.parts:
            if length <= 0:
                break
            if offset < part.size:
                pieces.append(objects.open_range(part, offset, min(length, part.size - offset)))
                length -= len(pieces[-1])
                offset = 0
            else:
                offset -= part.size
        return b"".join(pieces)

    def open(self) -> IO[bytes]:
        return _buffered(self.size, self._read_at)


@dataclass(frozen=True)
class StoreSource:
    """A thing in a bucket or folder, pinned to the bytes that were looked at."""

    store: stores.Store = field(repr=False)
    entry: stores.Entry
    name: str = field(repr=False)
    sequence: str = ""

    @property
    def size(self) -> int:
        return self.entry.size

    def open(self) -> IO[bytes]:
        return _buffered(self.entry.size, self._read_at)

    def _read_at(self, offset: int, length: int) -> bytes:
        try:
            return self.store.read(self.entry.name, offset, length, etag=self.entry.etag)
        except FileNotFoundError:
            raise stores.StoreChanged("the file went away while it was read") from None


def sources_of_paths(paths: Sequence[Path], skip: frozenset[Path] = frozenset()) -> Iterator[FileSource | None]:
    """Every file under ``paths`` but those of ``skip`` (resolved); None for a link that leads out of a given folder.

    :raises UserVisibleError: one of ``paths`` does not exist.
    """
    for path in paths:
        if not path.exists():
            raise UserVisibleError(f"There is no {path}.", code="no-such-path")
        inside = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        for one in inside:
            if one.resolve() in skip:
                continue
            led_out = one.is_symlink() and path.is_dir() and path.resolve() not in one.resolve().parents
            yield None if led_out or not stat.S_ISREG(one.stat().st_mode) else FileSource(one)
