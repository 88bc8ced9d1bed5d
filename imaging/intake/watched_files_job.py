"""Filing what a watcher found: each file once, then out of the way, with a reason beside what is refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import date
from typing import Any

from django.conf import settings

from audit import services as audit
from imaging.archive.store_instance import ReceiveCache
from imaging.intake.byte_sources import StoreSource
from imaging.intake.declaration import Declaration
from imaging.intake.door import Door, Ingested
from imaging.intake.file_contents import is_nifti
from imaging.intake.file_import import bring_in
from imaging.intake.upload_declaration import UploadDeclaration
from imaging.models import INTAKE_MACHINE, IntakeFile, IntakeState, StudySource
from oncoflow_site.foundation import failpoints, stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError, safe_error_text
from oncoflow_site.foundation.jobs import JobContext
from oncoflow_site.foundation.models import Job

__all__ = ["DECLARATION", "DONE_FOLDER", "JOB", "REFUSED_FOLDER", "clear_away", "declaration_for", "names_files", "run"]

logger = logging.getLogger(__name__)

JOB = "imaging.ingest_intake"
DECLARATION = "oncoflow.json"
DONE_FOLDER, REFUSED_FOLDER = "done", "refused"
_MAX_DECLARATION = 64 << 10
_TEXT = ("mrn", "authority", "family", "given", "sex")


def parse_declaration(data: bytes) -> UploadDeclaration:
    """``oncoflow.json``: mrn, authority, family, given, sex, birth_date, date, sequences,
    spacing_known, geometry_confirmed; all optional.

    :raises UserVisibleError: it is no such object.
    """
    wrong = UserVisibleError(f"{DECLARATION} cannot be read.", code="bad-declaration")
    try:
        told: Any = json.loads(data)
        known = {*_TEXT, "birth_date", "date", "sequences", "spacing_known", "geometry_confirmed"}
        if not isinstance(told, dict) or not told.keys() <= known:
            raise wrong
        sequences = told.get("sequences", {})
        texts = [*(told.get(name, "") for name in _TEXT), *sequences.values()]
        if not all(isinstance(one, str) and len(one) <= 500 for one in texts):
            raise wrong
        days = {name: date.fromisoformat(told[name]) if told.get(name) else None for name in ("birth_date", "date")}
        return UploadDeclaration(
            **{name: told[name].strip() for name in _TEXT if name in told},
            birth_date=days["birth_date"],
            day=days["date"],
            sequences=sequences,
            spacing_known=bool(told.get("spacing_known", True)),
            geometry_confirmed=told.get("geometry_confirmed") is True,
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise wrong from None


def _read(store: stores.Store, entry: stores.Entry) -> UploadDeclaration:
    if entry.size > _MAX_DECLARATION:
        raise UserVisibleError(f"{DECLARATION} is too large.", code="bad-declaration")
    return parse_declaration(store.read(entry.name, 0, _MAX_DECLARATION))


def declaration_for(store: stores.Store, folder: str) -> UploadDeclaration | None:
    """The declaration in ``folder`` or the nearest one above. :raises UserVisibleError: it cannot be read."""
    while True:
        try:
            return _read(store, store.stat(f"{folder}/{DECLARATION}".lstrip("/")))
        except FileNotFoundError:
            if not folder:
                return None
            folder = folder.rpartition("/")[0]


def names_files(store: stores.Store, entry: stores.Entry) -> bool:
    """Whether this declaration is for certain files, and goes with them."""
    try:
        return bool(_read(store, entry).sequences)
    except (UserVisibleError, FileNotFoundError):
        return True


def run(ctx: JobContext, batch: str) -> None:
    """File one batch. What an attempt before this one finished is not looked at again."""
    store = stores.store("intake")
    rows = list(IntakeFile.objects.filter(batch=batch, state=IntakeState.SEEN))
    found: list[tuple[IntakeFile, StoreSource]] = []
    for row in rows:
        name = row.name
        try:
            entry = store.stat(name)
        except FileNotFoundError:
            entry = None
        if entry is None or entry.etag != row.etag:
            _finish(ctx, store, row, IntakeState.GONE)
        else:
            found.append((row, StoreSource(store, entry, name.rsplit("/", 1)[-1])))
    again = ctx.job.attempts > 1
    door = Door(
        source=StudySource.WATCHED,
        peer=f"intake:{batch}"[:64],
        audit_source="worker",
        complete=False,
        since=ctx.job.created_at if again else None,
    )
    with audit.acting_as(audit.Actor.system("intake"), source="worker"):
        images = [one for one in found if is_nifti(one[1].name)]
        companions = [one for one in found if one[1].name == DECLARATION]
        cache = ReceiveCache()
        for number, (row, source) in enumerate(found):
            ctx.progress(number / len(found), f"{number} of {len(found)} files read")
            if (row, source) not in images and (row, source) not in companions:
                # Named so that no sentence about it can name anybody.
                plain = StoreSource(store, source.entry, "the file")
                state, reason = _file(store, row.name, [plain], door, cache)
                _finish(ctx, store, row, state, reason)
        if images:
            state, reason = _file(store, images[0][0].name, [source for _, source in images], door, cache)
            for row, _ in [*images, *companions]:
                _finish(ctx, store, row, state, reason)
        else:
            for row, _ in companions:  # the files that it names went away
                _finish(ctx, store, row, IntakeState.GONE)


def give_up(job: Job, *, batch: str) -> None:
    """The job that files a batch ended for good: what it left is refused, and cleared away at the watcher's next look."""
    reason = "It could not be filed. Tell those who run the service."
    INTAKE_MACHINE.apply(IntakeFile.objects.filter(batch=batch), "refuse", reason=reason, finished_at=now())


