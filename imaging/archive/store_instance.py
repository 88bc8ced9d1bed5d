"""Taking in one DICOM instance, whatever door it came through: durable, encrypted and filed before the answer.

The same instance again, in whatever transfer syntax (`imaging.dicom.content_hash`), is accepted and does nothing. The same SOP
Instance UID with other content, an instance whose patient contradicts its study, and what may not reach a model are kept in
quarantine, visible, with a reason.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from audit import services as audit
from clinical import services as clinical
from clinical.models import IdentityConflict, Patient
from imaging.archive import completion, duplicates
from imaging.archive.filing_header import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, BadInstance, FilingHeader, read_header
from imaging.archive.original_objects import Original, one_writer
from imaging.archive.study_records import asked_for, create_study, series_of
from imaging.deidentification.pixel_policy import quarantine_reason
from imaging.dicom.sop_classes import IMAGE_CLASSES
from imaging.identifiers import uid_index
from imaging.models import Instance, InstanceState, Series, Study, StudySource
from imaging.states import StudyState
from oncoflow_site.foundation import failpoints, objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import (
    EngineError,
    PermanentError,
    TransientError,
    UserVisibleError,
    error_frames,
    safe_error_text,
)

__all__ = ["DeclaredPatient", "ReceiveCache", "StoredInstance", "file_again", "store_instance"]

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
INBOUND = "inbound"
OTHER_CONTENT = "the same SOP Instance UID came before with other content"
_CACHE_SECONDS = 30.0
_AUDIT_SECONDS = 60.0


@dataclass(frozen=True)
class StoredInstance:
    """What became of one instance.

    :param status: DICOM C-STORE status (PS3.4 Table B.2-1): 0x0000 success; 0xA700 out of resources, which a failure of
        this service is too: try again; 0xA900 data set does not match its SOP class; 0xC000 cannot understand.
    :param reason: why it was refused or quarantined; holds no identity.
    :param study_id: the study it was filed under, if any.
    :param duplicate: True when it was here already and nothing was done.
    """

    status: int
    reason: str = ""
    study_id: uuid.UUID | None = None
    duplicate: bool = False
    quarantined: bool = False


@dataclass
class ReceiveCache:
    """Look-ups of one association, so that a thousand instances of a study do not repeat them. Forgets after 30 s."""

    studies: dict[str, tuple[Study, Patient, tuple[str, str]]] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    audited: dict[uuid.UUID, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def fresh(self) -> ReceiveCache:
        """This cache, emptied if it is old: patients may be merged meanwhile."""
        if time.monotonic() - self.since > _CACHE_SECONDS:
            self.studies.clear()
            self.series.clear()
            self.since = time.monotonic()
        return self


class _Quarantine(Exception):
    """Inside this module: keep the instance apart, for ``reason``."""

    def __init__(self, reason: str, contradiction: clinical.IdentityContradiction | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.contradiction = contradiction


@dataclass(frozen=True)
class DeclaredPatient:
    """What the person who brings files in says about them; it stands above the files' headers.

    :param performed_at: used where a header has no date.
    """

    authority: str
    patient_id: str = field(repr=False)
    performed_at: datetime | None = None


def store_instance(
    data: bytes, *, source: str, peer: str, cache: ReceiveCache | None = None, declared: DeclaredPatient | None = None
) -> StoredInstance:
    """Store one DICOM file and file it under its patient, study and series. Durable when it returns success.

    :param data: preamble, file meta information and data set, as received.
    :param source: a value of `imaging.models.StudySource`.
    :param peer: AE title or command that sent it.
    :param cache: look-ups to reuse; give one for each association or run.
    :param declared: patient and date from a person instead of the header (the patient must be registered already).
    """
    cache = (cache or ReceiveCache()).fresh()
    if shutil.disk_usage(settings.ONCOFLOW_DATA_DIR).free < settings.ONCOFLOW_MIN_FREE_BYTES + len(data):
        return _refused(BadInstance(OUT_OF_RESOURCES, "not enough free disk space"), peer)
    try:
        header = read_header(data, from_network=source == StudySource.DICOM)
        data = header.repaired or data
        if declared is not None:
            header = _as_declared(header, declared)
        for attempt in (1, 2, 3):
            try:
                return _store(header, data, source, peer, cache)
            except IntegrityError:
                # Two associations brought the same study, series or instance at once: look again.
                cache.studies.clear()
                cache.series.clear()
                if attempt == 3:
                    raise
    except BadInstance as error:
        return _refused(error, peer)
    except TransientError:
        return _refused(BadInstance(OUT_OF_RESOURCES, "the storage cannot take it now"), peer)
    except (PermanentError, UserVisibleError):
        return _refused(BadInstance(CANNOT_UNDERSTAND, "it cannot be filed"), peer)
    except (ArithmeticError, AttributeError, EngineError, LookupError, RecursionError, TypeError, ValueError) as error:
        # Our own fault, whatever the header holds: the sender is to keep the instance and try again, and those beside it
        # are not disturbed. 0xC000 would be final to a scanner, and the image lost to us.
        logger.error("an instance was not filed: %s [%s]", safe_error_text(error), error_frames(error))
        return _refused(BadInstance(OUT_OF_RESOURCES, f"the service failed ({type(error).__name__})"), peer)
    raise AssertionError("unreachable")


def _as_declared(header: FilingHeader, declared: DeclaredPatient) -> FilingHeader:
    """The header with patient and date as a person declares them. A header that names another patient whom we know
    contradicts the person: neither is believed."""
    named = clinical.find_patient(header.authority, header.patient_id) if header.patient_id else None
    told = clinical.find_patient(declared.authority, declared.patient_id)
    return replace(
        header,
        authority=declared.authority,
        patient_id=declared.patient_id,
        performed_at=header.performed_at or declared.performed_at,
        on_day=header.on_day if header.performed_at else True,
        declared=True,
        doubt="" if named in (None, told) else "its header names another patient than was declared",
    )


def _refused(error: BadInstance, peer: str) -> StoredInstance:
    audit.record_refusal(
        "dicom.refuse",
        action="C",
        resource="instance:refused",
        detail={"peer": peer, "status": f"{error.status:04X}", "why": error.reason},
    )
    return StoredInstance(error.status, error.reason)


def _store(header: FilingHeader, data: bytes, source: str, peer: str, cache: ReceiveCache) -> StoredInstance:
    index = uid_index(header.sop_instance_uid)
    if _is_known(index):
        return _again(Instance.objects.get(uid_index=index), header, data, peer)
    try:
        patient, found = _patient_and_study(header, cache)
    except _Quarantine as problem:
        contradiction = problem.contradiction
        conflict = clinical.note_conflict(contradiction, source="dicom", sender=peer) if contradiction else None
        instance = _quarantine(Original(header, data, peer, INBOUND), problem.reason, index=index, conflict=conflict)
        return StoredInstance(SUCCESS, problem.reason, instance.study_id, quarantined=True)
    received = Original(header, data, peer, patient.key_subject if found is None else found.key_subject)
    return _file(header, received, patient, found, source, peer, cache)


def _file(
    header: FilingHeader,
    received: Original,
    patient: Patient,
    found: Study | None,
    source: str,
    peer: str,
    cache: ReceiveCache,
) -> StoredInstance:
    """Name the bytes that were written by their rows."""
    index = uid_index(header.sop_instance_uid)
    reason = quarantine_reason(header.sop_class_uid, header.image_type, header.burned_in)
    with one_writer(), transaction.atomic():
        study = found or create_study(header, patient, source)
        if reason:
            _quarantine(received, reason, index=index, study=study)
            _touch_if_receiving(study)
            series = None
        else:
            series = cache.series.get(header.series_uid) or series_of(header, study)
            if series.study_id != study.pk:
                problem_text = "its series belongs to another study"
                _quarantine(received, problem_text, index=index, study=study)
                return StoredInstance(SUCCESS, problem_text, study.pk, quarantined=True)
            received.create(study=study, series=series, uid_index=index)
            if header.sop_class_uid in IMAGE_CLASSES:
                completion.touch(study.pk)
            else:
                _touch_if_receiving(study)
        _audit(study, peer, source, cache)
        completion.complete_if_all_here(study)
        failpoints.hit("imaging.receive_before_commit")
    failpoints.hit("imaging.receive_after_commit")
    cache.studies[header.study_uid] = (study, patient, (header.authority, header.patient_id))
    if series is not None:
        cache.series[header.series_uid] = series
    return StoredInstance(SUCCESS, reason, study.pk, quarantined=bool(reason))


def file_again(instance: Instance) -> Callable[[], StoredInstance]:
    """Take an instance out of quarantine as if it had only just come: its bytes are read and written now, before the
    caller's transaction, in which the returned function files them. The transaction must be rolled back where the answer
    is ``quarantined`` or ``duplicate``: the reason stands.

    :raises BadInstance: its header cannot be read. :raises EngineError: its bytes are damaged.
    """
    data = objects.get(instance.original)
    header = read_header(data, from_network=False)
    other = Instance.objects.filter(uid_index=uid_index(header.sop_instance_uid)).exclude(pk=instance.pk).first()
    if other is not None:
        same, _ = duplicates.find_same(other, header.content_sha256, data)
        return partial(
            StoredInstance,
            SUCCESS,
            OTHER_CONTENT if same is None else "",
            other.study_id,
            duplicate=same is not None,
            quarantined=same is None,
        )
    cache = ReceiveCache()
    try:
        patient, found = _patient_and_study(header, cache)
    except _Quarantine as problem:
        return partial(StoredInstance, SUCCESS, problem.reason, quarantined=True)
    subject = patient.key_subject if found is None else found.key_subject
    received = Original(header, data, instance.peer, subject)
    source = instance.study.source if instance.study else StudySource.DICOM

    def file() -> StoredInstance:
        Instance.objects.filter(pk=instance.pk).update(uid_index=None)
        return _file(header, received, patient, found, source, instance.peer, cache)

    return file


def _is_known(index: str) -> bool:
    """Whether an instance has this index. Written out: it is asked for every image, and mostly for nothing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM imaging_instance WHERE uid_index = %s", [index])
        return cursor.fetchone() is not None


