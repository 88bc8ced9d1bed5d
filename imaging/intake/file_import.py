"""Bringing in files: DICOM, zip archives and NIfTI, through the same rows as the network door.

One way in for the command, an upload and a watched folder or bucket: they differ in where the bytes lie (`imaging.uploads.
sources`) and in what they call themselves (`Door`). NIfTI carries no patient, date or sequence: a person declares them. What
a file name suggests is a convenience that is reported back, never taken silently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clinical import services as clinical
from imaging.archive import completion
from imaging.archive.filing_header import OUT_OF_RESOURCES
from imaging.archive.store_instance import DeclaredPatient, ReceiveCache, StoredInstance, store_instance
from imaging.intake.byte_sources import ByteSource, FileSource, sources_of_paths
from imaging.intake.declaration import Declaration
from imaging.intake.door import Door, Ingested
from imaging.intake.file_contents import MAX_TOTAL, contents
from imaging.intake.nifti_import import declare_nifti, declared_authority, declared_patient, nifti_study
from imaging.models import Instance, Study
from oncoflow_site.foundation.errors import TransientError, UserVisibleError

__all__ = ["bring_in", "ingest"]


def ingest(
    paths: Sequence[Path], declaration: Declaration, progress: Callable[[str], None] = lambda text: None
) -> Ingested:
    """Read everything under ``paths`` and file it. Repeating it changes nothing.

    :raises UserVisibleError: something needed was not declared, or a file cannot be what it should be.
    """
    declared = {sequence: Path(path) for sequence, path in declaration.sequences.items()}
    chosen = [FileSource(path, sequence) for sequence, path in declared.items()]
    found = list(sources_of_paths(paths, frozenset(path.resolve() for path in declared.values())))
    result = bring_in([*chosen, *(one for one in found if one)], declaration, Door(), lambda done, text: progress(text))
    result.counts["ignored"] += found.count(None)
    return result


def bring_in(
    sources: Iterable[ByteSource],
    declaration: Declaration,
    door: Door,
    progress: Callable[[float, str], None] = lambda done, text: None,
    *,
    cache: ReceiveCache | None = None,
) -> Ingested:
    """Read every source and file what it holds. Repeating it changes nothing.

    :param progress: called for every file with the share done (0 to 1) and a sentence without identity.
    :param cache: look-ups to go on with, from a call before.
    :raises UserVisibleError: something needed was not declared, or a file cannot be what it should be.
    """
    result = Ingested()
    sources = list(sources)
    total, done = max(sum(one.size for one in sources), 1), 0
    if total > MAX_TOTAL:
        raise UserVisibleError("These are more than 16 GiB of images.", what_to_do="Bring them in parts.")
    names = {str(name): sequence for sequence, name in declaration.sequences.items()}
    loose: list[tuple[ByteSource, str]] = []
    run = _Run(_declared(declaration, door), door, result, cache or ReceiveCache())
    for source in sources:
        for one in contents(source):
            if one.nifti is not None:
                loose.append((one.nifti, source.sequence or names.get(one.nifti.name, "")))
            elif one.dicom is None:
                result.counts["ignored"] += 1
                if one.why:
                    result.notes.append(f"{one.name} was not used: {one.why}")
            else:
                run.dicom(one.name, one.dicom)
            progress(done / total, f"{sum(result.counts.values())} files read")
        done += source.size
    for study in run.found.values():
        if door.complete:
            completion.complete(Study.objects.get(pk=study.pk))
        result.studies.append(Study.objects.get(pk=study.pk))
    nifti = declare_nifti(loose, declaration, result)
    if nifti:
        result.studies.append(nifti_study(nifti, declaration, door, result))
    return result


@dataclass
class _Run:
    """What one call of `bring_in` carries along."""

    declared: DeclaredPatient | None
    door: Door
    result: Ingested
    cache: ReceiveCache
    found: dict[object, Study] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def dicom(self, name: str, data: bytes) -> None:
        """File one DICOM file and count what became of it."""
        stored = store_instance(
            data, source=self.door.source, peer=self.door.peer, cache=self.cache, declared=self.declared
        )
        if stored.status == OUT_OF_RESOURCES:
            raise TransientError(f"a file was not stored: {stored.reason}")
        ours = self._stored_before(data, stored)
        if stored.status:
            kind = "refused"
            self.result.notes.append(f"{name} was refused: {stored.reason}")
        elif stored.duplicate and not ours:
            kind = "duplicate"
        elif stored.quarantined:
            kind = "quarantined"
            self.result.notes.append(f"{name} was quarantined: {stored.reason}".removesuffix(": "))
        else:
            kind = "stored"
        self.result.counts[kind] += 1
        if stored.study_id is not None and stored.study_id not in self.found:
            self.found[stored.study_id] = Study.objects.get(pk=stored.study_id)

    def _stored_before(self, data: bytes, stored: StoredInstance) -> bool:
        """Whether an attempt of this same door, which was killed, stored it: then it is no duplicate."""
        if self.door.since is None:
            return False
        digest = hashlib.sha256(data).hexdigest()
        first = digest not in self.seen
        self.seen.add(digest)
        mine = Instance.objects.filter(study=stored.study_id, peer=self.door.peer, sha256=digest)
        return first and stored.duplicate and mine.exists()


def _declared(declaration: Declaration, door: Door) -> DeclaredPatient | None:
    """Patient and date as declared, in the words of the network door."""
    if declaration.patient is not None:
        identity = clinical.reveal_identity(declaration.patient, purpose="upload")
        number = next((one for one in identity.identifiers if one.kind == "MR"), identity.identifiers[0])
        return DeclaredPatient(number.authority, number.value, declaration.performed_at)
    if declaration.mrn:
        declared_patient(declaration, door)
        return DeclaredPatient(declared_authority(declaration), declaration.mrn, declaration.performed_at)
    return None
