"""Storages of ``settings.STORAGES`` as plain stores: ranges, listings with sizes, moves, signed addresses for direct upload.

Django's storage interface knows none of these, and django-storages fetches a whole object before it can seek in it. A name
is relative to the storage's own location; it never begins with a slash.
"""

from __future__ import annotations

import os
import shutil
import stat as file_modes
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.files.storage import FileSystemStorage, Storage, storages

from oncoflow_site.foundation import files
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import EngineError

__all__ = ["Entry", "FolderStore", "Signed", "Store", "StoreChanged", "configured", "of", "store"]


class StoreChanged(EngineError):
    """The bytes under this name are no longer those that were looked at."""


class _PastTheEnd(Exception):
    """HTTP 416: there are no bytes at that place."""


@dataclass(frozen=True)
class Entry:
    """One stored thing.

    :ivar etag: changes whenever the bytes do.
    :ivar encrypted: the service says that it encrypts it at rest; None where it was not asked or cannot say.
    """

    name: str = field(repr=False)
    size: int
    modified: datetime
    etag: str
    encrypted: bool | None = None


@dataclass(frozen=True)
class Signed:
    """An address that takes one PUT of one name until ``expires_at``, with exactly these headers."""

    url: str = field(repr=False)
    headers: Mapping[str, str]
    expires_at: datetime


class Store:
    """What all stores can do. :raises FileNotFoundError: nothing has that name. :raises StoreChanged: see ``etag``."""

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Everything whose name begins with ``prefix``."""
        raise NotImplementedError

    def stat(self, name: str) -> Entry:
        """One entry."""
        raise NotImplementedError

    def read(self, name: str, offset: int, length: int, *, etag: str = "") -> bytes:
        """``length`` bytes from ``offset``, asked for as a range; with ``etag`` only of those very bytes."""
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        """Store a small thing; replaces."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        """Delete; nothing there is fine."""
        raise NotImplementedError

    def move(self, name: str, to: str) -> None:
        """Give another name; replaces what had it."""
        raise NotImplementedError

    def sign_put(self, name: str, *, size: int, seconds: int) -> Signed | None:
        """An address to which a client may put ``size`` bytes directly; None where the store has no such service."""
        return None


class FolderStore(Store):
    """A folder. Links are not followed, and only regular files exist."""

    def __init__(self, storage: FileSystemStorage) -> None:
        self.root = Path(storage.location)
        self._storage = storage

    def _path(self, name: str) -> Path:
        return Path(self._storage.path(name))

    @staticmethod
    def _entry(name: str, facts: os.stat_result) -> Entry:
        modified = datetime.fromtimestamp(facts.st_mtime, UTC)
        return Entry(name, facts.st_size, modified, f"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}")

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        top = prefix.rpartition("/")[0]
        for folder, inner, names in os.walk(self._path(top) if top else self.root):
            inner.sort()
            for file in sorted(names):
                path = Path(folder) / file
                name = path.relative_to(self.root).as_posix()
                with suppress(FileNotFoundError):
                    facts = path.lstat()
                    if file_modes.S_ISREG(facts.st_mode) and name.startswith(prefix):
                        yield self._entry(name, facts)

    def stat(self, name: str) -> Entry:
        facts = self._path(name).lstat()
        if not file_modes.S_ISREG(facts.st_mode):
            raise FileNotFoundError("not a regular file")
        return self._entry(name, facts)

    def read(self, name: str, offset: int, length: int, *, etag: str = "") -> bytes:
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            if etag and self._entry(name, os.fstat(descriptor)).etag != etag:
                raise StoreChanged("the file was changed while it was read")
            stream.seek(offset)
            return stream.read(length)

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        files.make_folder(path.parent)
        files.replace(path, data)

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        target = self._path(to)
        files.make_folder(target.parent)
        shutil.move(self._path(name), target)


class S3Store(Store):
    """Amazon S3, or what speaks its protocol, through django-storages' ``S3Storage``."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._client = storage.connection.meta.client
        self._bucket = storage.bucket_name
        location = str(storage.location or "").strip("/")
        self._prefix = f"{location}/" if location else ""

    def _key(self, name: str) -> str:
        return str(self._storage._normalize_name(name))

    @property
    def _encryption(self) -> dict[str, str]:
        given = dict(self._storage.object_parameters or {})
        names = ("ServerSideEncryption", "SSEKMSKeyId")
        return {name: given[name] for name in names if name in given} or {"ServerSideEncryption": "AES256"}

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in pages:
            for one in page.get("Contents", ()):
                if not one["Key"].endswith("/"):  # a folder, as some consoles draw it
                    name = one["Key"][len(self._prefix) :]
                    yield Entry(name, one["Size"], one["LastModified"], one["ETag"].strip('"'))

    def stat(self, name: str) -> Entry:
        facts = self._call("head_object", name)
        encrypted = "ServerSideEncryption" in facts
        return Entry(name, facts["ContentLength"], facts["LastModified"], facts["ETag"].strip('"'), encrypted)

    def read(self, name: str, offset: int, length: int, *, etag: str = "") -> bytes:
        if length <= 0:
            return b""
        only = {"IfMatch": etag} if etag else {}
        try:
            answer = self._call("get_object", name, Range=f"bytes={offset}-{offset + length - 1}", **only)
        except _PastTheEnd:
            return b""
        with closing(answer["Body"]) as body:
            return bytes(body.read())

    def _call(self, operation: str, name: str, **arguments: Any) -> Any:
        from botocore.exceptions import ClientError

        try:
            return getattr(self._client, operation)(Bucket=self._bucket, Key=self._key(name), **arguments)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 404 and error.response["Error"].get("Code") != "NoSuchBucket":
                raise FileNotFoundError("no such object") from error
            if status == 412:
                raise StoreChanged("the object was replaced while it was read") from error
            if status == 416:
                raise _PastTheEnd from error
            raise

    def write(self, name: str, data: bytes) -> None:
        self._call("put_object", name, Body=data, **self._encryption)

    def delete(self, name: str) -> None:
        self._call("delete_object", name)

    def move(self, name: str, to: str) -> None:
        # The managed copy: larger than 5 GiB takes several parts.
        source = {"Bucket": self._bucket, "Key": self._key(name)}
        self._client.copy(source, self._bucket, self._key(to), ExtraArgs=self._encryption)
        self.delete(name)

    def sign_put(self, name: str, *, size: int, seconds: int) -> Signed | None:
        # Length and encryption are part of what is signed: another length, or none, and S3 refuses the request.
        fields = {"Bucket": self._bucket, "Key": self._key(name), "ContentLength": size, **self._encryption}
        fields["ContentType"] = "application/octet-stream"
        url = self._client.generate_presigned_url("put_object", Params=fields, ExpiresIn=seconds, HttpMethod="PUT")
        headers = {
            "Content-Type": "application/octet-stream",
            "x-amz-server-side-encryption": self._encryption["ServerSideEncryption"],
        }
        if key := self._encryption.get("SSEKMSKeyId"):
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = key
        return Signed(url, headers, now() + timedelta(seconds=seconds))


