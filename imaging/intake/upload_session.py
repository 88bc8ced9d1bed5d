"""Taking in the bytes of an upload: by parts through our own doors, or put directly into the staging store.

Bytes through our own doors are encrypted as they come (`foundation.objects`, the upload's own data key) and durable when
the new offset is answered. Only the staging store holds bytes that the storage service encrypts: until they are filed.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import IO, Any, Protocol

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Sum

from audit import services as audit
from clinical.roles import can
from imaging.intake import upload_declaration as declarations
from imaging.intake.upload_declaration import UploadDeclaration
from imaging.models import Upload, UploadFile, UploadPart, UploadState
from oncoflow_site.foundation import failpoints, keys, objects, stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import TransientError, UserVisibleError
from oncoflow_site.foundation.models import StoredObject

__all__ = [
    "MAX_PUT",
    "PART",
    "add_file",
    "append",
    "create",
    "file_name",
    "find",
    "find_file",
    "may_upload",
    "put_whole",
    "remove_file",
    "sign",
    "used_bytes",
]

PART_KIND = "upload-part"
PART = 64 << 20
# The most that S3 takes in one PUT; Azure takes 5000 MiB.
MAX_PUT = 5000 << 20
_MOST_OPEN = 100
_OPEN = (UploadState.RECEIVED, UploadState.STAGED, UploadState.INGESTING, UploadState.FAILED)
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Readable(Protocol):
    """A body as it comes in. An OSError means that the connection broke."""

    def read(self, size: int = -1, /) -> bytes: ...


def may_upload(user: Any) -> bool:
    """Whether the role of ``user`` brings in images: by hand, or as a connected system."""
    return can(user, "upload_study") or can(user, "send_data")


def find(user: Any, upload_id: uuid.UUID) -> Upload:
    """The upload, if it is this user's. :raises Upload.DoesNotExist: somebody else's, or nobody's."""
    if not may_upload(user):
        raise Upload.DoesNotExist
    return Upload.objects.get(pk=upload_id, owner=user)


def find_file(user: Any, upload_id: uuid.UUID, file_id: uuid.UUID) -> UploadFile:
    """A file of one of this user's uploads. :raises ObjectDoesNotExist: there is none."""
    return find(user, upload_id).files.select_related("upload").get(pk=file_id)


def file_name(file: UploadFile) -> str:
    """What its sender called it."""
    return keys.decrypt(file.upload.subject, bytes(file.ciphertext), "file-name").decode()


def used_bytes(user: Any) -> int:
    """What this user's uploads that are not filed yet may hold."""
    rows = UploadFile.objects.filter(upload__owner=user, upload__state__in=_OPEN)
    return int(rows.aggregate(total=Sum("size"))["total"] or 0)


def _lock(user: Any) -> None:
    """Two requests of one person take turns, so that together they do not pass a limit."""
    get_user_model().objects.select_for_update().get(pk=user.pk)


def create(user: Any, declared: UploadDeclaration) -> Upload:
    """Begin an upload. :raises UserVisibleError: a patient who is not theirs, or too many uploads at once."""
    declared.check(user)
    with transaction.atomic():
        _lock(user)
        if Upload.objects.filter(owner=user, state__in=_OPEN).count() >= _MOST_OPEN:
            raise UserVisibleError(
                "Too many uploads are open.", what_to_do="Complete or withdraw some of them.", code="quota"
            )
        upload = Upload(owner=user, expires_at=now() + timedelta(hours=float(settings.ONCOFLOW_STAGING_HOURS)))
        upload.declaration = declarations.seal(upload, declared)
        upload.save(force_insert=True)
        audit.record("upload.create", action="C", resource=upload.subject, patient_id=declared.patient)
    return upload


