"""Encrypted objects: bytes too large for a row, under random names in ``settings.STORAGES["objects"]``.

Layout of an object: a header of 16 bytes (``OFO1``, chunk size, ciphertext overhead per chunk, zero), then the chunks,
each encrypted under the subject's data key and bound to the object's name, its place and whether it is the last, so
that chunks cannot be swapped, dropped or moved to another object. Fixed-size chunks give random access, which Tink's
streams do not.

The bytes are durable before the row exists, and they are written outside any transaction: a disk or a bucket that is
slow must hold no lock, and SQLite has one writer. So first `write`, then, in the transaction of what names it, `keep`.
A rollback, or a process killed between the two, leaves an orphan in the storage and nothing else; `janitor` finds it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import secrets
import struct
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast

import tink
from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.db import connection, transaction
from tink import aead

from oncoflow_site.foundation import failpoints, files, keys, stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError, TransientError, safe_error_text
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.models import StoredObject

__all__ = [
    "CHUNK_SIZE",
    "ObjectDamaged",
    "ObjectMissing",
    "delete",
    "discard",
    "get",
    "is_there",
    "iter_chunks",
    "janitor",
    "keep",
    "open_range",
    "put",
    "remove",
    "verify",
    "write",
]

logger = logging.getLogger(__name__)

CHUNK_SIZE = 256 * 1024
_HEADER = struct.Struct(">4sIII")
_MAGIC = b"OFO1"
_SPOOL = 8 * 1024 * 1024
_OURS = re.compile(r"[0-9a-f]{2}/")


class ObjectMissing(EngineError):
    """The row is there, its bytes are not."""


class ObjectDamaged(EngineError):
    """The stored bytes are not what was put there."""


def _storage() -> Storage:
    return storages["objects"]


def _associated(name: str, header: bytes, index: int, last: bool) -> bytes:
    return header + name.encode() + struct.pack(">Q?", index, last)


def _pieces(source: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Chunks of exactly `CHUNK_SIZE` (the last one shorter, perhaps empty), each with whether it is the last."""

    def fill() -> bytes:
        parts, have = [], 0
        while have < CHUNK_SIZE and (part := source.read(CHUNK_SIZE - have)):
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    chunk = fill()
    while True:
        following = fill() if len(chunk) == CHUNK_SIZE else b""
        yield chunk, not following
        if not following:
            return
        chunk = following


class _Encrypting:
    """Encrypts a stream chunk by chunk, counting and hashing the plaintext as it goes."""

    def __init__(self, source: IO[bytes], name: str, key: aead.Aead) -> None:
        self._source, self._name, self._key = source, name, key
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        overhead = len(self._key.encrypt(b"", b""))
        header = _HEADER.pack(_MAGIC, CHUNK_SIZE, overhead, 0)
        yield header
        for index, (chunk, last) in enumerate(_pieces(self._source)):
            self.size += len(chunk)
            self.digest.update(chunk)
            yield self._key.encrypt(chunk, _associated(self._name, header, index, last))


def _save(storage: Storage, name: str, spool: IO[bytes]) -> str:
    try:
        return storage.save(name, File(cast(Any, spool), name=name))
    except Exception as error:  # whatever the service's library raises: nothing was stored, and it may work later
        raise TransientError(f"the object storage cannot be written ({type(error).__name__})") from error


def _refuse_transaction() -> None:
    """A test's own transaction around everything does not count, as with Django's ``durable``."""
    if any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
        raise RuntimeError("bytes are written before the transaction that names them: objects.write, then objects.keep")


def put(data: bytes | IO[bytes], *, subject: str, kind: str, content_type: str = "") -> StoredObject:
    """`write` and `keep` in one, for what no other row has to name in the same transaction."""
    row = write(data, subject=subject, kind=kind, content_type=content_type)
    keep(row)
    return row


def keep(*rows: StoredObject | None) -> None:
    """Create the rows of what `write` has written, in the caller's transaction. None is passed over."""
    for row in rows:
        if row is not None:
            row.save(force_insert=True)