def _again(known: Instance, header: FilingHeader, data: bytes, peer: str) -> StoredInstance:
    """The SOP Instance UID is here already: the same instance, perhaps encoded otherwise, or another one."""
    same, canonical = duplicates.find_same(known, header.content_sha256, data)
    if same is not None:
        return StoredInstance(SUCCESS, "", known.study_id, duplicate=True, quarantined=same.pk != known.pk)
    study = Study.objects.select_related("patient").get(pk=known.study_id) if known.study_id else None
    subject = study.key_subject if study else INBOUND
    received = Original(header, data, peer, subject)
    _quarantine(received, OTHER_CONTENT, study=study, conflicts_with=known, canonical_sha256=canonical)
    return StoredInstance(SUCCESS, OTHER_CONTENT, known.study_id, quarantined=True)


def _patient_and_study(header: FilingHeader, cache: ReceiveCache) -> tuple[Patient, Study | None]:
    """The patient the instance names, and its study if it is known. :raises _Quarantine: they contradict each other."""
    if header.doubt:
        raise _Quarantine(header.doubt)
    if not header.patient_id:
        raise _Quarantine("no Patient ID (0010,0020)")
    if header.performed_at is None:
        raise _Quarantine(header.undated)
    cached = cache.studies.get(header.study_uid)
    if cached and cached[2] == (header.authority, header.patient_id):
        return cached[1], cached[0]
    study = Study.objects.select_related("patient").filter(uid_index=uid_index(header.study_uid)).first()
    patient = clinical.find_patient(header.authority, header.patient_id)
    if study is not None:
        if patient is None or clinical.current_patient(study.patient) != patient:
            raise _Quarantine("its study belongs to another patient")
        return patient, study
    asked = asked_for(header)
    if asked is not None and (patient is None or clinical.current_patient(asked.patient) != patient):
        raise _Quarantine("it was asked for as an earlier study of another patient")
    return patient if patient is not None and header.declared else _registered(header), None