def _must_be_open(upload: Upload) -> None:
    if upload.state == UploadState.EXPIRED or (upload.state == UploadState.RECEIVED and upload.expires_at <= now()):
        raise UserVisibleError("This upload has expired.", what_to_do="Begin a new one.", code="expired")
    if upload.state != UploadState.RECEIVED:
        raise UserVisibleError("This upload was completed.", what_to_do="Begin a new one.", code="completed")


def add_file(
    upload: Upload, *, name: str, size: int, sha256: str = "", fingerprint: str = "", signed: bool = False
) -> UploadFile:
    """Announce one file. The same fingerprint again is the file that was announced before.

    :raises UserVisibleError: code ``completed``, ``expired``, ``too-large``, ``quota``, ``no-space`` or ``bad-file``.
    """
    most = min(int(settings.ONCOFLOW_UPLOAD_MAX_BYTES), MAX_PUT) if signed else int(settings.ONCOFLOW_UPLOAD_MAX_BYTES)
    if size > most:
        raise UserVisibleError(f"A file may have at most {most} bytes.", code="too-large")
    if size < 1 or len(fingerprint) > 64 or not (sha256 == "" or _SHA256.match(sha256)):
        raise UserVisibleError(
            "A file has at least one byte, a SHA-256 of 64 hexadecimal digits, a fingerprint of at most 64 characters.",
            code="bad-file",
        )
    if shutil.disk_usage(settings.ONCOFLOW_DATA_DIR).free < settings.ONCOFLOW_MIN_FREE_BYTES + size:
        raise UserVisibleError("There is not enough free disk space.", what_to_do="Try later.", code="no-space")
    with transaction.atomic():
        _lock(upload.owner)
        upload.refresh_from_db()
        _must_be_open(upload)
        if fingerprint and (known := upload.files.filter(fingerprint=fingerprint, size=size, signed=signed).first()):
            return known
        if upload.files.count() >= int(settings.ONCOFLOW_UPLOAD_MAX_FILES):
            raise UserVisibleError(
                f"An upload has at most {settings.ONCOFLOW_UPLOAD_MAX_FILES} files.",
                what_to_do="Send an archive.",
                code="quota",
            )
        if used_bytes(upload.owner) + size > int(settings.ONCOFLOW_UPLOAD_QUOTA_BYTES):
            raise UserVisibleError(
                "Your uploads would hold more than you may.", what_to_do="Let some be filed first.", code="quota"
            )
        return UploadFile.objects.create(
            upload=upload,
            ciphertext=keys.encrypt(upload.subject, name[:500].encode(), "file-name"),
            size=size,
            sha256=sha256,
            fingerprint=fingerprint,
            signed=signed,
        )


class _Piece:
    """At most `PART` bytes of a body, beginning with ``first``. A connection that breaks is its end."""

    def __init__(self, first: bytes, body: Readable, most: int) -> None:
        self._kept, self._body, self._left = first, body, most
        self.broken = False

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        if self._kept:
            data, self._kept = self._kept[:wanted], self._kept[wanted:]
        else:
            data = _read(self._body, wanted)
        self._left -= len(data)
        return data


def _read(body: Readable, size: int) -> bytes:
    try:
        return body.read(size) if size > 0 else b""
    except OSError:
        return b""  # the client went away: what came before stays


def _stored_pieces(upload: Upload, body: Readable, room: int) -> Iterator[StoredObject]:
    """At most ``room`` bytes of the body as encrypted objects, each durable when it is given out."""
    while room > 0 and (first := _read(body, min(room, 1 << 16))):
        piece: Any = _Piece(first, body, min(PART, room))
        stored = objects.write(_as_stream(piece), subject=upload.subject, kind=PART_KIND)
        room -= stored.size
        yield stored


def _as_stream(piece: Any) -> IO[bytes]:
    stream: IO[bytes] = piece  # `objects.write` calls nothing but read
    return stream


