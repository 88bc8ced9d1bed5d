"""Reasons why an expert gives no answer. Their texts hold no patient data."""

from __future__ import annotations

__all__ = [
    "ExpertError",
    "ExpertFailed",
    "InvalidVolumes",
    "MissingSequence",
    "VolumesNeeded",
    "WeightsMismatch",
    "WeightsMissing",
]


class ExpertError(Exception):
    """Any reason why an expert gives no answer. The text holds no patient data."""


class WeightsMissing(ExpertError):
    """A file of the model's folder is not there."""


class WeightsMismatch(ExpertError):
    """A file differs from the SHA-256 that model.json pins, or holds more than plain tensors."""


class MissingSequence(ExpertError):
    """A sequence that the model was trained on is absent."""


class InvalidVolumes(ExpertError):
    """Shapes differ, values are not finite, spacing is not positive or the brain mask is empty."""


class VolumesNeeded(ExpertError):
    """Nothing of this study is kept: ask again with its volumes."""


class ExpertFailed(ExpertError):
    """The model itself failed while predicting."""
