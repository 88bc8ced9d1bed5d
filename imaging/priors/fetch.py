"""Fetching a patient's earlier MR studies when an order arrives, so that there is something to compare with.

Each PACS that is configured for it is asked for the studies of exactly this patient: number and issuer of every answer are
compared, and what arrives is filed under this patient or quarantined, never under another. An earlier study goes the same way
as any other up to its measurement; a report is made of it only when an order asks for one (`Study.purpose`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.utils import timezone

from audit import services as audit
from clinical import services as clinical
from clinical.identity import Identifier
from clinical.models import Order, OrderStatus
from imaging.archive import completion
from imaging.archive.store_instance import ReceiveCache, store_instance
from imaging.identifiers import uid_index
from imaging.models import PRIOR_MACHINE, DicomPeer, PriorsBy, PriorState, PriorStudy, Study, StudyPurpose, StudySource
from imaging.priors.pacs import FoundStudy, PriorSource
from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import TransientError
from oncoflow_site.foundation.jobs import JobContext, enqueue
from oncoflow_site.foundation.models import Job

__all__ = ["WantedPrior", "ask", "find", "give_up_pull", "pull", "select"]

ASK_JOB = "imaging.ask_for_priors"
PULL_JOB = "imaging.pull_prior"
MODALITY = "MR"
ACTOR = audit.Actor.system("priors")
_CONTEXT = "prior-study"


@dataclass(frozen=True)
class WantedPrior:
    """What names the study at the PACS."""

    study_uid: str
    patient_id: str
    authority: str


def find(ctx: JobContext, order_id: uuid.UUID | str) -> None:
    """After: a job asks each PACS that is configured for it."""
    order = Order.objects.get(pk=order_id)
    peers = list(DicomPeer.objects.filter(active=True).exclude(priors=PriorsBy.NONE))
    with ctx.commit(done=True):
        for peer in peers if order.status != OrderStatus.CANCELLED else []:
            enqueue(
                ASK_JOB,
                subject=f"order:{order.pk}",
                key=f"priors:{order.pk}:{peer.pk}",
                kwargs={"order_id": order.pk, "peer_id": peer.pk},
            )


def ask(ctx: JobContext, order_id: uuid.UUID | str, peer_id: uuid.UUID | str) -> None:
    """After: each earlier study worth having that this PACS has and we have not is a row, and a job that pulls it.

    :raises TransientError: the PACS does not answer. :raises PermanentError: its configuration is wrong.
    """
    order = Order.objects.select_related("patient").get(pk=order_id)
    peer = DicomPeer.objects.get(pk=peer_id)
    if order.status == OrderStatus.CANCELLED or not peer.active or not peer.priors:
        return
    patient = clinical.current_patient(order.patient)
    identity = clinical.reveal_identity(patient, purpose="priors", actor=ACTOR)
    asked = clinical.reveal_order(order, purpose="priors", actor=ACTOR)
    since = timezone.localdate() - timedelta(days=365.25 * settings.ONCOFLOW_PRIORS_YEARS)
    source = _source(peer)
    found: dict[str, tuple[FoundStudy, Identifier]] = {}
    for number in identity.identifiers:
        if number.kind != "MR" or any(char in number.value for char in "*?\\"):
            continue  # wild cards: a query could answer with somebody else
        for one in source.studies(number.value, number.authority, since.strftime("%Y%m%d")):
            if _is_of(one, number):
                found[one.uid] = (one, number)
    until = timezone.localdate().strftime("%Y%m%d")
    candidates = [
        one
        for one, _ in found.values()
        if one.uid != asked.study_instance_uid and not (one.accession and one.accession == asked.accession)
    ]
    chosen = select(candidates, since=since.strftime("%Y%m%d"), until=until, limit=settings.ONCOFLOW_PRIORS_MAX)
    with ctx.commit(done=True):
        wanted = 0
        for one in chosen:
            number = found[one.uid][1]
            wanted += _want(order, peer, WantedPrior(one.uid, number.value, number.authority))
        audit.record(
            "priors.query",
            action="E",
            resource=f"order:{order.pk}",
            patient_id=patient.pk,
            actor=ACTOR,
            detail={"peer": peer.ae_title, "found": len(found), "wanted": wanted},
            source="worker",
        )


def _source(peer: DicomPeer) -> PriorSource:
    # Here, not above: both libraries take long to load, and most processes know these jobs by name only.
    if peer.priors == PriorsBy.DICOMWEB:
        from imaging.priors.pacs_dicomweb import WebPacs

        return WebPacs(peer)
    from imaging.priors.pacs_dimse import DimsePacs

    return DimsePacs(peer)


def _is_of(one: FoundStudy, number: Identifier) -> bool:
    """The answer names exactly this patient; where it names no issuer, the number is one of this hospital's."""
    issuer = one.issuer or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY)
    return bool(one.uid) and one.patient_id == number.value and issuer == number.authority


