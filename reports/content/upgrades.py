"""Report contents of older schemas as those of today. They are read so; their bytes stay what they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imaging.schemas.comparison import comparison_of_v1
from imaging.schemas.measurement import anatomy_of_v1, lesions_of_v1, regions_of_v1
from inference.schemas.panel import panel_of_v1
from oncoflow_site.foundation.schema import OldData, with_defaults

__all__ = ["content_of_v1", "facts_of_v1"]


def facts_of_v1(data: Mapping[str, Any]) -> OldData:
    """Study, findings, comparison, panel and history as plain dictionaries; their keys grew with time."""
    findings: Mapping[str, Any] = data["findings"]
    comparison, panel = data.get("comparison"), data.get("panel")
    return {
        "study": with_defaults(data["study"], order_id=None, procedure="", modality="MR", spacing_known=True),
        "findings": {
            **findings,
            "regions": regions_of_v1(findings.get("regions") or {}),
            "lesions": lesions_of_v1(list(findings.get("lesions") or ())),
            "anatomy": anatomy_of_v1(findings.get("anatomy") or {}),
        },
        "comparison": with_defaults(comparison_of_v1(comparison), comparison_id="", prior_performed_at=None)
        if comparison
        else None,
        "panel": panel_of_v1(panel) if panel else None,
        "history": list(data.get("history") or ()),
        "demo": bool(data.get("demo")),
    }


def content_of_v1(data: Mapping[str, Any]) -> OldData:
    """A plain dictionary."""
    sentences = [
        {**one, "citations": [_citation_of_v1(citation) for citation in one.get("citations") or ()]}
        for one in data.get("narrative") or ()
    ]
    filled = with_defaults(
        data, language="en", narrator="", impression="", not_assessed=[], signature={"kind": "none"}, held_reasons=[]
    )
    return {**filled, **facts_of_v1(data), "narrative": sentences}


def _citation_of_v1(citation: Mapping[str, Any]) -> Mapping[str, Any]:
    if citation.get("kind") != "document":
        return citation
    return with_defaults(citation, type_text="", authored_on=None, authored_text="")
