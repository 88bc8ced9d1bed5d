"""Studies made of NIfTI files: what each file shows, its header reduced to geometry, one study of one day."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from django.conf import settings
from django.db import transaction

from audit import services as audit
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import Patient
from imaging.archive import completion
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.geometry.grid import GeometryError
from imaging.geometry.nifti import read_foreign_nifti, write_nifti
from imaging.identifiers import SeriesIdentity, StudyIdentity, map_uid, seal, uid_index
from imaging.intake.byte_sources import ByteSource
from imaging.intake.declaration import Declaration
from imaging.intake.door import Door, Ingested
from imaging.intake.file_contents import MAX_FILE
from imaging.models import MrSequence, Series, Study, StudySource
from imaging.recognition.rules import recognise_name
from imaging.states import StudyState
from imaging.volumes.findings import GEOMETRY_DOUBTS
from oncoflow_site.foundation import keys, objects
from oncoflow_site.foundation.errors import UserVisibleError


def declared_authority(declaration: Declaration) -> str:
    return declaration.authority or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY)


def declared_patient(declaration: Declaration, door: Door) -> Patient:
    """The declared patient. What is declared fills gaps of a known patient and overwrites nothing."""
    if declaration.patient is not None:
        return clinical.current_patient(declaration.patient)
    identity = IdentityData(
        family=declaration.family,
        given=declaration.given,
        birth_date=declaration.birth_date,
        sex=declaration.sex,
        identifiers=(Identifier(declared_authority(declaration), declaration.mrn),),
    )
    try:
        return clinical.register_patient(identity, source=door.audit_source, provisional=True)
    except clinical.IdentityContradiction as error:
        clinical.note_conflict(error, source=door.audit_source, sender=door.peer)
        raise


def declare_nifti(
    loose: Sequence[tuple[ByteSource, str]], declaration: Declaration, result: Ingested
) -> dict[str, DeclaredNifti]:
    """Which file is which sequence: as declared, and for the others by the convention of file names."""
    nifti: dict[str, DeclaredNifti] = {}
    declared = {sequence for _, sequence in loose if sequence}
    for sequence in [*declaration.sequences, *declared]:
        if sequence not in PANEL_SEQUENCES:
            raise UserVisibleError(f"{sequence} is none of {', '.join(PANEL_SEQUENCES)}.", code="bad-sequence")
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
            data, doubts = _clean_nifti(source)
            nifti[str(MrSequence(told))] = DeclaredNifti(data, reason, doubts)
            if doubts and not declaration.geometry_confirmed:
                result.notes.append(
                    f"{source.name}: {'; '.join(doubts)}. Side and millimetres are not assessed unless a person declares that "
                    "the header is right."
                )
            if not sequence:
                result.notes.append(f"{source.name} is taken as {told}")
    return nifti


_BY_NAME = "told by the file name, as is the convention"


@dataclass(frozen=True)
class DeclaredNifti:
    """One file: its cleaned bytes, why it is taken for its sequence, and what speaks against its header's geometry."""

    data: bytes
    reason: str
    doubts: tuple[str, ...] = ()


def _clean_nifti(source: ByteSource) -> tuple[bytes, tuple[str, ...]]:
    """The image with a header of geometry only (free text fields and extensions of a NIfTI header may hold a name), and what
    speaks against that geometry."""
    try:
        if source.size > MAX_FILE:
            raise GeometryError("it is larger than any image of a head")
        with source.open() as stream:
            array, grid, doubts = read_foreign_nifti(stream.read(MAX_FILE))
    except (GeometryError, OSError) as error:
        raise UserVisibleError(f"{source.name} cannot be used: {error}.", code="bad-nifti") from None
    if not np.all(np.isfinite(array)):
        raise UserVisibleError(f"{source.name} has voxels that are not numbers.", code="bad-nifti")
    return write_nifti(array, grid), doubts


def nifti_study(nifti: Mapping[str, DeclaredNifti], declaration: Declaration, door: Door, result: Ingested) -> Study:
    """One study of one date. The same files of the same patient and date are the same study."""
    if (not declaration.mrn and declaration.patient is None) or declaration.performed_at is None:
        raise UserVisibleError(
            "NIfTI files say neither whose nor when they are.",
            what_to_do="Declare the patient's number and the date of the examination (--patient, --date).",
            code="undeclared",
        )
    patient = declared_patient(declaration, door)
    hashes = {sequence: hashlib.sha256(one.data).hexdigest() for sequence, one in nifti.items()}
    facts = "|".join([str(patient.pk), str(declaration.day), *(f"{name}={hashes[name]}" for name in sorted(hashes))])
    uid = f"2.25.{int.from_bytes(keys.keyed_hash('nifti-study', facts)[:16], 'big')}"
    known = Study.objects.filter(uid_index=uid_index(uid)).first()
    if known is not None:
        ours = door.since is not None and known.created_at >= door.since
        result.counts["stored" if ours else "duplicate"] += len(nifti)
        return known
    subject = patient.key_subject
    written = {
        sequence: objects.write(one.data, subject=subject, kind="nifti-original", content_type="application/gzip")
        for sequence, one in nifti.items()
    }
    doubts = {sequence: list(one.doubts) for sequence, one in nifti.items()}
    with transaction.atomic():
        objects.keep(*written.values())
        study = Study.objects.create(
            patient=patient,
            uid_index=uid_index(uid),
            deidentified_uid=map_uid(uid),
            ciphertext=seal(subject, StudyIdentity(uid), context="study"),
            performed_at=declaration.performed_at,
            performed_on_day=True,
            spacing_known=declaration.spacing_known and (declaration.geometry_confirmed or not any(doubts.values())),
            source=StudySource.NIFTI,
            state=StudyState.RECEIVING,
        )
        for number, (sequence, one) in enumerate(sorted(nifti.items()), start=1):
            series_uid = f"{uid}.{number}"[:64]
            Series.objects.create(
                study=study,
                uid_index=uid_index(series_uid),
                deidentified_uid=map_uid(series_uid),
                number=number,
                sequence=sequence,
                sequence_confidence=1.0 if one.reason.startswith("declared") else 0.6,
                sequence_reason=one.reason,
                parameters={GEOMETRY_DOUBTS: doubts[sequence]}
                if doubts[sequence] and not declaration.geometry_confirmed
                else {},
                ciphertext=seal(subject, SeriesIdentity(series_uid), context="series"),
                nifti=written[sequence],
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
