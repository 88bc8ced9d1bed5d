"""How a sequence of a study was acquired, as its header says; for readers of a report."""

from __future__ import annotations

from typing import Literal

from oncoflow_site.foundation.schema import Schema

__all__ = ["SequenceAcquisition"]


class SequenceAcquisition(Schema):
    """One sequence. Empty or None: the header is silent, or there is none (NIfTI).

    :param manufacturer: of the scanner, cleaned text. :param field_t: tesla. :param slice_thickness_mm: millimetres.
    :param contrast: what the header says about contrast agent: given, not given, or nothing clear.
    :param agent: the agent as the header names it, cleaned text.
    """

    sequence: str
    manufacturer: str = ""
    model: str = ""
    field_t: float | None = None
    slice_thickness_mm: float | None = None
    contrast: Literal["given", "not given", ""] = ""
    agent: str = ""

    @property
    def scanner(self) -> str:
        """Manufacturer and model; empty where neither is stated."""
        return " ".join(part for part in (self.manufacturer, self.model) if part)
