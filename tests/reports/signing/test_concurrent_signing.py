"""Two people sign the same version at the same moment: exactly one signature comes of it."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from clinical.models import User
from clinical.services import assign
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.foundation.models import Event
from reports.lifecycle.sign_off import sign_off
from reports.models import ReportVersion
from reports.signing.keyring import issue_personal_key
from tests.factories.report_studies import PASSWORD
from tests.factories.reports import draft, release


@pytest.mark.django_db(transaction=True)
def test_exactly_one_signature(make_study, make_measurement, patient, radiologist: User) -> None:
    second = User.objects.create_user(username="rad-second", role="radiologist", first_name="Ida", last_name="Noor")
    assign(second, patient, reason="test", by=None)
    issue_personal_key(second, PASSWORD)
    version = release(draft(make_measurement(make_study())))
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def sign(user: User) -> None:
        try:
            barrier.wait(30)
            outcomes.append(sign_off(version, user, PASSWORD).status)
        except UserVisibleError as error:
            outcomes.append(error.code)
        except Exception as error:
            outcomes.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=sign, args=(user,)) for user in (radiologist, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(outcomes) == ["already-signed", "final"]
    assert list(ReportVersion.objects.order_by("number").values_list("number", "status")) == [
        (1, "preliminary"),
        (2, "final"),
    ]
    assert Event.objects.filter(kind="report.issued").count() == 2
