"""The content of a report version: one typed document from which page, PDF, FHIR and HL7 are all made.

It is pseudonymous: it names the patient by pseudonym only; name, numbers and accession are added where a person or the EMR
is shown the report. Canonical form: UTF-8, keys sorted, no blanks, so that equal content has equal bytes. The bytes of a
version are never rewritten: what was signed in an older schema is read through its upgrade and shown from that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from imaging.schemas.acquisition import SequenceAcquisition
from imaging.schemas.assessed import NotAssessed
from imaging.schemas.comparison import ComparisonResult, VolumesAt
from imaging.schemas.measurement import LesionMeasurement, MeasuredAnatomy, RegionMeasurements
from inference.schemas.panel import PanelSummary
from oncoflow_site.foundation.errors import PermanentError
from oncoflow_site.foundation.schema import Document, Instant, JsonDict, Schema, UnknownSchema
from reports.content.upgrades import content_of_v1

__all__ = [
    "CONTENT",
    "SCHEMA",
    "Citation",
    "DocumentCitation",
    "FindingCitation",
    "Findings",
    "NarrativeKind",
    "NarrativeSentence",
    "ReducedStudy",
    "ReportComparison",
    "ReportContent",
    "ReportFacts",
    "ReportStudy",
    "ReportedOutline",
    "SearchCitation",
    "Signature",
    "canonical_json",
    "content_json",
    "draft_key",
    "parse_content",
    "with_status",
]


SCHEMA = 2


NarrativeKind = Literal["finding", "context", "limitation"]


class ReducedStudy(Schema):
    """A study with missing sequences: what it has, what it lacks, and what follows, in words."""

    sequences: tuple[str, ...]
    missing: tuple[str, ...]
    reason: str


class ReportStudy(Schema):
    """The study that is reported. ``spacing_known`` False: nothing is given in millimetres; ``performed_on_day``: of
    ``performed_at`` only the day is known; ``acquisition``: empty in reports from before it was told."""

    id: str
    patient_id: str
    pseudonym: str
    order_id: str | None
    procedure: str
    performed_at: Instant
    modality: str
    spacing_known: bool
    reduced: ReducedStudy | None = None
    performed_on_day: bool = False
    acquisition: tuple[SequenceAcquisition, ...] = ()


class ReportedOutline(Schema):
    """The outline that was measured. ``author`` is empty where it is a person's."""

    id: str
    kind: str
    version: int
    author: str


class Findings(Schema):
    """What was measured on the study."""

    measurement_id: str
    segmentation: ReportedOutline
    regions: RegionMeasurements
    lesions: tuple[LesionMeasurement, ...]
    anatomy: MeasuredAnatomy
    parts: Mapping[Literal["NCR", "ED"], float | None] = {}
    """Volumes (mm3) of what the nested regions hold between them: NCR = TC - ET, ED = WT - TC; None: not assessed."""


class ReportComparison(ComparisonResult):
    """The comparison with the most recent earlier study; the baseline where there is none."""

    comparison_id: str
    prior_performed_at: Instant | None


class ReportFacts(Schema):
    """Everything a draft is made from but the documents.

    :param history: volumes of this study and of every earlier one, oldest first.
    """

    study: ReportStudy
    findings: Findings
    comparison: ReportComparison | None
    panel: PanelSummary | None
    history: tuple[VolumesAt, ...]
    demo: bool


class DocumentCitation(Schema):
    """A quotation: ``start`` and ``end`` are byte offsets into the stored text, ``text`` those bytes, ``text_sha256`` the whole."""

    kind: Literal["document"] = "document"
    document_id: str
    start: int
    end: int
    text: str
    text_sha256: str
    type_text: str
    authored_on: str | None
    authored_text: str


class FindingCitation(Schema):
    """A figure: ``path`` leads to ``value`` in the report's content, ``shown`` is how the sentence writes it."""

    kind: Literal["finding"] = "finding"
    path: str
    value: JsonValue
    shown: str


class SearchCitation(Schema):
    """How many documents were looked through, for a sentence that says that nothing was found."""

    kind: Literal["search"] = "search"
    documents: int


Citation = Annotated[DocumentCitation | FindingCitation | SearchCitation, Field(discriminator="kind")]


class NarrativeSentence(Schema):
    """One sentence of the narrative with its sources."""

    text: str
    kind: NarrativeKind
    citations: tuple[Citation, ...]


class Signature(Schema):
    """Who vouches for the version. ``user_id`` and ``role`` are a person's."""

    kind: Literal["none", "seal", "person"] = "none"
    name: str = ""
    at: Instant | None = None
    reason: str = ""
    user_id: str = ""
    role: str = ""


class ReportContent(ReportFacts):
    """The content of one version. A draft has no ``report_id`` and number 0 until they are known."""

    report_id: str
    version: int
    status: str
    language: str
    narrative: tuple[NarrativeSentence, ...]
    narrator: str
    impression: str
    not_assessed: tuple[NotAssessed, ...]
    disclaimer: str
    signature: Signature
    held_reasons: tuple[str, ...]


CONTENT: Document[ReportContent] = Document(
    "report content", ReportContent, version=SCHEMA, upgrades={1: content_of_v1}
)


def content_json(content: ReportContent) -> JsonDict:
    """The content as JSON values, with the number of its schema."""
    return {"schema": SCHEMA, **content.model_dump(mode="json")}


def canonical_json(content: ReportContent | Mapping[str, Any]) -> bytes:
    """Bytes of ``content``; raises `ValueError` for NaN or infinity, which JSON has no word for."""
    values = content_json(content) if isinstance(content, ReportContent) else content
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8"
    )


def parse_content(data: bytes) -> ReportContent:
    """The reverse of `canonical_json`, for content of any schema; raises `PermanentError` for one this code does not know."""
    values = json.loads(data)
    if not isinstance(values, dict) or not isinstance(version := values.pop("schema", None), int):
        raise PermanentError("the stored report content does not name its schema")
    try:
        return CONTENT.read({"schema": version, "data": values})
    except UnknownSchema as error:
        raise PermanentError(f"the stored report content has a schema that is not known here: {error}") from None


def draft_key(facts: ReportFacts, documents: Iterable[tuple[str, str]], narrator: str) -> str:
    """SHA-256 over everything a draft is made from: the same facts and documents give the same key.

    :param documents: (id, SHA-256 of the text) of every readable document of the patient, retrieved or not.
    """
    names = sorted(f"{document}:{sha256}" for document, sha256 in documents)
    facts_json = facts.model_dump(mode="json")
    material = canonical_json({"facts": facts_json, "documents": names, "narrator": narrator, "schema": SCHEMA})
    return hashlib.sha256(material).hexdigest()


def with_status(
    content: ReportContent,
    *,
    status: str | None = None,
    report_id: str | None = None,
    version: int | None = None,
    signature: Signature | None = None,
    held_reasons: Iterable[str] | None = None,
) -> ReportContent:
    """A copy with what is given; never touches the content given."""
    changes: dict[str, object] = {
        "status": status,
        "report_id": report_id,
        "version": version,
        "signature": signature,
        "held_reasons": None if held_reasons is None else tuple(held_reasons),
    }
    return content.model_copy(update={name: value for name, value in changes.items() if value is not None})
