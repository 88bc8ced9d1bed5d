"""How quantities are shown to people: one place, so that the page, the narrative and the table round alike."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from oncoflow_site.foundation.clock import offset_name

__all__ = [
    "REGION_NAMES",
    "date_text",
    "dice_text",
    "millilitres",
    "millimetres",
    "moment_text",
    "percent",
    "resolve",
    "round_half_up",
]

REGION_NAMES = {"ET": "enhancing tumour", "TC": "tumour core", "WT": "whole tumour"}
"""BraTS regions, nested: ET lies in TC, TC in WT."""


def round_half_up(value: float, decimals: int) -> str:
    """``value`` with a fixed number of decimals, halves away from zero as people expect, never "-0"."""
    scaled = abs(value) * 10**decimals + 0.5 + 1e-9
    number = int(scaled)
    text = f"{number / 10**decimals:.{decimals}f}"
    return f"-{text}" if value < 0 and number else text


def millilitres(mm3: float) -> str:
    """A volume given in mm3, in ml: two decimals below 10 ml, one above."""
    ml = mm3 / 1000.0
    return round_half_up(ml, 2 if abs(ml) < 9.995 else 1)


def millimetres(mm: float) -> str:
    """A length in mm, whole millimetres: the voxels are about one millimetre wide."""
    return round_half_up(mm, 0)


def percent(value: float) -> str:
    """A percentage without sign, whole numbers from 10 on and one decimal below."""
    magnitude = abs(value)
    return round_half_up(magnitude, 0 if magnitude >= 9.95 else 1)


def dice_text(value: float) -> str:
    """A Dice coefficient, cut (not rounded) to two decimals: 0.899 must not read as 0.90, where the gate opens."""
    return f"{int(value * 100 + 1e-9) / 100:.2f}"


def moment_text(moment: datetime) -> str:
    """Date and time with the zone's name, e.g. ``21 November 2026, 14:05 UTC``."""
    return f"{date_text(moment)}, {moment:%H:%M} {offset_name(moment)}"


def date_text(moment: datetime) -> str:
    """Date for people, unambiguous on both sides of the Atlantic: ``21 November 2026``."""
    return f"{moment.day} {moment:%B} {moment.year}"


def resolve(facts: Any, path: str) -> Any:
    """The value at a dotted ``path`` (keys and list indices) in ``facts``; raises `LookupError` when there is none."""
    value = facts
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise LookupError(f"no value at {path}") from None
    return value
