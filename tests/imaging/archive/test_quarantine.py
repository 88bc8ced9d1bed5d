"""What a person does about quarantine: release when the reason has gone, discard, both with a reason and on the record."""

from __future__ import annotations

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from audit.models import AuditRow
from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import User
from imaging.archive import quarantine
from imaging.archive.store_instance import store_instance
from imaging.models import Instance, InstanceState, Study
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import now
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.jobs import run_job
from oncoflow_site.foundation.models import Job, StoredObject
from tests.factories.dicom_files import as_file, dataset

pytestmark = pytest.mark.django_db


def take(**changes):
    return store_instance(as_file(dataset(**changes)), source="dicom", peer="SCANNER1")


@pytest.fixture
def admin() -> User:
    return User.objects.create_user("ada", role="admin", is_staff=True, is_superuser=True)


def held() -> Instance:
    return Instance.objects.select_related("study", "original").get(
        state=InstanceState.QUARANTINED, discarded_at__isnull=True
    )


def test_a_reason_that_stands_keeps_it_there(admin):
    take(number=1, BurnedInAnnotation="YES")
    before = list(Instance.objects.values()), StoredObject.objects.count()
    with pytest.raises(UserVisibleError, match="burned into its pixels"):
        quarantine.release(held(), by=admin, reason="looks fine")
    assert (list(Instance.objects.values()), StoredObject.objects.count()) == before
    assert not AuditRow.objects.filter(event="instance.release").exists()


def test_the_right_one_is_released_after_the_wrong_one_was_discarded(admin):
    take(number=1, BurnedInAnnotation="YES")
    first = held()
    right = take(number=1)
    assert right.quarantined
    second = Instance.objects.select_related("study", "original").get(conflicts_with=first)
    with pytest.raises(UserVisibleError, match="stays in quarantine"):
        quarantine.release(second, by=admin, reason="this is the right one")
    quarantine.discard(first, by=admin, reason="shows the name")
    filed = quarantine.release(second, by=admin, reason="this is the right one")
    assert filed.state == InstanceState.RECEIVED
    assert filed.series is not None
    assert objects.get(filed.original) == as_file(dataset(number=1))
    row = AuditRow.objects.get(event="instance.release")
    assert (row.detail["reason"], row.patient) == ("this is the right one", filed.study.patient_id)


def test_an_instance_of_a_patient_who_was_unknown_goes_to_its_patient(admin):
    """Its study was another patient's; both numbers turn out to be one person's."""
    take(number=1)
    assert take(number=2, PatientID="MRN-9").quarantined
    one = held()
    assert one.original.subject == "inbound"
    authority = django_settings.ONCOFLOW_ASSIGNING_AUTHORITY
    both = tuple(Identifier(authority, value) for value in ("MRN-4711-X", "MRN-9"))
    clinical.register_patient(IdentityData("Quastenflosser", "Hildegund", identifiers=both), source="mllp")
    filed = quarantine.release(one, by=admin, reason="numbers were joined")
    study = Study.objects.get()
    assert filed.study == study
    assert filed.original.subject == study.patient.key_subject, "encrypted with the patient's own key now"
    assert not Instance.objects.filter(pk=one.pk).exists()
    assert not StoredObject.objects.filter(pk=one.original_id).exists()


def test_what_is_discarded_is_deleted_later_unless_released(admin):
    take(number=1, BurnedInAnnotation="YES")
    one = held()
    quarantine.discard(one, by=admin, reason="shows the name")
    with pytest.raises(UserVisibleError):
        quarantine.discard(one, by=admin, reason="again")
    job = Job.objects.get(kind="imaging.purge_discarded")
    assert 29 < (job.run_after - now()).days + 1 <= 30
    assert not take(number=1).quarantined, "its UID is free for the right one"
    Job.objects.filter(pk=job.pk).update(run_after=now())
    assert run_job(job.pk)
    assert not Instance.objects.filter(pk=one.pk).exists()
    assert not StoredObject.objects.filter(pk=one.original_id).exists()
    assert Instance.objects.count() == 1
    assert AuditRow.objects.filter(event="instance.purge").count() == 1


@pytest.mark.parametrize("role", ["radiologist", "technician", "compliance_officer"])
def test_only_administrators(role):
    take(number=1, BurnedInAnnotation="YES")
    person = User.objects.create_user("rhea", role=role)
    for act in (quarantine.release, quarantine.discard):
        with pytest.raises(PermissionDenied):
            act(held(), by=person, reason="because")


def test_the_page_asks_for_a_reason_and_shows_nobody(admin, client: Client):
    take(number=1, BurnedInAnnotation="YES")
    take(number=2)
    client.force_login(admin)
    page = reverse("admin:imaging_quarantinedinstance_changelist")
    text = client.get(page).content.decode()
    assert "text is burned into its pixels" in text
    assert "1 instance in quarantine" in text
    assert "Quastenflosser" not in text
    one = held()
    asked = client.post(page, {"action": "discard", "_selected_action": [str(one.pk)]})
    assert "Why discard?" in asked.content.decode()
    one.refresh_from_db()
    assert one.discarded_at is None
    client.post(page, {"action": "discard", "_selected_action": [str(one.pk)], "quarantine_reason": "shows the name"})
    one.refresh_from_db()
    assert one.discarded_at is not None
    row = AuditRow.objects.get(event="instance.discard")
    assert (row.actor_type, row.detail["reason"]) == ("user", "shows the name")
