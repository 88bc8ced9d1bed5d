"""A study with missing sequences through the whole service: from `manage.py ingest` to a held report, and whole later on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.db import transaction
from django.test import Client

from clinical.access import assign
from clinical.models import User
from fhir_api.hl7v2.er7 import parse
from fhir_api.hl7v2.oru import build_oru
from fhir_api.models import Endpoint
from fhir_api.r4.resources.bundle import build_transaction
from imaging.longitudinal.acceptance import accept_outline
from imaging.longitudinal.history import current_measurement
from imaging.models import Comparison, Measurement, Study
from imaging.schemas.comparison import ComparisonResult
from imaging.segmentation.label_maps import current_segmentation, load_labels
from oncoflow_site.foundation.jobs import run_pending
from reports.models import Report
from reports.services import load_content, load_pdf
from tests.factories import painted_files as painted_study
from tests.factories.outgoing_reports import facts
from tests.factories.panels import GOOD, Panel, evaluation, panel_of
from tests.factories.reports import words

__all__ = ["panel_of"]


def bring_in(folder: Path, number: int, *sequences: str) -> Study:
    """Some series of one of the patient's two studies, by the command; then everything that follows, here and now."""
    target = folder / f"{number}-{'-'.join(sequences)}"
    target.mkdir()
    for place, data in enumerate(painted_study.files(number, sequences, painted=("T1c", "FLAIR"))):
        (target / f"{place:03}.dcm").write_bytes(data)
    call_command("ingest", str(target), stdout=io.StringIO())
    run_pending()
    return Study.objects.order_by("performed_at")[number - 1]


def measured(study: Study) -> Measurement:
    found = current_measurement(study)
    assert found is not None
    return found


def versus(study: Study) -> ComparisonResult:
    newest = measured(study).comparisons.filter(prior_study__isnull=False).order_by("-created_at").first()
    assert newest is not None
    return newest.result


@pytest.fixture
def panel(panel_of: Panel, settings: Any) -> None:
    """Two voters that were evaluated on these combinations, and one expert that needs FLAIR."""
    panel_of(("one", "good", GOOD), ("two", "good", GOOD), ("sam", "good", GOOD))
    settings.ONCOFLOW_PANEL[2]["needs"] = ["FLAIR"]
    for spec in settings.ONCOFLOW_PANEL:
        data = evaluation(T1c=GOOD, T1c_FLAIR=GOOD)
        (Path(spec["weights_dir"]) / "evaluation.json").write_text(json.dumps(data))


@pytest.mark.django_db
@pytest.mark.peer("hapi")
def test_t1c_alone_then_with_flair_then_the_late_flair(
    panel: None, tmp_path: Path, fhir_validator: Any, client_of: Any, radiologist: User
) -> None:
    first = bring_in(tmp_path, 1, "T1c")
    assert (first.state, first.flag_code) == ("ready", "reduced")
    outline = current_segmentation(first)
    assert outline is not None
    assert (outline.kind, list(outline.not_assessed)) == ("consensus", ["WT"])
    assert set(np.unique(load_labels(outline))) == {0, 1, 3}
    regions = measured(first).regions
    assert regions["ET"].volume_mm3 > 1000
    assert (regions["WT"].volume_mm3, regions["WT"].voxels, regions["WT"].assessed) == (None, None, False)
    assert "FLAIR or T2" in regions["WT"].reason
    (lesion,) = measured(first).lesions
    assert (lesion.regions["WT"], lesion.voxels["WT"]) == (None, None)
    _report_says_it(first, fhir_validator)
    _pages_say_it(first, client_of, radiologist)

    second = bring_in(tmp_path, 2, "T1c", "FLAIR")
    assert second.flag_code == "reduced"
    assert measured(second).regions["WT"].volume_mm3 > 1000
    assert Report.objects.get(study=second).state == "held"
    result = versus(second)
    # Both outlines are held and nobody has accepted them: their volumes are shown, no change is said.
    assert result.regions["ET"].change_percent is None
    assert "no person has accepted it" in result.regions["ET"].reason
    assert result.regions["WT"].change_percent is None
    assert result.regions["WT"].prior_mm3 is None
    assert result.regions["WT"].reason.startswith("Not assessed on the earlier study, so not compared.")
    assert "do not have the same sequences" in result.sequences.note
    assert [one.status for one in result.lesions] == ["followed"]
    assert result.response.category == "not assessed"
    content = load_content(Report.objects.get(study=second).versions.order_by("-number").first())
    assert fhir_validator.issues(build_transaction(facts(2, "final", content=content))) == []

    again = bring_in(tmp_path, 1, "FLAIR")
    assert again.pk == first.pk
    outline = current_segmentation(first)
    assert outline is not None
    assert outline.not_assessed == {}
    assert measured(first).regions["WT"].volume_mm3 > 1000
    assert Report.objects.get(study=first).versions.order_by("-number").first().measurement == measured(first)
    result = versus(second)
    assert result.sequences.note == ""
    assert result.regions["WT"].change_percent is None
    with transaction.atomic():  # as whoever signs the two reports does
        for study in (second, first):
            accepted = current_segmentation(study)
            assert accepted is not None
            accept_outline(accepted, by=radiologist.get_username())
    run_pending()
    change = versus(second).regions["WT"].change_percent
    assert change is not None
    assert change < -30


