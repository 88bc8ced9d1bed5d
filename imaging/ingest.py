"""Bringing in files: DICOM, zip archives and NIfTI, through the same rows as the network door.

One way in for the command, an upload and a watched folder or bucket: they differ in where the bytes lie (`imaging.uploads.
sources`) and in what they call themselves (`Door`). NIfTI carries no patient, date or sequence: a person declares them. What
a file name suggests is a convenience that is reported back, never taken silently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from django.conf import settings
from django.db import transaction

from audit import services as audit
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import Patient
from imaging import completion
from imaging.geometry import GeometryError, read_nifti, write_nifti
from imaging.identity import SeriesIdentity, StudyIdentity, map_uid, seal, uid_index
from imaging.machines import StudyState
from imaging.models import Instance, Series, Study, StudySource
from imaging.models import Sequence as MrSequence
from imaging.receive import Declared, ReceiveCache, Stored, store_instance
from imaging.recognise import recognise_name
from imaging.uploads.contents import MAX_FILE, MAX_TOTAL, contents
from imaging.uploads.sources import FileSource, Source, sources_of_paths
from oncoflow_site.foundation import keys, objects
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["DECLARABLE", "Declaration", "Door", "Ingested", "bring_in", "ingest"]

DECLARABLE = (MrSequence.T1, MrSequence.T1C, MrSequence.T2, MrSequence.FLAIR)


@dataclass(frozen=True)
class Declaration:
    """What the person says about the files. ``repr`` shows nothing of the patient.

    :param patient: a patient known already, instead of a number.
    :param mrn: medical record number; one of the two is needed for NIfTI, and for DICOM without a Patient ID.
    :param sequences: sequence -> NIfTI file: a path, or the name of one of the files brought in.
    :param spacing_known: False when the header's spacing is an assumption: nothing in millimetres is then assessed.
    """

    patient: Patient | None = field(default=None, repr=False)
    mrn: str = field(default="", repr=False)
    authority: str = ""
    family: str = field(default="", repr=False)
    given: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    sex: str = "U"
    day: date | None = None
    sequences: Mapping[str, Path | str] = field(default_factory=dict, repr=False)
    spacing_known: bool = True

    @property
    def performed_at(self) -> datetime | None:
        """Noon of the declared day, in the service's time zone: a day is all that is known."""
        return datetime.combine(self.day, time(12), ZoneInfo(settings.TIME_ZONE)) if self.day else None  # type: ignore[arg-type]


@dataclass
class Ingested:
    """What came of it.

    :ivar studies: studies that were filed or found, in order.
    :ivar counts: stored, duplicate, quarantined, refused, ignored.
    :ivar notes: sentences to show; file names are shown as given by the person, nothing from inside files.
    """

    studies: list[Study] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("stored", "duplicate", "quarantined", "refused", "ignored"), 0)
    )
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Door:
    """Through which door files come in.

    :param source: what the study keeps as its source.
    :param peer: who brought it, at most 64 characters, no identity.
    :param audit_source: how the audit record calls the door.
    :param complete: these files are all there is of their studies: no quiet period.
    :param since: when an attempt before this one, which was killed, began: what it stored is no duplicate.
    """

    source: StudySource = StudySource.INGEST
    peer: str = "ingest"
    audit_source: str = "command"
    complete: bool = True
    since: datetime | None = None


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
    sources: Iterable[Source],
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
    loose: list[tuple[Source, str]] = []
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
    nifti = _declare_nifti(loose, declaration, result)
    if nifti:
        result.studies.append(_nifti_study(nifti, declaration, door, result))
    return result


@dataclass
class _Run:
    """What one call of `bring_in` carries along."""

    declared: Declared | None
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

    def _stored_before(self, data: bytes, stored: Stored) -> bool:
        """Whether an attempt of this same door, which was killed, stored it: then it is no duplicate."""
        if self.door.since is None:
            return False
        digest = hashlib.sha256(data).hexdigest()
        first = digest not in self.seen
        self.seen.add(digest)
        mine = Instance.objects.filter(study=stored.study_id, peer=self.door.peer, sha256=digest)
        return first and stored.duplicate and mine.exists()


def _authority(declaration: Declaration) -> str:
    return declaration.authority or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY)


def _declared(declaration: Declaration, door: Door) -> Declared | None:
    """Patient and date as declared, in the words of the network door."""
    if declaration.patient is not None:
        identity = clinical.reveal_identity(declaration.patient, purpose="upload")
        number = next((one for one in identity.identifiers if one.kind == "MR"), identity.identifiers[0])
        return Declared(number.authority, number.value, declaration.performed_at)
    if declaration.mrn:
        _patient(declaration, door)
        return Declared(_authority(declaration), declaration.mrn, declaration.performed_at)
    return None


def _patient(declaration: Declaration, door: Door) -> Patient:
    """The declared patient. What is declared fills gaps of a known patient and overwrites nothing."""
    if declaration.patient is not None:
        return clinical.current_patient(declaration.patient)
    identity = IdentityData(
        family=declaration.family,
        given=declaration.given,
        birth_date=declaration.birth_date,
        sex=declaration.sex,
        identifiers=(Identifier(_authority(declaration), declaration.mrn),),
    )
    return clinical.register_patient(identity, source=door.audit_source, provisional=True)


