"""SOP classes of the images that are read here (PS3.4 Annex B.5), by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["IMAGE_CLASSES", "IMAGE_CLASSES_BY_KIND"]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
IMAGE_CLASSES_BY_KIND: Final[Mapping[str, frozenset[str]]] = {
    "MR": frozenset(_STORAGE + end for end in ("4", "4.1", "4.4")),
    "CT": frozenset(_STORAGE + end for end in ("2", "2.1", "2.2")),
    "SC": frozenset(_STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4")),
}
"""Classic, enhanced and legacy converted MR and CT; secondary captures of every kind."""
IMAGE_CLASSES: Final[frozenset[str]] = frozenset().union(*IMAGE_CLASSES_BY_KIND.values())
