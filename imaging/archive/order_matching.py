"""Which order a study belongs to: by accession number, or by the Study Instance UID that the order announced.

At study level and for the same patient only. A study without an order is unsolicited: listed, segmented, reported, and
linked as soon as its order arrives. An earlier study that we fetched ourselves is reported only once it is linked.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction
from django.db.models import Q

from audit import services as audit
from clinical import services as clinical
from clinical.models import Order, OrderStatus
from imaging.events import COMPARISON_READY, STUDY_FLAGGED
from imaging.findings import clear_findings, raise_finding
from imaging.models import FindingSeverity, Study, StudyPurpose
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.ids import new_id
from oncoflow_site.foundation.jobs import enqueue

__all__ = ["follow_merge", "match_order", "match_study", "release_order"]

OTHER_PATIENT = "accession-other-patient"
OTHER_PATIENT_MESSAGE = (
    "The {number} of this study belongs to another patient's order, so the study was not linked to it. "
    "Please check the patient and the order at the scanner."
)


def match_study(study: Study) -> Order | None:
    """Link ``study`` to the order that asked for it; idempotent. Call it inside or outside a transaction.

    :returns: the order of its accession number, else the earliest that announced its Study Instance UID; None marks the
        study unsolicited. An order of another patient is never linked, nor one beside it: the study is flagged with a
        sentence for a radiologist and goes on unsolicited.
    """
    if study.order_id is not None:
        return study.order
    with transaction.atomic():
        numbered, announced = clinical.find_orders_by_index(study.accession_index, study.uid_index)
        if numbered is not None and numbered.status == OrderStatus.CANCELLED:
            numbered = None
        announced = [order for order in announced if order.status != OrderStatus.CANCELLED]
        own = [order for order in announced if order.patient_id == study.patient_id]
        order = numbered or next(iter(own), None)
        if numbered is not None and numbered.patient_id != study.patient_id:
            _flag_other_patient(study, "accession number")
            order = None
        elif order is None and announced:
            _flag_other_patient(study, "Study Instance UID")
        _link(study, order)
    return order


def match_order(order: Order) -> list[Study]:
    """Link studies that arrived before their ``order`` (or before it was changed); idempotent.

    :returns: the studies linked to the order now, oldest first.
    """
    if order.status == OrderStatus.CANCELLED:
        return []
    same = Q()
    if order.accession_index:
        same |= Q(accession_index=order.accession_index)
    if order.study_uid_index:
        same |= Q(uid_index=order.study_uid_index)
    with transaction.atomic():
        if same:
            for study in Study.objects.filter(same, patient_id=order.patient_id, order__isnull=True):
                _link(study, order)
    return list(Study.objects.filter(order=order).order_by("performed_at"))


def release_order(order: Order) -> int:
    """Unlink the studies of a cancelled ``order``: they stay, unsolicited. Returns how many."""
    with transaction.atomic():
        studies = list(Study.objects.filter(order=order))
        for study in studies:
            _link(study, None)
    return len(studies)


def follow_merge(patient_ids: Iterable[str]) -> None:
    """After a merge, or its reversal, in the caller's transaction: unlink studies whose order is another patient's now, look
    for the orders of those that have none, and compare each measured study anew with what is earlier now."""
    for study in Study.objects.filter(patient__in=list(patient_ids)).select_related("patient", "order"):
        if study.order is not None and study.order.patient_id != study.patient_id:
            _link(study, None)
        if study.order is None:
            match_study(study)
        if study.measurements.exists():
            enqueue(
                "imaging.compare_study",
                subject=study.subject,
                key=f"compare:{study.pk}:merge:{new_id()}",
                kwargs={"study_id": str(study.pk)},
            )


def _let_go(order: Order) -> None:
    """The order has lost a study: with none left it is back where it was asked for."""
    order.refresh_from_db()
    if order.status == OrderStatus.IN_PROGRESS and not Study.objects.filter(order=order).exists():
        clinical.advance_order(order, "release")


def _flag_other_patient(study: Study, number: str) -> None:
    message = OTHER_PATIENT_MESSAGE.format(number=number)
    if raise_finding(study, OTHER_PATIENT, message, severity=FindingSeverity.WARNING, by="order matching"):
        emit(STUDY_FLAGGED, subject=study.subject, study_id=str(study.id), code=OTHER_PATIENT)


def _link(study: Study, order: Order | None) -> None:
    """Write the link and its audit row, if it changes anything."""
    unsolicited = order is None
    if study.order_id == (order.pk if order else None) and study.unsolicited == unsolicited:
        return
    if order is not None:
        clear_findings(study, OTHER_PATIENT, by="order matching")
    before = study.order
    study.order, study.unsolicited = order, unsolicited
    study.save(update_fields=["order", "unsolicited"])
    if before is not None and before.pk != study.order_id:
        _let_go(before)
    if order is not None and order.status == OrderStatus.REQUESTED:
        clinical.advance_order(order, "start")
    audit.record(
        "study.match",
        action="U",
        resource=study.subject,
        patient_id=study.patient_id,
        detail={"order": str(order.pk) if order else None},
        source="worker",
    )
    if order is not None and study.purpose == StudyPurpose.PRIOR:
        # It was here for comparison only. Now it is to be reported, from what has been measured already.
        measurement = study.measurements.order_by("-created_at", "-pk").first()
        if measurement is not None:
            emit(COMPARISON_READY, subject=study.subject, study_id=str(study.pk), measurement_id=str(measurement.pk))
