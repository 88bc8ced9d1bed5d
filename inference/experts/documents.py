"""The documents of a weights folder as types: model.json, evaluation.json, and nnU-Net's dataset.json."""

from __future__ import annotations

from typing import TypedDict

from oncoflow_site.foundation.schema import JsonDict

__all__ = [
    "CalibrationRecord",
    "EvaluatedCase",
    "EvaluationDocument",
    "ModelDocument",
    "NnUNetDatasetDocument",
    "RegionScores",
    "TrainingRecord",
    "TumourFreeScores",
]


class TrainingRecord(TypedDict, total=False):
    """How weights were trained. :ivar seconds: 0 where nothing was trained here."""

    command: str
    earlier_commands: list[str]
    seed: int
    steps: int
    seconds: int
    device: str
    cases: int
    parameters: int
    trained_on: str


class CalibrationRecord(TypedDict, total=False):
    """How the operating point of an nnU-Net was set; by region."""

    cases: int
    split: str
    shift: dict[str, float]
    mean_dice_before: dict[str, float]
    mean_dice_after: dict[str, float]
    minimum_mm3: dict[str, float]


class _PinnedFiles(TypedDict):
    files: dict[str, str]
    """File -> SHA-256."""


class ModelDocument(_PinnedFiles, total=False):
    """model.json: what a model is, what it was trained on, and the SHA-256 of each of its files."""

    name: str
    version: str
    kind: str
    architecture: str
    channels: list[str]
    regions: list[str]
    training: TrainingRecord
    trained_on: str
    evaluation: str
    cases: int
    minimum_mm3: dict[str, float]
    # nnU-Net
    folds: list[str]
    checkpoint: str
    mirroring: bool
    calibration: CalibrationRecord
    # SAM
    backend: str
    config: str
    hydra_overrides: list[str]
    mask_tokens: list[str]
    presence: JsonDict
    # VLM
    pictures: list[list[str]]
    slices: int
    prompt: str
    quantise: str
    batch_size: int
    server: dict[str, str]


class RegionScores(TypedDict, total=False):
    """Dice of one region over cases; ``with_region``: over those that have it."""

    mean: float
    median: float
    p10: float
    minimum: float
    n: int
    n_with_region: int
    mean_with_region: float


class TumourFreeScores(TypedDict, total=False):
    """What a model outlines where there is no tumour, in millilitres."""

    n: int
    false_positive_ml_mean: float
    false_positive_ml_median: float
    false_positive_ml_maximum: float
    cases_over_1_ml: int


class EvaluatedCase(TypedDict, total=False):
    """One held-out case."""

    name: str
    tumour_free: bool
    dice: dict[str, float]
    truth_ml: dict[str, float]
    predicted_ml: dict[str, float]
    runtime_s: float


class EvaluationDocument(TypedDict, total=False):
    """evaluation.json, and each of its parts: the trivial rule's, one a combination of sequences, one another dataset."""

    name: str
    dataset: str
    split: str
    evaluated: str
    threshold: float
    runtime_s_median: float
    n: int
    regions: dict[str, RegionScores]
    tumour_free: TumourFreeScores
    cases: list[EvaluatedCase]
    sequences: list[str]
    baseline: EvaluationDocument
    subsets: dict[str, EvaluationDocument]
    others: dict[str, EvaluationDocument]


class NnUNetDatasetDocument(TypedDict, total=False):
    """dataset.json of nnU-Net v2."""

    name: str
    channel_names: dict[str, str]
    labels: dict[str, int | list[int]]
    regions_class_order: list[int]
    numTraining: int
    file_ending: str
