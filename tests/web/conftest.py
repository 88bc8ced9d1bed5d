"""The patient of the reports' tests, with a report, for pages and the REST interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from oncoflow_site.foundation.jobs import run_pending
from reports.models import Report
from tests.factories import report_studies as of_reports

# The fixtures of the reports' tests, under their own names here.
make_measurement = of_reports.make_measurement
make_study = of_reports.make_study
order = of_reports.order
patient = of_reports.patient
radiologist = of_reports.radiologist
signing = of_reports.signing


@pytest.fixture
def drafted(db: None, request: pytest.FixtureRequest) -> Report:
    """A study whose report went out as preliminary."""
    from django.db import transaction

    from oncoflow_site.foundation.events import emit

    request.getfixturevalue("radiologist")
    study = request.getfixturevalue("make_study")()
    measurement = request.getfixturevalue("make_measurement")(study)
    with transaction.atomic():
        emit("comparison.ready", subject=study.subject, study_id=study.pk, measurement_id=measurement.pk)
    run_pending("default")
    return Report.objects.get(study=study)


@pytest.fixture
def client_of(db: None) -> Callable[[Any], Client]:
    """``client_of(user)``: a browser in which ``user`` is signed in; None: nobody is."""

    def make(user: Any) -> Client:
        client = Client()
        if user is not None:
            client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return make