def select(found: list[FoundStudy], *, since: str, until: str, limit: int) -> list[FoundStudy]:
    """The latest ``limit`` studies with MR in them (or with modalities untold), from ``since`` to before ``until`` (DA)."""
    fit = [one for one in found if since <= one.date < until and (not one.modalities or MODALITY in one.modalities)]
    return sorted(fit, key=lambda one: (one.date, one.uid), reverse=True)[:limit]


def _want(order: Order, peer: DicomPeer, wanted: WantedPrior) -> int:
    """Row and job for a study that we do not hold; 1 if it is asked for now."""
    index = uid_index(wanted.study_uid)
    known = PriorStudy.objects.filter(uid_index=index).first()
    if Study.objects.filter(uid_index=index).exists() and (known is None or known.state != PriorState.PARTIAL):
        return 0
    patient = clinical.current_patient(order.patient)
    sealed = keys.encrypt(patient.key_subject, json.dumps(asdict(wanted)).encode(), _CONTEXT)
    row, created = PriorStudy.objects.get_or_create(
        uid_index=index, defaults={"patient": patient, "order": order, "peer": peer, "ciphertext": sealed}
    )
    if not created and row.state != PriorState.PARTIAL:
        return 0
    enqueue(
        PULL_JOB,
        subject=f"prior:{row.pk}",
        key=f"prior:{row.pk}:{order.pk}",
        kwargs={"prior_id": row.pk},
    )
    return 1


def pull(ctx: JobContext, prior_id: uuid.UUID | str) -> None:
    """Before: wanted or partial. After: held (the study is closed for receiving), or partial on the last attempt.

    :raises TransientError: the PACS could not send all of it.
    """
    row = PriorStudy.objects.select_related("peer", "patient").get(pk=prior_id)
    if row.state == PriorState.HELD:
        return
    wanted = WantedPrior(**json.loads(keys.decrypt(row.key_subject, bytes(row.ciphertext), _CONTEXT)))
    source = _source(row.peer)
    try:
        series = [
            one for one in source.series(wanted.study_uid, wanted.patient_id) if one.modality == MODALITY and one.uid
        ]
        counts = [one.instances for one in series]
        expected = sum(one for one in counts if one) if series and None not in counts else None
        with ctx.commit():
            PriorStudy.objects.filter(pk=row.pk).update(expected_instances=expected)
        cache = ReceiveCache()
        for number, one in enumerate(series):
            show = partial(ctx.progress, number / len(series), f"Fetching series {number + 1} of {len(series)}")
            show()
            source.fetch(wanted.study_uid, one.uid, wanted.patient_id, partial(_take, show, row, cache))
    except TransientError:
        if ctx.job.attempts < ctx.job.max_attempts:
            raise
        with ctx.commit(done=True):
            _stop(row)
        return
    with ctx.commit(done=True):
        study = Study.objects.filter(uid_index=row.uid_index).first()
        PRIOR_MACHINE.apply(PriorStudy.objects.filter(pk=row.pk), "hold", study=study)
        _record_pull(row, study, PriorState.HELD)
        # The sender said that this is all. A study that was here before for its own sake closes by its own rules.
        if study is not None and study.purpose == StudyPurpose.PRIOR:
            completion.complete(study)


def _take(show: Callable[[], None], row: PriorStudy, cache: ReceiveCache, data: bytes) -> None:
    with audit.acting_as(ACTOR, source="worker"):
        stored = store_instance(data, source=StudySource.DICOM, peer=row.peer.ae_title, cache=cache)
    if stored.status:
        raise TransientError(f"an instance of an earlier study was not stored: {stored.reason}")
    show()


def _stop(row: PriorStudy) -> None:
    """What is here of it is all that there will be, until an order asks again. Inside a transaction."""
    study = Study.objects.filter(uid_index=row.uid_index).first()
    PRIOR_MACHINE.apply(PriorStudy.objects.filter(pk=row.pk), "stop", study=study)
    _record_pull(row, study, PriorState.PARTIAL)


def give_up_pull(job: Job, *, prior_id: str) -> None:
    """The job that pulls it ended for good: the study is partial, however much of it is here."""
    row = PriorStudy.objects.select_related("peer").filter(pk=prior_id).exclude(state=PriorState.HELD).first()
    if row is not None:
        _stop(row)


def _record_pull(row: PriorStudy, study: Study | None, state: PriorState) -> None:
    audit.record(
        "priors.pull",
        action="C",
        resource=study.subject if study else f"prior:{row.pk}",
        patient_id=row.patient_id,
        actor=ACTOR,
        detail={"peer": row.peer.ae_title, "state": str(state)},
        source="worker",
    )
