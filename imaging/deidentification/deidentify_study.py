"""De-identification of stored studies: every received instance gets a de-identified, encrypted copy.

What is done to a data set is in `imaging.deidentification.engine`, how pixels are judged in `pixels` and `look`; here are
the patient's constants (pseudonym, date shift, UID map) and the bookkeeping. A head is recognisable by its face: nothing
here removes it, and (0028,0302) says so.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from audit import services as audit
from clinical.registry import identities_for_cleaning
from imaging.deidentification.engine import (
    DeidentificationRefused,
    Deidentified,
    Deidentifier,
    PatientProfile,
    PixelStatement,
)
from imaging.deidentification.known_identity import KnownIdentity
from imaging.deidentification.pixel_inspection import apart_because
from imaging.deidentification.pixel_policy import PixelAction, decide
from imaging.deidentification.profile import RULES
from imaging.deidentification.report import add_to_report
from imaging.dicom.image_header import image_header
from imaging.dicom.written_file import WrittenFile
from imaging.events import STUDY_DEIDENTIFIED
from imaging.identifiers import map_uid
from imaging.models import INSTANCE_MACHINE, Instance, InstanceState, Study, StudyState
from oncoflow_site.foundation import failpoints, keys, objects
from oncoflow_site.foundation.errors import PermanentError, safe_error_text
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.models import StoredObject
from oncoflow_site.foundation.schema import JsonDict

if TYPE_CHECKING:
    from clinical.models import Patient
    from oncoflow_site.foundation.jobs import JobContext

__all__ = ["deidentify_study", "profile_of", "shift_days"]

logger = logging.getLogger(__name__)
BATCH = 16


def shift_days(patient: Patient) -> int:
    """Days added to all dates of the patient's de-identified data sets: -365 to -1, constant, not to be guessed.

    Intervals between studies stay true (option 113107); reports, FHIR and HL7 carry true dates and never these.
    """
    value = int.from_bytes(keys.keyed_hash("dicom-date-shift", str(patient.pk))[:8], "big")
    return -1 - value % 365


def profile_of(patient: Patient) -> PatientProfile:
    """The patient's constants for `imaging.deidentification.engine.deidentify`, with what identifies the patient (and the
    records that were merged into this one), so that it is recognised wherever a data set repeats it."""
    known = KnownIdentity()
    for identity in identities_for_cleaning(patient):
        born = identity.birth_date.strftime("%Y%m%d") if identity.birth_date else ""
        known |= KnownIdentity.of(
            (identity.family, identity.given), (*(one.value for one in identity.identifiers), born)
        )
    return PatientProfile(pseudonym=patient.pseudonym, shift_days=shift_days(patient), map_uid=map_uid, known=known)


Keep = Callable[[Study, Instance, StoredObject], object]
Offer = Callable[[WrittenFile, Dataset], Keep | None]
"""Given a copy and its header while they are in memory: what notes the copy in the transaction that keeps it, if anything."""


def deidentify_study(ctx: JobContext, study: Study, *, offer: Offer | None = None) -> dict[str, int]:
    """De-identify every instance of ``study`` that is not yet (event study.deidentified, also where none was left to do).

    Can be stopped at any point and called again; ends the job. Arrival hashes are verified on the way. An instance that
    cannot be de-identified is quarantined with its reason. Without an event when a late instance reopened the study: it
    will be complete again.

    One pass while the bytes of an instance are in memory: its copy, its place and pixels (`imaging.dicom.image_header`), and
    what ``offer`` makes of it for viewers.

    :returns: ``{"deidentified": …, "quarantined": …}`` of this call.
    :raises PermanentError: a stored original is not what arrived.
    """
    deidentifier = Deidentifier(profile_of(study.patient))
    waiting = list(
        study.instances.filter(state=InstanceState.RECEIVED)
        .select_related("original", "pixel_release")
        .order_by("series", "number", "id")
    )
    counts = {"deidentified": 0, "quarantined": 0}
    # What an attempt that was killed has done and not yet recorded.
    unrecorded: Counter[str] = Counter(study.deidentification.get("unrecorded", {}))
    actions: Counter[str] = Counter(study.deidentification.get("actions", {}))
    codes = set(study.deidentification.get("codes", []))
    for begin in range(0, len(waiting), BATCH):
        batch = waiting[begin : begin + BATCH]
        beat = partial(ctx.progress, begin / len(waiting), "Looking for text in the pixels")
        results = [(instance, _one(instance, deidentifier, beat)) for instance in batch]
        pixels = Counter(result.pixels for _, result in results if result.pixels)
        written = [result.written for _, result in results if result.written is not None]
        for one in written:
            actions.update(one.actions)
            codes.update(one.codes)
        copies = [_copy(study, result, offer) for _, result in results]
        with ctx.commit():
            for (instance, result), copy in zip(results, copies, strict=True):
                outcome = _store(study, instance, result, copy)
                counts[outcome] += 1
                unrecorded[outcome] += 1
            study.deidentification = {
                "profile": RULES.method,
                "codes": sorted(codes),
                "actions": dict(sorted(actions.items())),
                "unrecorded": dict(unrecorded),
            }
            study.save(update_fields=["deidentification"])
            add_to_report(study, written, pixels)
        failpoints.hit("imaging.deidentified_batch")
        reached = begin + len(batch)
        ctx.progress(0.99 * reached / len(waiting), f"De-identified {reached} of {len(waiting)} images")
    with ctx.commit(done=True):
        if unrecorded:
            study.deidentification.pop("unrecorded", None)
            study.save(update_fields=["deidentification"])
            audit.record(
                "study.deidentify",
                action="U",
                resource=study.subject,
                patient_id=study.patient_id,
                detail={**dict.fromkeys(counts, 0), **unrecorded, "codes": sorted(codes)},
                source="worker",
            )
        study.refresh_from_db(fields=["state"])
        if study.state != StudyState.RECEIVING:
            emit(STUDY_DEIDENTIFIED, subject=study.subject, study_id=str(study.pk))
        failpoints.hit("imaging.deidentified_commit")
    return counts


@dataclass(frozen=True)
class _Result:
    """What became of one instance: the copy, or why there is none; and how its pixels were judged."""

    written: Deidentified | None
    reason: str = ""
    pixels: str = ""


def _one(instance: Instance, deidentifier: Deidentifier, beat: Callable[[], None]) -> _Result:
    data = objects.get(instance.original)
    if hashlib.sha256(data).hexdigest() != instance.sha256:
        raise PermanentError("a stored image is not what arrived: its SHA-256 differs")
    try:
        result = deidentifier(data)
        decision = decide(instance.sop_class_uid, result.image_type, result.burned_in)
        if hasattr(instance, "pixel_release"):
            return _Result(deidentifier(data, PixelStatement(no_text=True)), pixels="released")
        reason = apart_because(data, decision, beat)
        if reason:
            return _Result(None, reason, PixelAction.QUARANTINE)
        if decision.verdict == PixelAction.OCR:
            return _Result(deidentifier(data, PixelStatement(no_text=True)), pixels=PixelAction.OCR)
        return _Result(result, pixels=PixelAction.PASS)
    except DeidentificationRefused as error:
        return _Result(None, f"cannot be de-identified: {error}")


@dataclass(frozen=True)
class _Copy:
    """The copy, durable before the transaction that names it; the record of the image, and what notes it for viewers."""

    stored: StoredObject
    image: JsonDict | None = None
    keep: Keep | None = None


def _copy(study: Study, result: _Result, offer: Offer | None) -> _Copy | None:
    if result.written is None:
        return None
    file = result.written.file
    stored = objects.write(
        file.data, subject=study.key_subject, kind="dicom-deidentified", content_type="application/dicom"
    )
    try:
        header = file.header()
    except Exception as error:  # what pydicom cannot read is kept all the same, and read by nobody
        logger.warning("the header of a copy cannot be read: %s", safe_error_text(error))
        return _Copy(stored)
    return _Copy(stored, image_header(file, header), offer(file, header) if offer is not None else None)


def _store(study: Study, instance: Instance, result: _Result, copy: _Copy | None) -> str:
    """Write one result (inside the caller's fenced transaction); returns which count it belongs to."""
    row = Instance.objects.filter(pk=instance.pk)
    if copy is None:
        if INSTANCE_MACHINE.apply(row, "quarantine", reason=result.reason[:300]):
            audit.record(
                "instance.quarantine",
                action="U",
                resource=f"instance:{instance.pk}",
                patient_id=study.patient_id,
                detail={"why": result.reason[:200]},
                source="worker",
            )
        return "quarantined"
    if INSTANCE_MACHINE.apply(row, "deidentify", deidentified=copy.stored, image=copy.image):
        objects.keep(copy.stored)
        if copy.keep is not None:
            copy.keep(study, instance, copy.stored)
    return "deidentified"
