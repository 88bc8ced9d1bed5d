"""Lists ask the database the same number of questions however many rows they have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from clinical.access import assign
from clinical.models import User
from oncoflow_site.foundation.clock import now
from tests.factories import studies

LISTS = ["/", "/api/studies/", "/patients/{patient}/"]
ADMIN_LISTS = ["imaging_study", "imaging_series", "imaging_segmentation", "imaging_measurement", "imaging_volumeset"]


def add_studies(patient: Any, count: int) -> None:
    image = studies.brain_like(studies.SMALL)
    for number in range(count):
        study, volume_set = studies.ready_study(patient, image, performed_at=now() - timedelta(days=number + 1))
        studies.segment(study, volume_set, studies.tumour(studies.SMALL, ((-20.0, 5.0, 5.0), 8.0, 10.0, 12.0)))


@pytest.mark.django_db
@pytest.mark.parametrize("path", LISTS)
def test_a_list_takes_the_same_queries_for_many_rows_as_for_few(client_of, path: str) -> None:
    person = studies.patient()
    reader = User.objects.create_user("rhea", password=None, role="radiologist")
    assign(reader, person, reason="reads the images", by=None)
    client = client_of(reader)
    path = path.format(patient=person.pk)
    counts = []
    for more in (2, 3):
        add_studies(person, more)
        assert client.get(path).status_code == 200  # what is looked up once a process
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(path)
        assert person.pseudonym in answer.content.decode()
        counts.append(len(queries))
    assert counts[0] == counts[1], counts


@pytest.mark.django_db
@pytest.mark.parametrize("name", ADMIN_LISTS)
def test_a_list_of_the_administration_takes_the_same_queries_for_many_rows_as_for_few(client_of, name: str) -> None:
    address = reverse(f"admin:{name}_changelist")
    person = studies.patient()
    client = client_of(User.objects.create_user("ada", role="admin", is_staff=True, is_superuser=True))
    counts = []
    for more in (2, 3):
        add_studies(person, more)
        assert client.get(address).status_code == 200
        with CaptureQueriesContext(connection) as queries:
            client.get(address)
        counts.append(len(queries))
    assert counts[0] == counts[1], counts
