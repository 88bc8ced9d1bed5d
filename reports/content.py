"""The content of a report version: one JSON document from which page, PDF, FHIR and HL7 are all made.

It is pseudonymous: it names the patient by pseudonym only; name, numbers and accession are added where a person or the EMR
is shown the report. Canonical form: UTF-8, keys sorted, no blanks, so that equal content has equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oncoflow_site.foundation.errors import PermanentError
from reports.findings_text import impression
from reports.narrative import Narrator, SourceText, check_sentences

__all__ = ["DISCLAIMER", "SCHEMA", "build_content", "canonical_json", "draft_key", "parse_content", "with_status"]

SCHEMA = 1

DISCLAIMER = (
    "Decision support. The outlines and measurements in this report were made by machine-learning models and may be wrong; "
    "they are not a diagnosis and do not replace the reading of the images by a radiologist. "
    "Volumes depend on acquisition, registration and the models used; a category of response given here rests on images alone."
)


def canonical_json(content: Mapping[str, Any]) -> bytes:
    """Bytes of ``content``; raises `ValueError` for NaN or infinity, which JSON has no word for."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8"
    )


def parse_content(data: bytes) -> dict[str, Any]:
    """The reverse of `canonical_json`; raises `PermanentError` for a schema this code does not know."""
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise PermanentError("the stored report content has a schema that is not known here")
    return content


def draft_key(facts: Mapping[str, Any], documents: Iterable[tuple[str, str]], narrator: str) -> str:
    """SHA-256 over everything a draft is made from: the same facts and documents give the same key.

    :param documents: (id, SHA-256 of the text) of every readable document of the patient, retrieved or not.
    """
    names = sorted(f"{document}:{sha256}" for document, sha256 in documents)
    material = canonical_json({"facts": facts, "documents": names, "narrator": narrator, "schema": SCHEMA})
    return hashlib.sha256(material).hexdigest()


def build_content(facts: Mapping[str, Any], sources: Sequence[SourceText], narrator: Narrator) -> dict[str, Any]:
    """Content of a draft; ``report_id``, ``version`` and ``status`` are filled in when its number is known.

    :param facts: ``study``, ``findings``, ``comparison``, ``panel``, ``history``, ``demo`` as `reports.gathering` reads them.
    :param sources: this patient's documents with the passages that retrieval found.
    :raises PermanentError: the narrator wrote a sentence that its sources do not bear out.
    """
    sentences = narrator.narrate(facts, sources)
    check_sentences(sentences, facts, sources)
    return {
        "schema": SCHEMA,
        "report_id": "",
        "version": 0,
        "status": "draft",
        "language": "en",
        **facts,
        "narrative": [sentence.to_json() for sentence in sentences],
        "narrator": narrator.name,
        "impression": impression(facts),
        "not_assessed": _not_assessed(facts),
        "disclaimer": DISCLAIMER,
        "signature": {"kind": "none"},
        "held_reasons": [],
    }


def with_status(content: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other ``status``, ``version``, ``signature`` ...; never touches the content given."""
    unknown = set(changes) - set(content)
    if unknown:
        raise KeyError(f"not part of a report's content: {', '.join(sorted(unknown))}")
    return {**content, **changes}


def _not_assessed(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was not computed and why: [{"what", "reason"}]."""
    items = []
    for region, values in facts["findings"]["regions"].items():
        if values.get("volume_mm3") is None:
            items.append({"what": f"{region} volume", "reason": values.get("reason") or "not computed"})
        elif values.get("longest_axial_diameter_mm") is None and region == "ET" and values["volume_mm3"] > 0:
            items.append({"what": f"{region} diameters", "reason": values.get("reason") or "not computed"})
    shift = (facts["findings"].get("anatomy") or {}).get("midline_shift") or {}
    if shift and not shift.get("assessed"):
        items.append({"what": "midline shift", "reason": shift.get("reason") or "not computed"})
    places = [one.get("location") or {} for one in facts["findings"].get("lesions") or ()]
    lobes = {str(place["lobe_reason"]) for place in places if place.get("lobe_reason")}
    items += [{"what": "lobe", "reason": reason} for reason in sorted(lobes)]
    comparison = facts.get("comparison") or {}
    for region, values in (comparison.get("regions") or {}).items():
        if comparison.get("prior_study_id") and values.get("change_percent") is None:
            items.append({"what": f"{region} change", "reason": values.get("reason") or "not computed"})
    response = comparison.get("response") or {}
    if response.get("category") in (None, "not assessed"):
        items.append({"what": "response category", "reason": response.get("reason") or "no category was computed"})
    items += [
        {"what": str(missing).replace("_", " "), "reason": "not available to the response rules"}
        for missing in response.get("missing") or ()
    ]
    return items
