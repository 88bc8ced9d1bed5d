"""Preparing a study: de-identified images -> volumes on one grid, ready for the panel, or a flag that says why not.

A study that lacks sequences is ready too where those it has show a region (`imaging.brats.assessability`): the panel then runs
reduced, and the study says so. A late series reopens it, and it runs whole.

It can be stopped and run again: the volumes, the study's new state and the event are written in one fenced transaction. The
same images prepared twice give one volume set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings
from django.db.models import Max
from numpy.typing import NDArray

from audit import services as audit
from imaging.brats.assessability import assessable
from imaging.brats.sequences import SEQUENCE_NAMES
from imaging.dicom.image_plane import VolumeRefused
from imaging.events import STUDY_FLAGGED, VOLUMES_READY
from imaging.findings import clear_findings, raise_finding
from imaging.geometry.grid import GeometryError
from imaging.geometry.nifti import write_nifti
from imaging.models import FindingSeverity, InstanceState, Study, Volume, VolumeSet
from imaging.preprocessing.brain_extraction_tools import brain_finder
from imaging.preprocessing.coregistration import (
    IMPLAUSIBLE_ALIGNMENT,
    Coregistered,
    NoBrain,
    NotAligned,
    coregister_study,
)
from imaging.recognition.select import ranked_series
from imaging.recognition.study_context import SeriesQuestion, settle_sequences
from imaging.states import STUDY_MACHINE, StudyState
from imaging.volumes.findings import (
    ASK,
    GEOMETRY_DOUBTS,
    VolumeFinding,
    each_once,
    finding,
    same_voxels,
    study_findings,
    voxels_sha256,
)
from imaging.volumes.reproduce import library_versions, read_source
from oncoflow_site.foundation import failpoints, objects
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.models import Job

if TYPE_CHECKING:
    from imaging.models import Series
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["MISSING", "PIPELINE_VERSION", "REDUCED", "give_up", "prepare"]

PIPELINE_VERSION = "2"
PREPARE_JOB = "imaging.prepare_study"
DEIDENTIFY_JOB = "imaging.deidentify_study"
MODALITY = "MR"
MISSING = "missing-sequence"
"""Finding of a study whose sequences show no region of a tumour."""
REDUCED = "reduced"
"""Finding of a study that is ready, with sequences missing."""
STEP = "preparation"
"""Who raises and clears the findings of this module."""
FAILED = "preparation-failed"
FAILED_MESSAGE = (
    "The preparation of this study failed, so it was not segmented. Those who run the service see why; they can have it "
    "prepared again."
)
_READ = 0.15
_NORMALISED = 0.92
_SURE = 0.6
"""Confidence of a sequence's name below which a person is asked."""


