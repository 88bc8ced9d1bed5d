"""Bringing in files: DICOM folders, zip archives and NIfTI, through the same rows as the network door.

Archives are read member by member in memory, with limits; nothing is unpacked to disk, so no path in an archive means
anything. NIfTI carries no patient, date or sequence: a person declares them. What a file name suggests is a convenience
that is reported back, never taken silently.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from imaging.models import Sequence as MrSequence
from imaging.models import Series, Study, StudySource
from imaging.receive import Declared, ReceiveCache, store_instance
from imaging.recognise import recognise_name
from oncoflow_site.foundation import keys, objects
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["Declaration", "Ingested", "ingest"]

MAX_FILE = 1 << 30
MAX_TOTAL = 16 << 30
MAX_MEMBERS = 100_000
MAX_RATIO = 200
DECLARABLE = (MrSequence.T1, MrSequence.T1C, MrSequence.T2, MrSequence.FLAIR)


@dataclass(frozen=True)
class Declaration:
    """What the person says about the files. ``repr`` shows nothing of the patient.

    :param mrn: medical record number; needed for NIfTI, and for DICOM without a Patient ID.
    :param sequences: sequence -> NIfTI file.
    :param spacing_known: False when the header's spacing is an assumption: nothing in millimetres is then assessed.
    """

    mrn: str = field(default="", repr=False)
    authority: str = ""
    family: str = field(default="", repr=False)
    given: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    sex: str = "U"
    day: date | None = None
    sequences: Mapping[str, Path] = field(default_factory=dict)
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


def ingest(
    paths: Sequence[Path], declaration: Declaration, progress: Callable[[str], None] = lambda text: None
) -> Ingested:
    """Read everything under ``paths`` and file it. Repeating it changes nothing.

    Studies are complete at the end: no quiet period, these files are all there is.

    :raises UserVisibleError: something needed was not declared, or a file cannot be what it should be.
    """
    result = Ingested()
    nifti: dict[str, tuple[bytes, str]] = {}
    loose: list[Path] = []
    found: dict[object, Study] = {}
    declared = None
    if declaration.mrn:
        _patient(declaration)
        declared = Declared(_authority(declaration), declaration.mrn, declaration.performed_at)
    cache = ReceiveCache()
    for name, path, data in _files(paths, declaration.sequences):
        if path is not None and _is_nifti(path):
            loose.append(path)
        elif data is None:
            result.counts["ignored"] += 1
        else:
            _dicom(name, data, declared, cache, result, found)
            if sum(result.counts.values()) % 50 == 0:
                progress(f"{result.counts['stored']} images stored")
    for study in found.values():
        completion.complete(Study.objects.get(pk=study.pk))
        result.studies.append(Study.objects.get(pk=study.pk))
    _declare_nifti(loose, declaration, nifti, result)
    if nifti:
        result.studies.append(_nifti_study(nifti, declaration, result))
    return result


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _files(paths: Sequence[Path], sequences: Mapping[str, Path]) -> Iterator[tuple[str, Path | None, bytes | None]]:
    """(name for people, path of a file on disk, its bytes if it is a DICOM file)."""
    declared = {path.resolve() for path in sequences.values()}
    total = 0
    for path in paths:
        if not path.exists():
            raise UserVisibleError(f"There is no {path}.", code="no-such-path")
        inside = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        for one in inside:
            if one.resolve() in declared:
                continue
            if one.is_symlink() and path.is_dir() and path.resolve() not in one.resolve().parents:
                yield one.name, None, None  # a link that leads out of the folder
            elif _is_nifti(one):
                yield one.name, one, None
            elif one.suffix.lower() == ".zip" or (one.stat().st_size > 4 and _starts(one, b"PK\x03\x04")):
                for name, data in _members(one):
                    total += len(data or b"")
                    yield name, None, data
            else:
                data = _if_dicom(one)
                total += len(data or b"")
                yield one.name, None, data
            if total > MAX_TOTAL:
                raise UserVisibleError("These are more than 16 GiB of images.", what_to_do="Bring them in parts.")


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _if_dicom(path: Path) -> bytes | None:
    if path.stat().st_size > MAX_FILE:
        return None
    with path.open("rb") as stream:
        head = stream.read(132)
        return head + stream.read() if head[128:] == b"DICM" else None


def _members(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """DICOM files in an archive. :raises UserVisibleError: damaged, encrypted, or a bomb."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError):
        raise UserVisibleError(f"{path.name} is not a readable zip archive.", code="bad-zip") from None
    with archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        if len(members) > MAX_MEMBERS:
            raise UserVisibleError(f"{path.name} has more than {MAX_MEMBERS} members.", code="zip-bomb")
        packed = max(path.stat().st_size, 1)
        unpacked = 0
        for member in members:
            if member.flag_bits & 1:
                raise UserVisibleError(f"{path.name} is encrypted.", what_to_do="Unpack it first.", code="bad-zip")
            try:
                with archive.open(member) as stream:
                    head = stream.read(132)
                    # What the directory of an archive says about sizes may be a lie: count what comes out.
                    data = head + stream.read(MAX_FILE - 132 + 1) if head[128:] == b"DICM" else None
            except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
                raise UserVisibleError(f"{path.name} is damaged.", code="bad-zip") from error
            unpacked += len(data or head)
            if len(data or b"") > MAX_FILE or (unpacked > 64 << 20 and unpacked / packed > MAX_RATIO):
                raise UserVisibleError(f"{path.name} unpacks to far more than images do.", code="zip-bomb")
            yield "a member of the archive", data


