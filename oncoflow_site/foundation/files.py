"""Writing files that survive a power cut: synced before they are named, the folder synced after."""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["TEMPORARY_SUFFIX", "locked", "make_folder", "replace", "write_chunks", "write_new"]

TEMPORARY_SUFFIX = ".tmp"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name without ever replacing another."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) or path.exists():
            raise
        # Some network file systems have no hard links; between the look and the rename there is a short race.
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


def write_chunks(path: Path, chunks: Iterable[bytes], *, mode: int = 0o600, new: bool = True) -> None:
    """Write ``chunks`` to ``path``, complete or not at all.

    :param new: raise FileExistsError rather than replace a file.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        if new:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not exist yet. :raises FileExistsError:"""
    write_chunks(path, [data], mode=mode, new=True)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write or replace a file."""
    write_chunks(path, [data], mode=mode, new=False)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents so that they survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _sync_folder(folder.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` (created when missing) during the block."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