def prepare(ctx: JobContext, study: Study) -> None:
    """Prepare ``study``: complete -> ready with a new volume set (event volumes.ready), or flagged (study.flagged).

    Where an image is not de-identified yet, that is done first; the preparation follows from it.

    The job holds the lock of the study's inputs: one preparation of a study at a time. Nothing is kept of one that a late
    instance overtook, or a person's word on what a series shows: the study is then prepared again.

    :raises PermanentError: a stored image is not what was kept.
    """
    with ctx.commit():
        study.refresh_from_db()
        if study.state == StudyState.RECEIVING:
            return
        generation = study.generation
        questions = settle_sequences(study)
        if study.state == StudyState.READY and _done(study, _inputs(_ranked(study))):
            return
        if study.instances.filter(state=InstanceState.RECEIVED).exists():
            _deidentify_first(ctx, study)
            return
        if study.state != StudyState.PREPARING:
            STUDY_MACHINE.advance(study, "prepare")
        clear_findings(study, by=STEP, raised_by=STEP)
    ranked = _ranked(study)
    start = _Start(generation, _inputs(ranked))
    if not ranked:
        _flag(ctx, study, start, *_nothing_usable(study))
        return
    reading = _read(ctx, ranked)
    if not reading.chosen:
        _flag(ctx, study, start, *reading.refused[0])
        return
    chosen, loaded = reading.chosen, reading.loaded
    try:
        normalised = coregister_study(
            loaded,
            spacing_known=study.spacing_known,
            brain_finder=brain_finder(settings.ONCOFLOW_BRAIN_MASK),
            progress=lambda f, text: ctx.progress(_READ + (_NORMALISED - _READ) * f, text),
        )
    except NotAligned as error:
        message = (
            f"The {SEQUENCE_NAMES[error.sequence]} series could not be aligned with the {SEQUENCE_NAMES[error.reference]} series "
            f"({error.reason}), so this study was not segmented."
        )
        _flag(ctx, study, start, "not-aligned", message)
        return
    except NoBrain as error:
        what = assessable(chosen)
        if what.regions:
            _flag(ctx, study, start, "no-brain", f"{error} Not segmented.")
        else:
            _flag(ctx, study, start, MISSING, what.reason)
        return
    except GeometryError as error:
        _flag(ctx, study, start, "unreadable", f"The images cannot be placed in space: {error}. Not segmented.")
        return
    failpoints.hit("imaging.prepare_normalised")
    ctx.progress(_NORMALISED, "Storing the volumes")
    warnings = (*reading.notes, *normalised.parameters.warnings)
    findings = [
        *(finding("alignment-implausible", one) for one in warnings if one.startswith(IMPLAUSIBLE_ALIGNMENT)),
        *reading.findings,
        *_doubts(chosen, questions),
        *study_findings(study),
        *same_voxels(study, reading.hashes),
    ]
    recorded = normalised.parameters.model_copy(update={"warnings": warnings, "findings": each_once(findings)})
    _store(ctx, study, start, chosen, replace(normalised, parameters=recorded), reading.hashes)


def _deidentify_first(ctx: JobContext, study: Study) -> None:
    enqueue(
        DEIDENTIFY_JOB,
        subject=study.subject,
        key=f"deidentify:{study.pk}:before:{ctx.job.pk}",
        kwargs={"study_id": str(study.pk)},
    )


@dataclass(frozen=True)
class _Start:
    """What a preparation began with: the study's generation and the fingerprint of its images and what they show."""

    generation: int
    inputs: str


@dataclass
class _Reading:
    """What was read of a study's series.

    :param chosen: sequence -> the series it was read from. :param hashes: of its voxels. :param notes: sentences for a person.
    :param refused: (code, message) of each sequence of which no series could be used.
    """

    chosen: dict[str, Series] = field(default_factory=dict)
    loaded: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    findings: list[VolumeFinding] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def _read(ctx: JobContext, ranked: Mapping[str, Sequence[Series]]) -> _Reading:
    """The best series of each sequence that is a volume; what could not be used is a finding."""
    reading = _Reading()
    for number, (sequence, candidates) in enumerate(sorted(ranked.items())):
        ctx.progress(0.01 + (_READ - 0.01) * number / len(ranked), f"Reading {sequence}")
        refusals: list[tuple[Series, str, str]] = []
        for series in candidates:
            try:
                array, affine, warnings = read_source(series)
            except (VolumeRefused, GeometryError) as error:
                text = error.message if isinstance(error, VolumeRefused) else f"The file cannot be used: {error}."
                refusals.append((series, error.code if isinstance(error, VolumeRefused) else "unreadable", text))
                continue
            reading.chosen[sequence], reading.loaded[sequence] = series, (array, affine)
            reading.hashes[sequence] = voxels_sha256(array, affine)
            reading.notes += [f"{sequence}: {one}" for one in warnings]
            break
        name = SEQUENCE_NAMES[sequence]
        for series, code, text in refusals:
            which = f"The {name} series" if series.number is None else f"The {name} series (number {series.number})"
            after = "the next best series was taken" if sequence in reading.chosen else "no other was there"
            reading.findings.append(finding(code, f"{which} could not be used, and {after}. {text}"))
        if refusals and sequence not in reading.chosen:
            code, text = refusals[0][1:]
            message = f"The {name} series could not be used, so this study was not segmented. {text}"
            reading.refused.append((code, message))
    return reading


