"""The four MRI sequences of BraTS: their order for models, for people, and as a reference for co-registration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["PANEL_SEQUENCES", "REFERENCE_ORDER", "SEQUENCE_NAMES"]

PANEL_SEQUENCES: Final[tuple[str, str, str, str]] = ("T1", "T1c", "T2", "FLAIR")
"""What a whole panel is given, in the order of the experts' channels; also what a person may declare a file to be."""
SEQUENCE_NAMES: Final[Mapping[str, str]] = {"T1": "T1", "T1c": "contrast-enhanced T1", "T2": "T2", "FLAIR": "FLAIR"}
"""The same four in their usual order, with their names for people."""
REFERENCE_ORDER: Final[tuple[str, str, str, str]] = ("T1c", "T1", "T2", "FLAIR")
"""Which of them the others are aligned to: the first that is there."""