def _registered(header: FilingHeader) -> Patient:
    """The patient whom the header names, known or new. :raises _Quarantine: nobody can say whose it is."""
    try:
        return clinical.register_patient(header.identity(), source="dicom", provisional=True)
    except clinical.IdentityContradiction as error:
        raise _Quarantine(
            f"its header contradicts the patient with that number: {_listed(error.contradicts)}", error
        ) from None
    except UserVisibleError as error:
        if error.code == "no-matching-identifier":
            raise _Quarantine("the issuer of its Patient ID (0010,0021) is not known here") from None
        if error.code == "patient-other-person":
            raise _Quarantine("a person has decided that it is not of the patient with that number") from None
        raise


def _listed(contradicts: tuple[str, ...]) -> str:
    return " and ".join(one.replace("_", " ") for one in contradicts)


def _quarantine(
    received: Original,
    reason: str,
    *,
    index: str | None = None,
    study: Study | None = None,
    conflicts_with: Instance | None = None,
    canonical_sha256: str = "",
    conflict: IdentityConflict | None = None,
) -> Instance:
    """Keep the instance, apart, with its reason."""
    with transaction.atomic():
        instance = received.create(
            study=study,
            uid_index=index,
            state=InstanceState.QUARANTINED,
            reason=reason[:300],
            conflicts_with=conflicts_with,
            identity_conflict=conflict,
            canonical_sha256=canonical_sha256,
        )
        audit.record(
            "instance.quarantine",
            action="C",
            resource=f"instance:{instance.pk}",
            patient_id=study.patient_id if study else None,
            detail={"why": reason, "peer": instance.peer},
        )
    return instance


def _touch_if_receiving(study: Study) -> None:
    """What is no image of the study keeps it open while it arrives, and does not reopen it."""
    Study.objects.filter(pk=study.pk, state=StudyState.RECEIVING).update(last_received_at=now())


def _audit(study: Study, peer: str, source: str, cache: ReceiveCache) -> None:
    """One row a study, sender and minute, in the transaction of the first instance it covers."""
    last = cache.audited.get(study.pk)
    if last is not None and time.monotonic() - last < _AUDIT_SECONDS:
        return
    audit.record(
        "study.receive",
        action="C",
        resource=study.subject,
        patient_id=study.patient_id,
        detail={"peer": peer, "source": source},
        source="dicom" if source in (StudySource.DICOM, StudySource.STOW) else "command",
    )
    transaction.on_commit(lambda: cache.audited.__setitem__(study.pk, time.monotonic()))