def _doubts(chosen: Mapping[str, Series], questions: Sequence[SeriesQuestion]) -> list[VolumeFinding]:
    """What only a person can say of the series: questions of recognition, and sequences named with little confidence."""
    found = []
    for sequence, series in sorted(chosen.items()):
        if doubts := series.parameters.get(GEOMETRY_DOUBTS):
            message = (
                f"Side and millimetres of the {SEQUENCE_NAMES[sequence]} file are not assessed: {'; '.join(doubts)}."
            )
            found.append(finding("geometry-doubtful", message))
    for one in questions:
        numbers = ", ".join(str(number) for number in one.numbers)
        which = f"Series {numbers}: " if numbers else ""
        found.append(finding("sequence-question", f"{which}{one.question} {ASK}"))
    for sequence, series in chosen.items():
        if series.overridden_by_id is None and series.sequence_confidence < _SURE and series.nifti_id is None:
            message = f"The {SEQUENCE_NAMES[sequence]} series was named with little confidence. {ASK}"
            found.append(finding("sequence-doubtful", message))
    return found


def _ranked(study: Study) -> dict[str, list[Series]]:
    """The series of each sequence, best first. Whatever a person says it shows: only MR is segmented."""
    ranked = {
        str(name): [one for one in rows if one.modality == MODALITY] for name, rows in ranked_series(study).items()
    }
    return {name: rows for name, rows in ranked.items() if rows}


def _raise(study: Study, findings: Sequence[VolumeFinding]) -> None:
    """One row a code, with all its sentences. Inside the caller's transaction."""
    by_code: dict[str, list[str]] = {}
    for one in findings:
        by_code.setdefault(one.code, []).append(one.message)
    for code, messages in by_code.items():
        raise_finding(study, code, " ".join(messages), severity=FindingSeverity.WARNING, by=STEP)


def _nothing_usable(study: Study) -> tuple[str, str]:
    """Code of the flag and a sentence."""
    quarantined = study.instances.filter(state=InstanceState.QUARANTINED).count()
    kept = study.instances.exclude(state=InstanceState.QUARANTINED).count()
    if quarantined and not kept:
        return (
            "no-usable-series",
            "All images of this study are quarantined (see the reasons in the list of instances); not segmented.",
        )
    modalities = sorted({one for one in study.series.values_list("modality", flat=True) if one != "OT"})
    if modalities and MODALITY not in modalities:
        return "not-mr", f"This is a {' and '.join(modalities)} study; only MR is segmented."
    return (
        "no-usable-series",
        "In this study no T1, contrast-enhanced T1, T2 or FLAIR series was recognised, so it was not segmented. "
        "A technician can say what each series shows.",
    )


def _inputs(ranked: Mapping[str, Sequence[Series]]) -> str:
    """Fingerprint of what a preparation starts from: the images of each series that it may take and the pipeline's version."""
    facts: list[Any] = [PIPELINE_VERSION]
    for sequence, candidates in sorted(ranked.items()):
        for series in candidates:
            hashes = sorted(
                series.instances.exclude(state=InstanceState.QUARANTINED).values_list("content_sha256", flat=True)
            )
            facts.append([sequence, str(series.pk), str(series.nifti_id or ""), hashes])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _done(study: Study, inputs: str) -> bool:
    latest = study.volume_sets.order_by("-version").first()
    return latest is not None and latest.parameters.inputs == inputs


def give_up(job: Job, *, study_id: str) -> None:
    """The job that prepares it ended for good: the study has failed, until somebody has it prepared again."""
    study = Study.objects.get(pk=study_id)
    if not STUDY_MACHINE.apply(Study.objects.filter(pk=study_id), "fail"):
        return
    raise_finding(study, FAILED, FAILED_MESSAGE, severity=FindingSeverity.STOPS, by=STEP)
    emit(STUDY_FLAGGED, subject=study.subject, study_id=study_id, code=FAILED)
    audit.record(
        "study.fail",
        action="U",
        resource=study.subject,
        patient_id=study.patient_id,
        outcome=8,
        detail={"job": str(job.pk)},
        source="worker",
    )