def _report_says_it(study: Study, fhir_validator: Any) -> None:
    report = Report.objects.get(study=study)
    assert report.state == "held"
    version = report.versions.order_by("-number").first()
    assert version is not None
    content = load_content(version)
    assert any("a reduced result is always held" in reason for reason in content.held_reasons)
    assert content.study.reduced is not None
    assert content.study.reduced.missing == ("T1", "T2", "FLAIR")
    assert content.impression.startswith("This study has no T1, no T2 and no FLAIR series.")
    assert {"WT volume"} <= {one.what for one in content.not_assessed}
    printed = " ".join(words(load_pdf(version)).split())
    assert "REDUCED" in printed
    assert "not run: needs FLAIR" in printed
    final = facts(2, "final", content=content)
    bundle = build_transaction(final)
    assert fhir_validator.issues(bundle) == []
    found = [one["resource"] for one in json.loads(bundle)["entry"]]
    volume = next(one for one in found if one.get("code", {}).get("text") == "Whole tumour volume")
    assert "valueQuantity" not in volume
    assert volume["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "FLAIR or T2" in volume["dataAbsentReason"]["text"]
    conclusion = next(one for one in found if one["resourceType"] == "DiagnosticReport")["conclusion"]
    assert "no FLAIR series" in conclusion
    message = parse(build_oru(final, Endpoint(name="e", transport="mllp", address="x:1")))
    rows = {(one.field(3).split("^")[0], one.field(4)): one for one in message.all("OBX")}
    assert (rows["WT-volume", "WT"].field(5), rows["WT-volume", "WT"].field(11)) == ("", "X")
    assert rows["lesion-WT-volume", "L1"].field(11) == "X"
    assert rows["ET-volume", "ET"].field(11) == "F"


def _pages_say_it(study: Study, client_of: Any, radiologist: User) -> None:
    assign(radiologist, study.patient, reason="reads", by=None)
    client: Client = client_of(radiologist)
    page = client.get(f"/studies/{study.pk}/").content.decode()
    assert "This study has no T1, no T2 and no FLAIR series." in page
    assert "needs FLAIR" in page
    assert '<li class="wt">' not in page
    assert 'name="assessed" value="WT"' in page
    body = client.get(f"/api/studies/{study.pk}/").json()
    assert body["flag"]["code"] == "reduced"
    assert list(body["volumes"]["not_assessed"]) == ["WT"]
    assert body["measurement"]["regions"]["WT"]["volume_mm3"] is None
    assert {tuple(one["not_assessed"]) for one in body["segmentations"]} == {("WT",)}
    assert Comparison.objects.filter(study=study, prior_study__isnull=True).exists()
