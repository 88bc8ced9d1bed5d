"""Content of reports from before the schemas: read, shown, signed anew; its bytes stay what they were."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError
from reports.content.schema import (
    CONTENT,
    SCHEMA,
    DocumentCitation,
    ReportContent,
    canonical_json,
    content_json,
    parse_content,
)
from reports.models import ReportVersion
from reports.pdf import HeaderData, RenderInput, render
from reports.services import load_content
from tests.factories import report_content as samples
from tests.factories.old_rows import keeps
from tests.factories.reports import draft, release, text_of

DOCUMENT = "01900000-0000-7000-8000-00000000000a"


def first_schema(**changes: Any) -> dict[str, Any]:
    """A signed content as the first schema wrote it."""
    narrative = [
        {
            "text": "The oncology note of 2 August 2026 states: “Gross total resection.”",
            "kind": "context",
            "citations": [
                {
                    "kind": "document",
                    "document_id": DOCUMENT,
                    "start": 15,
                    "end": 37,
                    "text": "Gross total resection.",
                    "text_sha256": "ab" * 32,
                    "type_text": "Oncology note",
                    "authored_on": "2026-08-02T00:00:00+00:00",
                    "authored_text": "2 August 2026",
                }
            ],
        },
        {
            "text": "The models' consensus gives an estimated enhancing tumour (ET) volume of 12.3 ml.",
            "kind": "finding",
            "citations": [
                {"kind": "finding", "path": "findings.regions.ET.volume_mm3", "value": 12345.6, "shown": "12.3"}
            ],
        },
        {"text": "No context.", "kind": "limitation", "citations": [{"kind": "search", "documents": 3}]},
    ]
    return {
        "schema": 1,
        "report_id": "01900000-0000-7000-8000-0000000000ff",
        "version": 2,
        "status": "final",
        "language": "en",
        **samples.rows(),
        "narrative": narrative,
        "narrator": "extractive",
        "impression": "Enhancing tumour is outlined on this study.",
        "not_assessed": [{"what": "lobe", "reason": "No parcellation."}],
        "disclaimer": "Decision support.",
        "signature": {
            "kind": "person",
            "user_id": "7",
            "name": "Dr Rahel Sommer",
            "role": "radiologist",
            "at": "2026-08-14T11:02:03+00:00",
            "reason": "I have reviewed this report.",
        },
        "held_reasons": [],
        **changes,
    }


def _bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def test_nothing_of_an_old_content_is_lost() -> None:
    old = first_schema()
    content = parse_content(_bytes(old))
    said = content_json(content)
    assert keeps(
        {**said, "comparison": {**said["comparison"], "response": None}},
        {**old, "schema": SCHEMA} | _without_inputs(old),
    )
    assert content.comparison is not None
    assert content.comparison.outlines is None
    assert isinstance(content.narrative[0].citations[0], DocumentCitation)
    assert parse_content(canonical_json(content)) == content
    assert CONTENT.read(CONTENT.write(content)) == content


def _without_inputs(old: dict[str, Any]) -> dict[str, Any]:
    """The response of an old content had an empty object where there were no inputs: None today."""
    return {"comparison": {**old["comparison"], "response": None}}


def test_an_old_content_is_drawn_as_it_was() -> None:
    content = parse_content(_bytes(first_schema()))
    printed = text_of(render(RenderInput(content, HeaderData("Hospital", "OF-1"))).pdf)
    assert "volume of 12.3 ml" in printed
    assert "+43 %" in printed
    assert "PD (RANO 2.0 imaging-only, volumetric)" in printed


@pytest.mark.parametrize("schema", [0, 99, "2", None])
def test_a_schema_that_is_not_known_is_refused(schema: Any) -> None:
    with pytest.raises(PermanentError, match="schema"):
        parse_content(_bytes(first_schema(schema=schema)))


def test_a_key_that_no_schema_has_is_refused_without_its_value() -> None:
    data = canonical_json({**content_json(parse_content(_bytes(first_schema()))), "surprise": "a name"})
    with pytest.raises(PermanentError) as refused:
        parse_content(data)
    assert "a name" not in str(refused.value)


@pytest.mark.django_db
def test_a_draft_of_the_first_schema_goes_its_way_and_its_bytes_stay(
    make_study: Any, make_measurement: Any, signing: Any
) -> None:
    version = draft(make_measurement(make_study()))
    data = _bytes(first_schema(status="draft", version=1, report_id=str(version.report_id), signature={"kind": "none"}))
    stored = objects.put(data, subject=version.report.study.key_subject, kind="report-content")
    ReportVersion.objects.filter(pk=version.pk).update(content=stored, content_sha256=hashlib.sha256(data).hexdigest())
    version.refresh_from_db()
    before: ReportContent = load_content(version)
    issued = release(version)
    assert objects.get(stored) == data
    after = load_content(issued)
    assert after.status == "preliminary"
    assert after.findings == before.findings
    assert json.loads(objects.get(issued.content))["schema"] == SCHEMA
