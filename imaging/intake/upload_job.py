"""From staged bytes to studies: completing an upload, the job that files it, and what becomes of the bytes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction

from audit import services as audit
from imaging.intake import upload_declaration as declarations
from imaging.intake.byte_sources import ByteSource, PartsSource, StoreSource
from imaging.intake.door import Door, Ingested
from imaging.intake.file_import import bring_in
from imaging.intake.upload_declaration import UploadDeclaration
from imaging.intake.upload_session import PART_KIND, delete_parts, file_name
from imaging.models import StudySource, Upload, UploadFile, UploadPart, UploadState
from imaging.states import UPLOAD_MACHINE
from oncoflow_site.foundation import failpoints, keys, objects, stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import IllegalMove, LostLease, PermanentError, UserVisibleError, safe_error_text
from oncoflow_site.foundation.jobs import JobContext, enqueue
from oncoflow_site.foundation.models import Job, StoredObject

__all__ = ["complete", "expire_due", "notes_of", "run", "withdraw"]

logger = logging.getLogger(__name__)

JOB = "imaging.ingest_upload"
BROKEN = "It could not be filed. Tell those who run the service; the files are kept."
_HASHED_AT_ONCE = 4 << 20
_MOST_NOTES = 500


def _arrived(number: int, file: UploadFile) -> str:
    """Check that the file is all there; returns the ETag of staged bytes. Nothing is read yet."""
    if not file.staged_name:
        if file.offset != file.size:
            raise UserVisibleError(
                f"File {number} is not complete: {file.offset} of {file.size} bytes are here.", code="incomplete"
            )
        return ""
    store = stores.store("staging")
    try:
        entry = store.stat(file.staged_name)
    except FileNotFoundError:
        raise UserVisibleError(f"File {number} has not arrived.", code="incomplete") from None
    if entry.size != file.size:
        store.delete(file.staged_name)
        raise UserVisibleError(
            f"File {number} has {entry.size} bytes, {file.size} were declared; it was deleted.", code="bad-length"
        )
    if entry.encrypted is False:
        store.delete(file.staged_name)
        raise UserVisibleError(
            f"File {number} was put without encryption and was deleted.",
            what_to_do="Send exactly the headers that were given with the address.",
            code="not-encrypted",
        )
    return entry.etag


def complete(upload: Upload, declared: UploadDeclaration | None = None) -> Upload:
    """Everything is there: file it. Again does nothing; after a failure it tries again, perhaps as ``declared`` now.

    :raises UserVisibleError: code ``incomplete``, ``bad-length``, ``not-encrypted``, ``expired``, or a wrong declaration.
    """
    if upload.state in (UploadState.STAGED, UploadState.INGESTING, UploadState.DONE):
        return upload
    if upload.state == UploadState.EXPIRED or upload.expires_at <= now():
        raise UserVisibleError("This upload has expired.", what_to_do="Begin a new one.", code="expired")
    if declared is not None:
        declared.check(upload.owner)
    files = list(upload.files.all())
    if not files:
        raise UserVisibleError("This upload has no file.", code="incomplete")
    etags = {file.pk: _arrived(number, file) for number, file in enumerate(files, start=1)}
    fields: dict[str, Any] = {"attempt": upload.attempt + 1, "code": "", "notes": b"", "counts": {}}
    if declared is not None:
        fields["declaration"] = declarations.seal(upload, declared)
    with transaction.atomic():
        try:
            UPLOAD_MACHINE.advance(upload, "complete", **fields, finished_at=None)
        except IllegalMove:
            upload.refresh_from_db()  # another request was faster
            return upload
        for file in files:
            if etags[file.pk]:
                UploadFile.objects.filter(pk=file.pk).update(etag=etags[file.pk], offset=file.size)
        job = enqueue(
            JOB,
            subject=upload.subject,
            key=f"ingest-upload:{upload.pk}:{upload.attempt}",
            kwargs={"upload_id": upload.pk},
        )
        Upload.objects.filter(pk=upload.pk).update(job=job.pk)
        upload.job = job.pk
        audit.record(
            "upload.complete",
            action="U",
            resource=upload.subject,
            patient_id=declarations.load(upload).patient,
            detail={"files": len(files), "bytes": sum(file.size for file in files)},
        )
    return upload


def run(ctx: JobContext, upload: Upload) -> None:
    """File a staged upload. Everything in it may happen twice: the same instance again does nothing."""
    if upload.state not in (UploadState.STAGED, UploadState.INGESTING):
        return
    with ctx.commit():
        UPLOAD_MACHINE.advance(upload, "ingest", started_at=upload.started_at or now())
    try:
        with audit.acting_as(audit.Actor.user(upload.owner), source="worker"):
            result = _file(upload, ctx.progress, again=ctx.job.attempts > 1)
    except UserVisibleError as error:
        with ctx.commit(done=True):
            _fail(upload, error.code or "refused", str(error))
        return
    except (PermanentError, stores.StoreChanged):
        with ctx.commit(done=True):
            _fail(upload, "bytes-lost", "What was staged is not there any more, or was changed.")
        return
    except LostLease:
        raise
    except Exception:
        if ctx.job.attempts < ctx.job.max_attempts:
            raise
        with ctx.commit():
            _fail(upload, "internal", BROKEN)
        raise
    failpoints.hit("uploads.before_done")
    with ctx.commit(done=True):
        UPLOAD_MACHINE.advance(
            upload,
            "finish",
            counts=result.counts,
            notes=_seal_notes(upload, result.notes),
            declaration=b"",
            finished_at=now(),
        )
        upload.studies.set(result.studies)
        _drop_bytes(upload)
        audit.record("upload.file", action="U", resource=upload.subject, detail=dict(result.counts), source="worker")


def give_up(job: Job, *, upload_id: str) -> None:
    """The job that files it ended for good, and nobody was left to say so: the upload has failed, its files are kept."""
    upload = Upload.objects.get(pk=upload_id)
    if upload.state in UPLOAD_MACHINE.sources("fail") and upload.job == job.pk:
        with audit.acting_as(audit.Actor.system("janitor"), source="worker"):
            _fail(upload, "internal", BROKEN)


def _fail(upload: Upload, code: str, sentence: str) -> None:
    UPLOAD_MACHINE.advance(upload, "fail", code=code, notes=_seal_notes(upload, [sentence]), finished_at=now())
    audit.record("upload.file", action="U", resource=upload.subject, outcome=4, detail={"why": code}, source="worker")


def _seal_notes(upload: Upload, notes: list[str]) -> bytes:
    shown = notes[:_MOST_NOTES]
    if len(notes) > _MOST_NOTES:
        shown.append(f"… and {len(notes) - _MOST_NOTES} more like these")
    return keys.encrypt(upload.subject, json.dumps(shown).encode(), "notes")


def notes_of(upload: Upload) -> list[str]:
    """Sentences for the person who brought the files; they may show names of files."""
    if not upload.notes:
        return []
    notes: list[str] = json.loads(keys.decrypt(upload.subject, bytes(upload.notes), "notes"))
    return notes


def _file(upload: Upload, progress: Callable[[float, str], None], *, again: bool) -> Ingested:
    declaration = declarations.load(upload).declaration(get_user_model().objects.get(pk=upload.owner_id))
    sources = []
    files = list(upload.files.prefetch_related("parts__object"))
    total, done = max(sum(file.size for file in files), 1), 0
    for number, file in enumerate(files, start=1):
        source = _source(upload, file)
        if file.sha256 and _sha256(source, partial(progress, 0.2 * done / total, "Checking")) != file.sha256:
            raise UserVisibleError(f"File {number} does not have the SHA-256 that was declared.", code="sha256")
        done += file.size
        sources.append(source)
    since = upload.started_at if again else None
    door = Door(source=StudySource.UPLOAD, peer=upload.subject[:64], audit_source="web", since=since)
    return bring_in(sources, declaration, door, lambda part, text: progress(0.2 + 0.8 * part, text))


def _source(upload: Upload, file: UploadFile) -> ByteSource:
    name = file_name(file)
    if file.staged_name:
        store = stores.store("staging")
        try:
            entry = store.stat(file.staged_name)
        except FileNotFoundError:
            raise PermanentError("the staged bytes are gone") from None
        if entry.etag != file.etag:
            raise stores.StoreChanged("the staged bytes were replaced after the upload was completed")
        return StoreSource(store, entry, name)
    return PartsSource(name, [part.object for part in file.parts.all()])


def _sha256(source: ByteSource, progress: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with source.open() as stream:
        while block := stream.read(_HASHED_AT_ONCE):
            digest.update(block)
            progress()
    return digest.hexdigest()


def _drop_bytes(upload: Upload) -> None:
    """Delete what was staged: rows now, bytes when the caller's transaction commits."""
    for file in upload.files.all():
        delete_parts(file)
        if file.staged_name:
            transaction.on_commit(partial(_discard, file.staged_name))


