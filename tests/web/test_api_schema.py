"""The OpenAPI document names what the answers hold, and the answers hold what it names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clinical.models import User
from oncoflow_site.api.answers import PanelAnswer, ReportVersionAnswer, StudyAnswer, StudyPage
from oncoflow_site.api.identity_answers import (
    ConflictRevealed,
    DeidentificationAnswer,
    IdentitiesAnswer,
    IdentityConfirmed,
    MergeAnswer,
    MergePreviewAnswer,
    MergeWithNews,
)
from reports.models import Report


@pytest.fixture
def document(client_of: Any, radiologist: User) -> dict[str, Any]:
    answer = client_of(radiologist).get("/api/schema/?format=json")
    assert answer.status_code == 200
    return dict(answer.json())


def _answer_of(document: dict[str, Any], path: str, method: str = "get", status: str = "200") -> dict[str, Any]:
    content = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
    return dict(document["components"]["schemas"][content["$ref"].rsplit("/", 1)[1]])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "method", "status", "model"),
    [
        ("/api/studies/", "get", "200", StudyPage),
        ("/api/studies/{study_id}/", "get", "200", StudyAnswer),
        ("/api/studies/{study_id}/panel/", "get", "200", PanelAnswer),
        ("/api/studies/{study_id}/deidentification", "get", "200", DeidentificationAnswer),
        ("/api/identities/", "get", "200", IdentitiesAnswer),
        ("/api/identities/conflicts/{conflict_id}", "get", "200", ConflictRevealed),
        ("/api/identities/merges/", "post", "200", MergePreviewAnswer),
        ("/api/identities/merges/", "post", "201", MergeAnswer),
        ("/api/identities/merges/{merge_id}", "get", "200", MergeWithNews),
        ("/api/identities/patients/{patient_id}/confirm", "post", "200", IdentityConfirmed),
        ("/api/reports/{report_id}/versions/{number}.json", "get", "200", ReportVersionAnswer),
    ],
)
def test_main_resources_are_described_by_their_schemas(
    document: dict[str, Any], path: str, method: str, status: str, model: Any
) -> None:
    described = _answer_of(document, path, method, status)
    names = {field.serialization_alias or name for name, field in model.model_fields.items()}
    assert set(described["properties"]) == names


@pytest.mark.django_db
def test_regions_and_responses_are_described_down_to_their_numbers(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"volume_mm3", "voxels", "reason", "uncertainty_mm3"} <= set(schemas["RegionMeasurement"]["properties"])
    # The document keeps enumerations as components of their own.
    enumerations = [one.get("enum") for one in (*schemas.values(), schemas["Response"]["properties"]["category"])]
    assert ["CR", "PR", "SD", "PD", "not assessed"] in enumerations
    assert {"maker", "band", "sequences", "reviewer"} == set(schemas["OutlineSource"]["properties"])


@pytest.mark.django_db
def test_answers_are_what_the_document_says(drafted: Report, client_of: Any, radiologist: User, signing: Any) -> None:
    client = client_of(radiologist)
    study = client.get(f"/api/studies/{drafted.study_id}/").json()
    read = StudyAnswer.model_validate(study)
    assert read.measurement is not None
    assert read.measurement.regions["ET"].volume_mm3 == 12345.6
    assert read.panel is not None
    panel = client.get(f"/api/studies/{drafted.study_id}/panel/").json()
    assert PanelAnswer.model_validate(panel).gate.band == "issue"
    content = client.get(f"/api/reports/{drafted.pk}/versions/1.json").json()
    assert content.pop("schema") == 2
    assert ReportVersionAnswer.model_validate({**content, "schema_version": 2}).findings.lesions[0].id == "L1"


@pytest.mark.django_db
def test_studies_come_in_pages(make_study: Any, client_of: Any, radiologist: User) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    made = [make_study(performed_at=begin + timedelta(days=day)) for day in range(5)]
    client = client_of(radiologist)
    seen: list[str] = []
    address = "/api/studies/?limit=2"
    sizes = []
    while address:
        page = StudyPage.model_validate(client.get(address).json())
        sizes.append(len(page.studies))
        seen += [one.id for one in page.studies]
        address = page.next or ""
    assert sizes == [2, 2, 1]
    assert seen == [str(one.pk) for one in reversed(made)]
    assert len(client.get("/api/studies/?limit=100000").json()["studies"]) == 5