def _declare_nifti(
    loose: Sequence[tuple[Source, str]], declaration: Declaration, result: Ingested
) -> dict[str, tuple[bytes, str]]:
    """Which file is which sequence: as declared, and for the others by the convention of file names."""
    nifti: dict[str, tuple[bytes, str]] = {}
    declared = {sequence for _, sequence in loose if sequence}
    for sequence in [*declaration.sequences, *declared]:
        if sequence not in DECLARABLE:
            raise UserVisibleError(f"{sequence} is none of {', '.join(DECLARABLE)}.", code="bad-sequence")
        if sequence not in declared:
            raise UserVisibleError(
                f"The file that was declared to be {sequence} is not among those brought in.", code="undeclared"
            )
    for source, sequence in sorted(loose, key=lambda one: not one[1]):  # the declared ones first
        told = sequence or recognise_name(source.name.rsplit("/", 1)[-1])
        if told is None:
            result.counts["ignored"] += 1
            result.notes.append(f"{source.name} was not used: its name says no sequence; declare what it shows")
        elif not sequence and told in declared:
            result.counts["ignored"] += 1
            result.notes.append(f"{source.name} was not used: {told} is declared to be another file")
        elif told in nifti:
            raise UserVisibleError(
                f"Two files look like {told}.", what_to_do="Say which is which.", code="ambiguous-sequence"
            )
        else:
            reason = "declared by the person who brought the file" if sequence else _BY_NAME
            nifti[str(MrSequence(told))] = (_clean_nifti(source), reason)
            if not sequence:
                result.notes.append(f"{source.name} is taken as {told}")
    return nifti


_BY_NAME = "told by the file name, as is the convention"


def _clean_nifti(source: Source) -> bytes:
    """The image with a header of geometry only: free text fields and extensions of a NIfTI header may hold a name."""
    try:
        if source.size > MAX_FILE:
            raise GeometryError("it is larger than any image of a head")
        with source.open() as stream:
            array, grid = read_nifti(stream.read(MAX_FILE))
    except (GeometryError, OSError) as error:
        raise UserVisibleError(f"{source.name} cannot be used: {error}.", code="bad-nifti") from None
    if not np.all(np.isfinite(array)):
        raise UserVisibleError(f"{source.name} has voxels that are not numbers.", code="bad-nifti")
    return write_nifti(array, grid)


def _nifti_study(
    nifti: Mapping[str, tuple[bytes, str]], declaration: Declaration, door: Door, result: Ingested
) -> Study:
    """One study of one date. The same files of the same patient and date are the same study."""
    if (not declaration.mrn and declaration.patient is None) or declaration.performed_at is None:
        raise UserVisibleError(
            "NIfTI files say neither whose nor when they are.",
            what_to_do="Declare the patient's number and the date of the examination (--patient, --date).",
            code="undeclared",
        )
    patient = _patient(declaration, door)
    hashes = {sequence: hashlib.sha256(data).hexdigest() for sequence, (data, _) in nifti.items()}
    facts = "|".join([str(patient.pk), str(declaration.day), *(f"{name}={hashes[name]}" for name in sorted(hashes))])
    uid = f"2.25.{int.from_bytes(keys.keyed_hash('nifti-study', facts)[:16], 'big')}"
    known = Study.objects.filter(uid_index=uid_index(uid)).first()
    if known is not None:
        ours = door.since is not None and known.created_at >= door.since
        result.counts["stored" if ours else "duplicate"] += len(nifti)
        return known
    subject = patient.key_subject
    with transaction.atomic():
        study = Study.objects.create(
            patient=patient,
            uid_index=uid_index(uid),
            deidentified_uid=map_uid(uid),
            ciphertext=seal(subject, StudyIdentity(uid), context="study"),
            performed_at=declaration.performed_at,
            spacing_known=declaration.spacing_known,
            source=StudySource.NIFTI,
            state=StudyState.RECEIVING,
        )
        for number, (sequence, (data, reason)) in enumerate(sorted(nifti.items()), start=1):
            series_uid = f"{uid}.{number}"[:64]
            Series.objects.create(
                study=study,
                uid_index=uid_index(series_uid),
                deidentified_uid=map_uid(series_uid),
                number=number,
                sequence=sequence,
                sequence_confidence=1.0 if reason.startswith("declared") else 0.6,
                sequence_reason=reason,
                ciphertext=seal(subject, SeriesIdentity(series_uid), context="series"),
                nifti=objects.put(data, subject=subject, kind="nifti-original", content_type="application/gzip"),
            )
        audit.record(
            "study.receive",
            action="C",
            resource=study.subject,
            patient_id=patient.pk,
            detail={"peer": door.peer, "source": StudySource.NIFTI.value, "series": len(nifti)},
            source=door.audit_source,
        )
        completion.complete(study)
    result.counts["stored"] += len(nifti)
    return study