def _discard(name: str) -> None:
    try:
        stores.store("staging").delete(name)
    except Exception as error:
        logger.warning("staged bytes of a filed upload stay for the sweep: %s", safe_error_text(error))


def withdraw(upload: Upload, *, why: str = "withdrawn") -> None:
    """Give an upload up: its bytes and its declaration are deleted. :raises UserVisibleError: it is being filed, or was."""
    with transaction.atomic():
        try:
            UPLOAD_MACHINE.advance(upload, "expire", declaration=b"", notes=b"", code=why, finished_at=now())
        except IllegalMove:
            raise UserVisibleError("This upload is being filed, or was.", code="completed") from None
        _drop_bytes(upload)
        audit.record("upload.withdraw", action="D", resource=upload.subject, detail={"why": why})


def expire_due() -> int:
    """Delete what stayed too long: uploads never completed, and what lies in the staging store. Returns how many.

    Safe to run anywhere, any number of times.
    """
    count, moment = 0, now()
    for upload in Upload.objects.filter(state__in=UPLOAD_MACHINE.sources("expire"), expires_at__lt=moment)[:500]:
        with audit.acting_as(audit.Actor.system("janitor"), source="worker"):
            withdraw(upload, why="expired")
        count += 1
    return count + _sweep_staging() + _sweep_parts()


def _sweep_staging() -> int:
    store, count = stores.store("staging"), 0
    limit = now() - timedelta(hours=float(settings.ONCOFLOW_STAGING_HOURS))
    wanted = (UploadState.STAGED, UploadState.INGESTING)
    for entry in store.entries():
        in_use = UploadFile.objects.filter(staged_name=entry.name, upload__state__in=wanted)
        if entry.modified < limit and not in_use.exists():
            store.delete(entry.name)
            count += 1
    return count


def _sweep_parts() -> int:
    """Parts whose row a killed request never wrote."""
    limit = now() - timedelta(hours=float(settings.ONCOFLOW_STAGING_HOURS))
    old = StoredObject.objects.filter(kind=PART_KIND, created_at__lt=limit)
    old = old.exclude(pk__in=UploadPart.objects.values("object"))
    count = 0
    for row in old[:5000]:
        objects.delete(row)
        count += 1
    return count
