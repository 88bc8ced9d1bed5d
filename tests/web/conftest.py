"""The patient of the reports' tests, with a report, for pages and the REST interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from clinical.models import User
from oncoflow_site.foundation.jobs import run_pending
from reports.models import Report
from tests.reports.conftest import (  # noqa: F401  (fixtures)
    make_measurement,
    make_study,
    order,
    patient,
    radiologist,
    signing,
)


@pytest.fixture
def drafted(
    db: None, make_study: Callable[..., Any], make_measurement: Callable[..., Any], radiologist: User
) -> Report:  # noqa: F811
    """A study whose report went out as preliminary."""
    from django.db import transaction

    from oncoflow_site.foundation.events import emit

    study = make_study()
    measurement = make_measurement(study)
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