def append(file: UploadFile, offset: int, body: Readable, length: int) -> int:
    """Add what ``body`` brings from ``offset`` on; returns the new offset. After a broken connection it tells how far it came.

    :param length: bytes that the request announces.
    :raises UserVisibleError: code ``offset`` (another place is next), ``too-large``, ``completed``, ``expired``.
    """
    _must_be_open(file.upload)
    if file.signed:
        raise UserVisibleError("This file comes by its signed address.", code="bad-file")
    if offset != file.offset:
        raise UserVisibleError(f"The next byte is number {file.offset}.", code="offset")
    if length > file.size - offset:
        raise UserVisibleError("That is more than was declared.", code="too-large")
    for stored in _stored_pieces(file.upload, body, length):
        failpoints.hit("uploads.part_stored")
        with transaction.atomic():
            moved = UploadFile.objects.filter(pk=file.pk, offset=offset, upload__state=UploadState.RECEIVED).update(
                offset=offset + stored.size
            )
            if moved:
                objects.keep(stored)
                UploadPart.objects.create(file=file, offset=offset, object=stored)
        if not moved:
            objects.discard(stored)
            raise UserVisibleError("Another request wrote to this file.", code="offset")
        offset += stored.size
    return offset


def put_whole(file: UploadFile, body: Readable, length: int) -> str:
    """The whole file in one request, as an object store takes it: all of it or nothing; again replaces. Returns an ETag.

    :raises UserVisibleError: code ``bad-length``, ``completed``, ``expired``.
    """
    _must_be_open(file.upload)
    if length != file.size:
        raise UserVisibleError(f"The address is for exactly {file.size} bytes.", code="bad-length")
    stored: list[StoredObject] = []
    try:
        stored.extend(_stored_pieces(file.upload, body, length))
        if sum(one.size for one in stored) != file.size:
            raise UserVisibleError("The connection broke; nothing was kept.", code="bad-length")
        with transaction.atomic():
            # Locked first, so that what was completed meanwhile is not replaced under the reader's hands.
            if not Upload.objects.filter(pk=file.upload_id, state=UploadState.RECEIVED).update(code=""):
                raise UserVisibleError("This upload was completed.", what_to_do="Begin a new one.", code="completed")
            delete_parts(file)
            offset = 0
            objects.keep(*stored)
            for one in stored:
                UploadPart.objects.create(file=file, offset=offset, object=one)
                offset += one.size
            UploadFile.objects.filter(pk=file.pk).update(offset=offset)
    except BaseException:
        objects.discard(*stored)
        raise
    return "-".join(one.sha256[:32] for one in stored[:2]) + f"-{len(stored)}"


def delete_parts(file: UploadFile) -> None:
    """Delete what our own doors took in for this file, in the caller's transaction."""
    for part in file.parts.select_related("object"):
        part.delete()
        objects.delete(part.object)


def remove_file(file: UploadFile) -> None:
    """Take a file out of an upload that was not completed. :raises UserVisibleError: code ``completed``, ``expired``."""
    with transaction.atomic():
        if not Upload.objects.filter(pk=file.upload_id, state=UploadState.RECEIVED).update(code=""):
            raise UserVisibleError("This upload was completed.", what_to_do="Begin a new one.", code="completed")
        delete_parts(file)
        file.delete()


def sign(file: UploadFile) -> stores.Signed | None:
    """A short-lived address for this one file in the staging store; None where that is no service of its own.

    :raises TransientError: the store cannot sign now.
    """
    _must_be_open(file.upload)
    name = file.staged_name or uuid.uuid4().hex
    try:
        signed = stores.store("staging").sign_put(name, size=file.size, seconds=int(settings.ONCOFLOW_PRESIGN_SECONDS))
    except Exception as error:
        raise TransientError(f"the staging store cannot sign ({type(error).__name__})") from error
    with transaction.atomic():
        if signed is not None and not file.staged_name:
            file.staged_name = name
            file.save(update_fields=["staged_name"])
        audit.record("upload.presign", action="C", resource=file.upload.subject, detail={"bytes": file.size})
    return signed
