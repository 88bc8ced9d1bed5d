"""Staff are told, once, and only those concerned."""

from __future__ import annotations

import pytest
from django.db import transaction

from audit.models import AuditRow
from clinical.access import assign
from clinical.identity import OrderIdentity
from clinical.models import Notice
from clinical.notices import notices_for, see_notice, write_notice
from clinical.orders import accept_order
from oncoflow_site.foundation.events import declare_event, emit
from oncoflow_site.foundation.jobs import enqueue, run_job

pytestmark = pytest.mark.django_db


@pytest.fixture
def order(make_patient):
    return accept_order(make_patient(), OrderIdentity(placer_number="1"), source="mllp")


def test_a_notice_finds_its_patient_and_is_written_once(order) -> None:
    one = write_notice("report.held", f"order:{order.pk}")
    assert write_notice("report.held", f"order:{order.pk}").pk == one.pk
    assert (one.patient, one.for_role) == (order.patient, "radiologist")
    assert write_notice(
        "study.flagged", "study:x", payload={"order_id": str(order.pk), "code": "gap"}
    ).message.endswith("(gap)")
    assert Notice.objects.filter(patient=order.patient).count() == 2


def test_only_the_care_team_of_the_right_role_sees_it(order, make_user) -> None:
    notice = write_notice("report.held", f"order:{order.pk}")
    mine, stranger, doctor = make_user("radiologist"), make_user("radiologist"), make_user("doctor")
    assign(mine, order.patient, reason="x", by=None)
    assign(doctor, order.patient, reason="x", by=None)
    assert list(notices_for(mine)) == [notice]
    assert not notices_for(stranger).exists()
    assert not notices_for(doctor).exists()
    assert see_notice(notice, mine)
    assert not see_notice(notice, mine)
    assert not notices_for(mine).exists()
    assert AuditRow.objects.filter(event="notice.seen").count() == 1
    # Seen and done: when it happens again, it is told again.
    assert write_notice("report.held", f"order:{order.pk}").pk != notice.pk


def test_administrators_hear_of_machines_whoever_they_concern(order, make_user) -> None:
    notice = write_notice("job.failed", f"order:{order.pk}")
    assert list(notices_for(make_user("admin"))) == [notice]
    assert not notices_for(make_user("radiologist")).exists()


def test_the_job_tells_what_its_event_says(order) -> None:
    declare_event("study.flagged")
    with transaction.atomic():
        event = emit("study.flagged", subject=f"order:{order.pk}", order_id=order.pk, code="no-t1c")
    job = enqueue("clinical.tell_staff", subject=event.subject, key="t", kwargs={}, event=event)
    run_job(job.pk)
    notice = Notice.objects.get(kind="study.flagged")
    assert (notice.subject, notice.patient) == (event.subject, order.patient)
    assert "(no-t1c)" in notice.message


def test_the_job_can_be_told_directly(order) -> None:
    job = enqueue(
        "clinical.tell_staff", subject="x", key="t", kwargs={"kind": "delivery.dead", "subject": f"order:{order.pk}"}
    )
    run_job(job.pk)
    assert Notice.objects.get(kind="delivery.dead").patient == order.patient
