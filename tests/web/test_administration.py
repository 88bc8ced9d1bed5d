"""What an operator moves by hand in the administration is done, and on the record."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import AuditRow
from clinical.models import User
from oncoflow_site.foundation.jobs import enqueue
from oncoflow_site.foundation.models import Delivery, Job, JobState

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client: Client) -> Client:
    person = User.objects.create_user("ada", role="admin", is_staff=True, is_superuser=True)
    client.force_login(person)
    return client


def rows() -> list[tuple[str, str, int, str]]:
    found = AuditRow.objects.filter(event__startswith="admin.").order_by("id")
    return list(found.values_list("event", "resource", "outcome", "actor_type"))


def test_jobs_are_started_again_and_cancelled_on_the_record(operator: Client) -> None:
    failed, waiting = (
        enqueue("test.nothing", subject="x", key=uuid.uuid4().hex, kwargs={}, must_be_registered=False) for _ in "ab"
    )
    Job.objects.filter(pk=failed.pk).update(state=JobState.FAILED)
    page = reverse("admin:foundation_job_changelist")
    operator.post(page, {"action": "retry", "_selected_action": [str(failed.pk)]})
    operator.post(page, {"action": "cancel", "_selected_action": [str(waiting.pk)]})
    operator.post(page, {"action": "cancel", "_selected_action": [str(waiting.pk)]})
    failed.refresh_from_db()
    waiting.refresh_from_db()
    assert (failed.state, waiting.state) == (JobState.WAITING, JobState.CANCELLED)
    assert rows() == [
        ("admin.retry", f"job:{failed.pk}", 0, "user"),
        ("admin.cancel", f"job:{waiting.pk}", 0, "user"),
        ("admin.cancel", f"job:{waiting.pk}", 4, "user"),
    ]


def test_an_unknown_delivery_leaves_no_row(operator: Client) -> None:
    page = reverse("admin:foundation_delivery_changelist")
    operator.post(page, {"action": "resend", "_selected_action": [str(uuid.uuid4())]})
    assert rows() == []
    assert not Delivery.objects.exists()
