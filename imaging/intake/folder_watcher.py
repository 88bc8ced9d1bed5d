"""Finding what lands in a watched folder or bucket, once it is complete.

The watcher only finds and writes down: one row for each file and version and one job for each batch, in one transaction. The
jobs file them (`imaging.intake.watched_files_job`); so a kill at any point neither loses a file nor takes one twice.

An object in a bucket is complete when it is there. A file in a folder is complete when its size and time have not changed for a
while and its name does not say that it is still being written. NIfTI waits for its declaration, ``oncoflow.json`` in its folder
or one above, and for all files that this names.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from imaging.intake import watched_files_job
from imaging.intake.file_contents import is_nifti
from imaging.models import IntakeFile, IntakeState
from oncoflow_site.foundation import failpoints, stores
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import enqueue

__all__ = ["Watcher"]

_BATCH = 200
# As curl, rsync, browsers, Windows and file transfer gateways name what they are still writing.
_UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".uploading", ".swp", "~")
_OURS = (f"{watched_files_job.DONE_FOLDER}/", f"{watched_files_job.REFUSED_FOLDER}/")


def _ignored(name: str) -> bool:
    last = name.rsplit("/", 1)[-1].lower()
    return name.startswith(_OURS) or last.startswith(".") or last.endswith(_UNFINISHED)


class Watcher:
    """Looks at a store again and again.

    :param clock: seconds that only grow.
    """

    def __init__(self, store: stores.Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._grows = isinstance(store, stores.FolderStore)
        self._since: dict[str, tuple[str, float]] = {}

    def round(self, prefixes: Iterable[str] = ("",)) -> int:
        """One look below each prefix; returns how many files were newly taken up."""
        folders: dict[str, list[stores.Entry]] = defaultdict(list)
        present = set()
        everything = list(prefixes) == [""]
        for prefix in set(prefixes):
            for entry in self._store.entries(prefix):
                if not _ignored(entry.name):
                    folders[entry.name.rpartition("/")[0]].append(entry)
                    present.add(entry.name)
        if everything:
            self._since = {name: seen for name, seen in self._since.items() if name in present}
        return sum(self._folder(folder, entries) for folder, entries in sorted(folders.items()))

    def waiting(self) -> bool:
        """Whether anything lies there that is not dealt with yet."""
        return any(
            not _ignored(one.name) and not one.name.endswith(watched_files_job.DECLARATION)
            for one in self._store.entries()
        )

    def _stable(self, entry: stores.Entry) -> bool:
        if not self._grows:
            return True
        etag, since = self._since.get(entry.name, ("", 0.0))
        if etag != entry.etag:
            self._since[entry.name] = (entry.etag, self._clock())
            return False
        return self._clock() - since >= float(settings.ONCOFLOW_INTAKE_STABLE_SECONDS)

    def _folder(self, folder: str, entries: list[stores.Entry]) -> int:
        stable = {entry.name: entry for entry in entries if self._stable(entry)}
        declaration = f"{folder}/{watched_files_job.DECLARATION}".lstrip("/")
        images = [one for name, one in stable.items() if is_nifti(name)]
        others = [one for name, one in stable.items() if not is_nifti(name) and name != declaration]
        taken = sum(self._take(others[start : start + _BATCH]) for start in range(0, len(others), _BATCH))
        if images and self._declared(folder, images, all_stable=len(stable) == len(entries)):
            # A declaration that names its files is used up with them; another one stays for those to come.
            if declaration in stable and watched_files_job.names_files(self._store, stable[declaration]):
                images.append(stable[declaration])
            taken += self._take(images)
        return taken

    def _declared(self, folder: str, images: list[stores.Entry], *, all_stable: bool) -> bool:
        """Whether everything that NIfTI files need is there, or has not come for too long."""
        patience = timedelta(seconds=float(settings.ONCOFLOW_INTAKE_WAIT_SECONDS))
        if max(one.modified for one in images) + patience < now():
            return True
        try:
            declared = watched_files_job.declaration_for(self._store, folder)
        except UserVisibleError:
            return True  # the job will say what is wrong with it
        if declared is None:
            return False
        if declared.sequences:
            here = {one.name.rsplit("/", 1)[-1] for one in images}
            return set(declared.sequences.values()) <= here
        return all_stable

    def _take(self, entries: list[stores.Entry]) -> int:
        """Write down what is new, with its job. What was dealt with before and still lies here is cleared away again."""
        fresh = []
        known = {
            row.version_index: row
            for row in IntakeFile.objects.filter(
                version_index__in=[IntakeFile.index_of(one.name, one.etag) for one in entries]
            )
        }
        for entry in entries:
            row = known.get(IntakeFile.index_of(entry.name, entry.etag))
            if row is None:
                fresh.append(entry)
            elif row.state != IntakeState.SEEN:
                watched_files_job.clear_away(self._store, row)
        if not fresh:
            return 0
        batch, count = uuid.uuid4(), 0
        with transaction.atomic():
            for entry in fresh:
                _, created = IntakeFile.objects.get_or_create(
                    version_index=IntakeFile.index_of(entry.name, entry.etag),
                    defaults={
                        "ciphertext": IntakeFile.seal_name(entry.name),
                        "etag": entry.etag,
                        "size": entry.size,
                        "batch": batch,
                    },
                )
                count += created
            if count:
                key = f"ingest-intake:{batch}"
                enqueue(watched_files_job.JOB, subject=f"intake:{batch}", key=key, kwargs={"batch": batch})
        failpoints.hit("intake.written_down")
        return count
