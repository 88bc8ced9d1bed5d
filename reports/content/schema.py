"""The content of a report version: one JSON document from which page, PDF, FHIR and HL7 are all made.

It is pseudonymous: it names the patient by pseudonym only; name, numbers and accession are added where a person or the EMR
is shown the report. Canonical form: UTF-8, keys sorted, no blanks, so that equal content has equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from oncoflow_site.foundation.errors import PermanentError

__all__ = ["DISCLAIMER", "SCHEMA", "canonical_json", "draft_key", "parse_content", "with_status"]


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


def with_status(content: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other ``status``, ``version``, ``signature`` ...; never touches the content given."""
    unknown = set(changes) - set(content)
    if unknown:
        raise KeyError(f"not part of a report's content: {', '.join(sorted(unknown))}")
    return {**content, **changes}