class AzureStore(Store):
    """Azure Blob Storage through django-storages' ``AzureStorage``. Azure encrypts every blob at rest by itself."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._client = storage.client
        location = str(storage.location or "").strip("/")
        self._prefix = f"{location}/" if location else ""

    def _blob(self, name: str) -> Any:
        return self._client.get_blob_client(self._storage._get_valid_path(name))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        for one in self._client.list_blobs(name_starts_with=self._prefix + prefix):
            yield Entry(one.name[len(self._prefix) :], one.size, one.last_modified, one.etag.strip('"'))

    def stat(self, name: str) -> Entry:
        facts = self._call(self._blob(name).get_blob_properties)
        return Entry(name, facts.size, facts.last_modified, facts.etag.strip('"'), bool(facts.server_encrypted))

    def read(self, name: str, offset: int, length: int, *, etag: str = "") -> bytes:
        from azure.core import MatchConditions

        if length <= 0:
            return b""
        only = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
        blob = self._blob(name)
        try:
            return bytes(self._call(lambda: blob.download_blob(offset=offset, length=length, **only).readall()))
        except _PastTheEnd:
            return b""

    @staticmethod
    def _call(operation: Any) -> Any:
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        try:
            return operation()
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", "") == "ContainerNotFound":
                raise
            raise FileNotFoundError("no such blob") from error
        except ResourceModifiedError as error:
            raise StoreChanged("the blob was replaced while it was read") from error
        except HttpResponseError as error:
            if error.status_code == 416:
                raise _PastTheEnd from error
            raise

    def write(self, name: str, data: bytes) -> None:
        self._blob(name).upload_blob(data, overwrite=True)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._call(self._blob(name).delete_blob)

    def move(self, name: str, to: str) -> None:
        source, target = self._blob(name), self._blob(to)
        copied = self._call(lambda: target.start_copy_from_url(source.url))
        if copied["copy_status"] != "success":  # within one account a copy is done when it is answered
            raise EngineError("the blob could not be copied within its account")
        self.delete(name)

    def sign_put(self, name: str, *, size: int, seconds: int) -> Signed | None:
        url = self._storage.url(name, expire=seconds, mode="cw")
        headers = {"Content-Type": "application/octet-stream", "x-ms-blob-type": "BlockBlob"}
        return Signed(url, headers, now() + timedelta(seconds=seconds))


def of(storage: Storage) -> Store:
    """The store behind a Django storage."""
    if isinstance(storage, FileSystemStorage):
        return FolderStore(storage)
    return S3Store(storage) if hasattr(storage, "bucket_name") else AzureStore(storage)


def configured(alias: str) -> bool:
    """Whether ``settings.STORAGES`` has ``alias``."""
    return alias in storages.backends


def store(alias: str) -> Store:
    """The store of one of ``settings.STORAGES``. A name that climbs out raises Django's ``SuspiciousOperation``."""
    return of(storages[alias])