def _superseded(ctx: JobContext, study: Study, start: _Start) -> bool:
    """Whether the study is not any more what was prepared. Inside a fenced transaction; locks the study's row.

    Reopened by a late instance, it will be prepared when it is complete again. Where the same images show something else
    now (a person said so while they were being prepared), another preparation is enqueued here; it begins when this job
    has ended.
    """
    Study.objects.select_for_update().get(pk=study.pk)
    study.refresh_from_db(fields=["state", "generation"])
    if study.generation != start.generation or study.state != StudyState.PREPARING:
        return True
    inputs = _inputs(_ranked(study))
    if inputs == start.inputs:
        return False
    enqueue(
        PREPARE_JOB,
        subject=study.subject,
        key=f"prepare:{study.pk}:{inputs}:{ctx.job.pk}",
        kwargs={"study_id": str(study.pk)},
    )
    return True


def _flag(ctx: JobContext, study: Study, start: _Start, code: str, message: str) -> None:
    with ctx.commit(done=True):
        if _superseded(ctx, study, start):
            return
        _write_flag(study, code, message)


def _write_flag(study: Study, code: str, message: str) -> None:
    STUDY_MACHINE.advance(study, "flag")
    raise_finding(study, code, message, severity=FindingSeverity.STOPS, by=STEP)
    emit(STUDY_FLAGGED, subject=study.subject, study_id=str(study.pk), code=code)
    audit.record(
        "study.flag",
        action="U",
        resource=study.subject,
        patient_id=study.patient_id,
        detail={"code": code},
        source="worker",
    )


def _store(
    ctx: JobContext,
    study: Study,
    start: _Start,
    chosen: Mapping[str, Series],
    normalised: Coregistered,
    hashes: Mapping[str, str],
) -> None:
    subject = study.key_subject
    grid = normalised.grid
    placed = grid.to_json()
    what = assessable(chosen)
    stored = {
        name: objects.write(write_nifti(image, grid), subject=subject, kind="volume", content_type="application/gzip")
        for name, image in normalised.images.items()
    }
    brain = write_nifti(normalised.brain.astype(np.uint8), grid)
    mask = objects.write(brain, subject=subject, kind="brain-mask", content_type="application/gzip")
    with ctx.commit(done=True):
        if _superseded(ctx, study, start):
            return
        if not _done(study, start.inputs):
            last = VolumeSet.objects.filter(study=study).aggregate(last=Max("version"))["last"] or 0
            objects.keep(mask, *stored.values())
            volume_set = VolumeSet.objects.create(
                study=study,
                version=last + 1,
                affine=placed["affine"],
                shape=placed["shape"],
                spacing=placed["spacing"],
                parameters=normalised.parameters.model_copy(
                    update={
                        "inputs": start.inputs,
                        "pipeline": PIPELINE_VERSION,
                        "versions": library_versions(),
                    }
                ),
                brain_mask=mask,
            )
            for name, volume in stored.items():
                registration = normalised.registrations[name]
                Volume.objects.create(
                    volume_set=volume_set,
                    sequence=name,
                    object=volume,
                    sha256=volume.sha256,
                    source_series=chosen[name],
                    source_sha256=hashes.get(name, ""),
                    transform=registration.record(normalised.scanner_grids[name]),
                    quality=registration.quality,
                )
        audit.record(
            "study.prepare",
            action="C",
            resource=study.subject,
            patient_id=study.patient_id,
            detail={"sequences": sorted(stored), "regions": list(what.regions)},
            source="worker",
        )
        failpoints.hit("imaging.prepare_commit")
        if not what.regions:
            _write_flag(study, MISSING, what.reason)
            return
        STUDY_MACHINE.advance(study, "volumes")
        if what.reduced:
            raise_finding(study, REDUCED, what.reason, severity=FindingSeverity.NOTE, by=STEP)
        _raise(study, normalised.parameters.findings)
        emit(VOLUMES_READY, subject=study.subject, study_id=str(study.pk))