def discard(*rows: StoredObject) -> None:
    """Delete the bytes of what `write` has written and nobody will keep, without waiting for the `janitor`."""
    for row in rows:
        _discard(row.storage_name)


def write(
    data: bytes | IO[bytes], *, subject: str, kind: str, content_type: str = "", key: aead.Aead | None = None
) -> StoredObject:
    """Encrypt and store ``data`` (bytes or a binary stream, read once); durable when it returns. `keep` its row.

    :param subject: whose data key encrypts it, e.g. ``patient.key_subject``.
    :param kind: what it is, e.g. ``"dicom"``; never a name from outside.
    :param key: `keys.data_key` of ``subject``, where the caller has read it just now.
    :returns: the row, not saved yet; its id may be named in rows that are made together with it.
    :raises KeyDestroyed: the subject was erased. :raises TransientError: the storage cannot take it now.
    :raises RuntimeError: inside a transaction.
    """
    _refuse_transaction()
    source: IO[bytes] = io.BytesIO(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
    token = secrets.token_hex(24)
    # 256 folders: they exist soon, and a folder that exists need not be made durable.
    name = f"{token[:2]}/{token}"
    encrypting = _Encrypting(source, name, key or keys.data_key(subject))
    storage = _storage()
    failpoints.hit("objects.before_write")
    try:
        if isinstance(storage, FileSystemStorage):
            path = Path(storage.path(name))
            files.make_folder(path.parent)
            files.write_chunks(path, encrypting)
        else:
            with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as spool:
                for block in encrypting:
                    spool.write(block)
                spool.seek(0)
                stored = _save(storage, name, spool)
            if stored != name:
                storage.delete(stored)
                raise TransientError("the object storage did not take the name it was given")
    except OSError as error:
        raise TransientError(f"the object storage cannot be written ({type(error).__name__})") from error
    failpoints.hit("objects.after_write")
    return StoredObject(
        id=new_id(),
        subject=subject,
        kind=kind,
        storage_name=name,
        size=encrypting.size,
        sha256=encrypting.digest.hexdigest(),
        content_type=content_type or "application/octet-stream",
    )


def _row(item: StoredObject | uuid.UUID | str) -> StoredObject:
    return item if isinstance(item, StoredObject) else StoredObject.objects.get(pk=item)


def _read_at(storage: Storage, name: str, offset: int, length: int) -> bytes:
    return stores.of(storage).read(name, offset, length)


def _read(storage: Storage, row: StoredObject, offset: int, length: int) -> bytes:
    try:
        return _read_at(storage, row.storage_name, offset, length)
    except FileNotFoundError as error:
        raise ObjectMissing(f"object {row.id} is not in the storage") from error
    except Exception as error:
        raise TransientError(f"the object storage cannot be read ({type(error).__name__})") from error


def iter_chunks(item: StoredObject | uuid.UUID | str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Plaintext from byte ``start`` up to ``stop`` (default: the end), piece by piece, never the whole in memory.

    Every piece is authenticated before it is given out. :raises ObjectMissing: :raises ObjectDamaged: :raises
    KeyDestroyed:
    """
    row = _row(item)
    if row.removed_at is not None:
        raise ObjectMissing(f"object {row.id} was removed under the retention policy")
    stop = row.size if stop is None else min(stop, row.size)
    if start < 0 or start > row.size:
        raise ValueError("the range begins outside the object")
    if start >= stop and row.size:
        return
    key = keys.data_key(row.subject, create=False)
    storage = _storage()
    header = _read(storage, row, 0, _HEADER.size)
    if len(header) != _HEADER.size:
        raise ObjectDamaged(f"object {row.id} is cut short")
    magic, chunk_size, overhead, _ = _HEADER.unpack(header)
    if magic != _MAGIC or not 0 < chunk_size <= 1 << 26 or overhead > 1 << 10:
        raise ObjectDamaged(f"object {row.id} has no valid header")
    final = max(0, (row.size - 1) // chunk_size)
    stored = chunk_size + overhead
    # Whole object or a tail: read several chunks a request; storage round trips cost more than memory.
    batch = 16
    first, last = start // chunk_size, max(start // chunk_size, (max(stop, 1) - 1) // chunk_size)
    for index in range(first, last + 1, batch):
        count = min(batch, last + 1 - index)
        block = _read(storage, row, _HEADER.size + index * stored, count * stored)
        for number in range(index, index + count):
            sealed = block[(number - index) * stored : (number - index + 1) * stored]
            try:
                plain = key.decrypt(sealed, _associated(row.storage_name, header, number, number == final))
            except tink.TinkError:
                raise ObjectDamaged(f"object {row.id} fails authentication") from None
            begin = number * chunk_size
            yield plain[max(start - begin, 0) : max(stop - begin, 0)]


def get(item: StoredObject | uuid.UUID | str) -> bytes:
    """The whole plaintext, its length and SHA-256 verified.

    :raises ObjectMissing: :raises ObjectDamaged: :raises KeyDestroyed:
    """
    row = _row(item)
    data = b"".join(iter_chunks(row))
    if len(data) != row.size or hashlib.sha256(data).hexdigest() != row.sha256:
        raise ObjectDamaged(f"object {row.id} does not have the SHA-256 it was stored with")
    return data


def open_range(item: StoredObject | uuid.UUID | str, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` (fewer at the end); reads and authenticates only the chunks that hold them."""
    return b"".join(iter_chunks(item, start=start, stop=start + length))


def verify(item: StoredObject | uuid.UUID | str) -> None:
    """Read the whole object in small pieces and compare it with its SHA-256. :raises ObjectDamaged:"""
    row, digest = _row(item), hashlib.sha256()
    for piece in iter_chunks(row):
        digest.update(piece)
    if digest.hexdigest() != row.sha256:
        raise ObjectDamaged(f"object {row.id} does not have the SHA-256 it was stored with")


def is_there(item: StoredObject | uuid.UUID | str) -> bool:
    """Whether the storage has the bytes; they are not read. :raises TransientError: it cannot be asked."""
    row = _row(item)
    try:
        return bool(_storage().exists(row.storage_name))
    except Exception as error:
        raise TransientError(f"the object storage cannot be asked ({type(error).__name__})") from error


def delete(item: StoredObject | uuid.UUID | str) -> None:
    """Delete the row in the caller's transaction and the bytes after its commit."""
    row = _row(item)
    name = row.storage_name
    with transaction.atomic():
        row.delete()
        transaction.on_commit(lambda: _discard(name))


def remove(row: StoredObject) -> None:
    """Remove the bytes after the caller's commit and keep the row, which then says so (see `foundation.retention`)."""
    StoredObject.objects.filter(pk=row.pk).update(removed_at=now())
    transaction.on_commit(lambda: _discard(row.storage_name))


def _discard(name: str) -> None:
    try:
        _storage().delete(name)
    except Exception as error:
        logger.warning("an object without a row stays for the janitor: %s", safe_error_text(error))


def _batches(entries: Iterable[stores.Entry], size: int = 500) -> Iterator[dict[str, datetime]]:
    """Names of ours with the time of their last change; what else lies in the same bucket is none of our business."""
    batch: dict[str, datetime] = {}
    for entry in entries:
        if _OURS.match(entry.name):
            batch[entry.name] = entry.modified
        if len(batch) == size:
            yield batch
            batch = {}
    if batch:
        yield batch


def janitor(grace: timedelta = timedelta(days=1), *, before: datetime | None = None) -> int:
    """Delete stored bytes that no row names and that are older than ``grace``; returns how many.

    ``grace`` must be longer than the longest transaction: bytes come before their row.
    """
    limit = before or now() - grace
    storage, count = _storage(), 0
    for batch in _batches(stores.of(storage).entries()):
        known = set(
            StoredObject.objects.filter(storage_name__in=batch, removed_at=None).values_list("storage_name", flat=True)
        )
        for name, modified in batch.items():
            if name not in known and modified < limit:
                storage.delete(name)
                count += 1
    return count
