"""Answers of the REST interface as schemas: what a view gives is built from them, and the OpenAPI document is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import ConfigDict, Field

from imaging.brats.regions import Region
from imaging.schemas.comparison import ComparisonResult
from imaging.schemas.measurement import LesionMeasurement, MeasuredAnatomy, RegionMeasurements
from imaging.schemas.outline import FusedOutline, ModelOutline
from inference.schemas.agreement import FusionMethodResult
from inference.schemas.panel import PanelSummary
from oncoflow_site.foundation.schema import Instant, Schema
from reports.content.schema import SCHEMA, ReportContent

__all__ = [
    "ConsensusChoice",
    "FindingRow",
    "FusionQueued",
    "JobQueued",
    "JobStatus",
    "MeasurementAnswer",
    "OutlineAnswer",
    "OutlineStored",
    "PanelAnswer",
    "PanelStatus",
    "PatientPointer",
    "ReportPointer",
    "ReportVersionAnswer",
    "ReportVersionRow",
    "SequenceQuality",
    "SeriesRow",
    "StudyAnswer",
    "StudyFlag",
    "StudyPage",
    "StudyRow",
    "StudyStep",
    "VolumesAnswer",
]


class ApiAnswer(Schema):
    """Base of all answers: every key is always there, and the document says so."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class PatientPointer(ApiAnswer):
    """A patient, by pseudonym."""

    id: str
    pseudonym: str


class FindingRow(ApiAnswer):
    """One thing that is wrong with a study, or to be known; ``severity``: stops, warning or note."""

    code: str
    severity: str
    message: str
    raised_at: Instant


class StudyFlag(ApiAnswer):
    """The heaviest of a study's findings."""

    code: str
    message: str


class ReportPointer(ApiAnswer):
    """A study's report and its state."""

    id: str
    state: str


class StudyRow(ApiAnswer):
    """A study in a list: pseudonym and state, no identity."""

    id: str
    patient: PatientPointer
    order: str | None
    modality: str
    state: str
    flag: StudyFlag | None
    findings: tuple[FindingRow, ...]
    performed_at: Instant
    performed_on_day: bool
    unsolicited: bool
    report: ReportPointer | None


class StudyPage(ApiAnswer):
    """Studies, newest first; ``next`` is the address of the page that follows, None on the last one."""

    studies: tuple[StudyRow, ...]
    next: str | None


class StudyStep(ApiAnswer):
    """One job of a study, as a person follows it. ``progress``: 0 to 1."""

    id: str
    kind: str
    title: str
    state: str
    progress: float
    text: str
    started_at: Instant | None
    finished_at: Instant | None
    seconds: float | None
    error: str

    @staticmethod
    def duration(started: datetime | None, finished: datetime | None) -> float | None:
        """Seconds between the two."""
        return (finished - started).total_seconds() if started and finished else None


class SeriesRow(ApiAnswer):
    """A series and the sequence it was recognised as."""

    sequence: str
    confidence: float | None
    reason: str
    description: str
    instances: int


class SequenceQuality(ApiAnswer):
    """How well a sequence was aligned with the study's grid."""

    quality: Mapping[str, float]


class VolumesAnswer(ApiAnswer):
    """The volumes of the newest preparation: [x, y, z] voxels and mm."""

    version: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    sequences: Mapping[str, SequenceQuality]
    not_assessed: Mapping[Region, str]


class OutlineAnswer(ApiAnswer):
    """A segmentation; ``model``: the model or the fusion that made it, None where a person did."""

    id: str
    kind: str
    version: int
    author: str
    model: ModelOutline | FusedOutline | None
    not_assessed: Mapping[Region, str]
    created_at: Instant


class MeasurementAnswer(ApiAnswer):
    """What was measured on one segmentation. Volumes in mm3, lengths in mm; None: not assessed."""

    id: str
    segmentation: str
    regions: RegionMeasurements
    lesions: tuple[LesionMeasurement, ...]
    anatomy: MeasuredAnatomy


class ReportVersionRow(ApiAnswer):
    """One version of a study's report."""

    number: int
    status: str
    signature_kind: str
    pdf_sha256: str
    band: str


class StudyAnswer(StudyRow):
    """All that is known of one study, without identity."""

    series: tuple[SeriesRow, ...]
    volumes: VolumesAnswer | None
    segmentations: tuple[OutlineAnswer, ...]
    panel: PanelSummary | None
    measurement: MeasurementAnswer | None
    comparisons: tuple[ComparisonResult, ...]
    report_versions: tuple[ReportVersionRow, ...]
    steps: tuple[StudyStep, ...]


class ConsensusChoice(ApiAnswer):
    """One consensus of a panel, automatic or chosen. ``a``: agreement of the voters."""

    id: str
    automatic: bool
    experts: tuple[str, ...]
    method: str
    who: str
    why: str
    state: str
    error: str
    segmentation: str | None
    band: str
    a: float | None
    at: Instant


class PanelAnswer(PanelSummary):
    """The newest panel, all fusion methods side by side, and every choice that was made."""

    methods: Mapping[str, FusionMethodResult]
    choices: tuple[ConsensusChoice, ...]
    consensus: str | None


class ReportVersionAnswer(ReportContent):
    """The content of one version of a report, with the number of its schema."""

    schema_version: int = Field(serialization_alias="schema")

    @classmethod
    def of(cls, content: ReportContent) -> ReportVersionAnswer:
        """Of today's schema, whatever the version was written in."""
        facts = {name: getattr(content, name) for name in ReportContent.model_fields}
        return cls(**facts, schema_version=SCHEMA)


class PanelStatus(ApiAnswer):
    """A panel and its state."""

    panel_run_id: str
    state: str


class JobQueued(ApiAnswer):
    """The job that does what was asked."""

    job: str


class FusionQueued(JobQueued):
    """The job that computes a chosen fusion."""

    choice: ConsensusChoice


class JobStatus(ApiAnswer):
    """What a caller may know of a job. ``progress``: 0 to 1."""

    id: str
    kind: str
    state: str
    progress: float
    text: str
    attempts: int
    error: str
    finished: bool


class OutlineStored(ApiAnswer):
    """A person's segmentation that is in force now; ``parent``: the one it corrects."""

    id: str
    version: int
    kind: str
    parent: str | None
    not_assessed: Mapping[Region, str]
