"""One number, one text: what page, PDF, narrative and FHIR show of the same measurement."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import transaction

from clinical.models import User
from fhir_api.r4.resources.bundle import build_transaction
from imaging.models import Measurement
from oncoflow_site.foundation.events import emit
from oncoflow_site.foundation.jobs import run_pending
from reports.lifecycle.versions import current_version
from reports.models import Report, ReportVersion
from reports.services import load_content, load_pdf
from tests.factories.outgoing_reports import facts
from tests.factories.reports import text_of


@pytest.fixture
def followed(make_study: Any, make_measurement: Any, signing: Any, radiologist: User) -> Measurement:
    """A follow-up of the reports' sample patient, with a report that went out as preliminary."""
    before = make_measurement(make_study(performed_at=datetime(2026, 5, 12, 9, 10, tzinfo=UTC)))
    measurement: Measurement = make_measurement(make_study(), prior=before)
    study = measurement.study
    with transaction.atomic():
        emit("comparison.ready", subject=study.subject, study_id=study.pk, measurement_id=measurement.pk)
    run_pending("default")
    return measurement


def _newest(measurement: Measurement) -> ReportVersion:
    version = current_version(Report.objects.get(study=measurement.study))
    assert version is not None
    return version


@pytest.mark.django_db
def test_page_pdf_and_report_show_the_same_texts(followed: Measurement, client_of: Any, radiologist: User) -> None:
    client = client_of(radiologist)
    study, version = followed.study, _newest(followed)
    page = client.get(f"/studies/{study.pk}/").text.replace("\u00a0", " ")
    printed = text_of(load_pdf(version))
    report = client.get(f"/api/reports/{version.report_id}/versions/{version.number}.json").json()
    narrative = " ".join(one["text"] for one in report["narrative"])
    # ET 12345.6 mm3, +43.05 %; TC 20411 mm3; WT 64120 mm3, -4.16 %; diameters 38.4 and 27.2 mm; agreement 0.934
    for volume in ("12.3", "20.4", "64.1"):
        assert f"{volume} ml" in page
        assert volume in printed
        assert f"volume of {volume} ml" in narrative
    for signed, plain in (("+43 %", "43 %"), ("−4.2 %", "4.2 %")):
        assert signed in page
        assert signed in printed
        assert f"by {plain}" in narrative
    assert "38 mm" in page
    assert "27 mm" in page
    assert "38 × 27" in printed
    assert "about 38 mm, 27 mm across" in narrative
    assert "0.93</strong>" in page
    assert "0.93" in printed
    assert "mean Dice coefficient of 0.93" in narrative
    for wrong in ("12.35", "43.0", "43.1", "0.934", "38.4"):
        assert wrong not in page
        assert wrong not in printed
        assert wrong not in narrative


@pytest.mark.django_db
def test_fhir_tells_the_same_sentences_and_exacter_numbers(followed: Measurement) -> None:
    content = load_content(_newest(followed))
    found = [one["resource"] for one in json.loads(build_transaction(facts(content=content)))["entry"]]
    told = next(one for one in found if one["resourceType"] == "DiagnosticReport")["text"]["div"]
    assert "volume of 12.3 ml" in told
    values = {
        one["code"]["coding"][0]["code"]: one["valueQuantity"]["value"]
        for one in found
        if one["resourceType"] == "Observation" and "valueQuantity" in one
    }
    assert values["ET-volume"] == 12.346
    assert values["WT-change"] == -4.2
    assert values["panel-agreement"] == 0.934