def _dicom(
    name: str, data: bytes, declared: Declared | None, cache: ReceiveCache, result: Ingested, found: dict[object, Study]
) -> None:
    stored = store_instance(data, source=StudySource.INGEST, peer="ingest", cache=cache, declared=declared)
    if stored.status:
        kind = "refused"
        result.notes.append(f"{name} was refused: {stored.reason}")
    elif stored.duplicate:
        kind = "duplicate"
    elif stored.quarantined:
        kind = "quarantined"
        result.notes.append(f"{name} was quarantined: {stored.reason}")
    else:
        kind = "stored"
    result.counts[kind] += 1
    if stored.study_id is not None and stored.study_id not in found:
        found[stored.study_id] = Study.objects.get(pk=stored.study_id)


def _authority(declaration: Declaration) -> str:
    return declaration.authority or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY)


def _patient(declaration: Declaration) -> Patient:
    """The declared patient. What is declared fills gaps of a known patient and overwrites nothing."""
    identity = IdentityData(
        family=declaration.family,
        given=declaration.given,
        birth_date=declaration.birth_date,
        sex=declaration.sex,
        identifiers=(Identifier(_authority(declaration), declaration.mrn),),
    )
    return clinical.register_patient(identity, source="command", provisional=True)


def _declare_nifti(
    loose: Sequence[Path], declaration: Declaration, nifti: dict[str, tuple[bytes, str]], result: Ingested
) -> None:
    """Which file is which sequence: as declared, and for the others by the convention of file names."""
    for sequence, path in declaration.sequences.items():
        if sequence not in DECLARABLE:
            allowed = ", ".join(DECLARABLE)
            raise UserVisibleError(f"{sequence} is none of {allowed}.", code="bad-sequence")
        nifti[str(MrSequence(sequence))] = (_clean_nifti(path), "declared by the person who brought the file")
    for path in loose:
        told = recognise_name(path.name)
        if told is None:
            result.counts["ignored"] += 1
            result.notes.append(
                f"{path.name} was not used: its name says no sequence (--sequence T1={path.name} would)"
            )
        elif told in declaration.sequences:
            result.counts["ignored"] += 1
            result.notes.append(f"{path.name} was not used: {told} is declared to be another file")
        elif told in nifti:
            raise UserVisibleError(
                f"Two files look like {told}.", what_to_do="Say which with --sequence.", code="ambiguous-sequence"
            )
        else:
            nifti[str(told)] = (_clean_nifti(path), "told by the file name, as is the convention")
            result.notes.append(f"{path.name} is taken as {told}")


def _clean_nifti(path: Path) -> bytes:
    """The image with a header of geometry only: free text fields and extensions of a NIfTI header may hold a name."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise GeometryError("it is larger than any image of a head")
        array, grid = read_nifti(path.read_bytes())
    except (GeometryError, OSError) as error:
        raise UserVisibleError(f"{path.name} cannot be used: {error}.", code="bad-nifti") from None
    if not np.all(np.isfinite(array)):
        raise UserVisibleError(f"{path.name} has voxels that are not numbers.", code="bad-nifti")
    return write_nifti(array, grid)


def _nifti_study(nifti: Mapping[str, tuple[bytes, str]], declaration: Declaration, result: Ingested) -> Study:
    """One study of one date. The same files of the same patient and date are the same study."""
    if not declaration.mrn or declaration.performed_at is None:
        raise UserVisibleError(
            "NIfTI files say neither whose nor when they are.",
            what_to_do="Give --patient and --date.",
            code="undeclared",
        )
    patient = _patient(declaration)
    hashes = {sequence: hashlib.sha256(data).hexdigest() for sequence, (data, _) in nifti.items()}
    facts = "|".join([str(patient.pk), str(declaration.day), *(f"{name}={hashes[name]}" for name in sorted(hashes))])
    uid = f"2.25.{int.from_bytes(keys.keyed_hash('nifti-study', facts)[:16], 'big')}"
    known = Study.objects.filter(uid_index=uid_index(uid)).first()
    if known is not None:
        result.counts["duplicate"] += len(nifti)
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
            detail={"peer": "ingest", "source": StudySource.NIFTI.value, "series": len(nifti)},
            source="command",
        )
        completion.complete(study)
    result.counts["stored"] += len(nifti)
    return study