def _file(
    store: stores.Store, name: str, sources: list[StoreSource], door: Door, cache: ReceiveCache
) -> tuple[IntakeState, str]:
    """What became of these files, and why."""
    try:
        declared = declaration_for(store, name.rpartition("/")[0])
        declaration = declared.declaration(None) if declared else Declaration()
        if not any(is_nifti(source.name) for source in sources):
            declaration = _without_sequences(declaration)
        result = bring_in(sources, declaration, door, cache=cache)
    except stores.StoreChanged:
        return IntakeState.GONE, ""
    except UserVisibleError as error:
        reason = str(error)
        for source in sources:
            reason = reason.replace(source.name, "a file")
        return IntakeState.REFUSED, reason[:300]
    return _outcome(result)


def _without_sequences(declaration: Declaration) -> Declaration:
    """The same for files that are no NIfTI: patient and date only."""
    return replace(declaration, sequences={})


def _outcome(result: Ingested) -> tuple[IntakeState, str]:
    counts = result.counts
    if counts["stored"] or counts["duplicate"] or counts["quarantined"]:
        return IntakeState.DONE, ""
    if counts["refused"]:
        return IntakeState.REFUSED, result.notes[0].partition(" was refused: ")[2][:300] or "it was refused"
    return IntakeState.REFUSED, "it holds no image"


def _finish(ctx: JobContext, store: stores.Store, row: IntakeFile, state: IntakeState, reason: str = "") -> None:
    with ctx.commit():
        moment = now()
        if state == IntakeState.GONE:
            # Should the same bytes come again, they are new.
            INTAKE_MACHINE.advance(row, "vanish", finished_at=moment, version_index=row.pk.hex)
        elif state == IntakeState.REFUSED:
            INTAKE_MACHINE.advance(row, "refuse", reason=reason, finished_at=moment)
        else:
            INTAKE_MACHINE.advance(row, "finish", reason=reason, finished_at=moment)
        audit.record(
            "intake.file",
            action="C",
            resource=f"intake-file:{row.pk}",
            outcome=4 if state == IntakeState.REFUSED else 0,
            detail={"state": str(state), "bytes": row.size},
        )
    failpoints.hit("intake.before_removal")
    clear_away(store, row)


def clear_away(store: stores.Store, row: IntakeFile) -> None:
    """Delete or move a file that was dealt with, if it is still that version. What fails is tried again at the next look."""
    name = row.name
    try:
        if row.state == IntakeState.GONE or store.stat(name).etag != row.etag:
            return
        if row.state == IntakeState.REFUSED:
            store.write(f"{REFUSED_FOLDER}/{name}.txt", f"{row.reason}\n".encode())
            store.move(name, f"{REFUSED_FOLDER}/{name}")
            # Whoever puts it back, perhaps with a better declaration, wants it looked at again.
            IntakeFile.objects.filter(pk=row.pk).update(version_index=row.pk.hex)
        elif settings.ONCOFLOW_INTAKE_AFTER == "done":
            store.move(name, f"{DONE_FOLDER}/{name}")
        else:
            store.delete(name)
    except FileNotFoundError:
        return
    except Exception as error:
        logger.warning("a file that was dealt with stays in the intake: %s", safe_error_text(error))
