"""How quantities are shown to people, and how exactly they are sent to machines: one place for page, PDF, narrative, FHIR, HL7.

The rule and why: docs/decisions/2026-11-30-figures-for-people.md. What was not assessed is said so in words.
"""

from __future__ import annotations

from datetime import datetime

from oncoflow_site.foundation.clock import offset_name

__all__ = [
    "NOT_ASSESSED",
    "change_millilitres",
    "change_percent",
    "date_text",
    "diameters",
    "dice_text",
    "millilitres",
    "millilitres_unit",
    "millimetres",
    "millimetres_unit",
    "ml_value",
    "mm_value",
    "moment_text",
    "percent",
    "percent_value",
    "round_half_up",
    "seconds",
    "sentence",
    "share_value",
    "signed",
]

NOT_ASSESSED = "not assessed"
# Thresholds of RANO 2.0 by volume, per cent: a rounded number must not stand on the other side of one.
_THRESHOLDS = (40.0, 65.0)


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


def millilitres_unit(mm3: float) -> str:
    """`millilitres` with its unit."""
    return f"{millilitres(mm3)} ml"


def millimetres(mm: float) -> str:
    """A length in mm, whole millimetres: the voxels are about one millimetre wide."""
    return round_half_up(mm, 0)


def millimetres_unit(mm: float) -> str:
    """`millimetres` with its unit."""
    return f"{millimetres(mm)} mm"


def diameters(longest_mm: float | None, perpendicular_mm: float | None) -> str | None:
    """``38 × 27``: longest axial diameter and the perpendicular one, mm; None without a diameter."""
    if longest_mm is None:
        return None
    return millimetres(longest_mm) + (f" × {millimetres(perpendicular_mm)}" if perpendicular_mm is not None else "")


def percent(value: float) -> str:
    """A percentage without sign, whole numbers from 10 on and one decimal below.

    Where rounding would reach a threshold that the value does not (39.7 beside 40), it is cut at one decimal.
    """
    magnitude = abs(value)
    text = round_half_up(magnitude, 0 if magnitude >= 9.95 else 1)
    if any(magnitude < threshold <= float(text) for threshold in _THRESHOLDS):
        return f"{int(magnitude * 10 + 1e-9) / 10:.1f}"
    return text


def signed(value: float, shown: str) -> str:
    """``shown`` with the sign of ``value`` (a minus sign, not a hyphen); without one where it shows 0."""
    if not any(char in "123456789" for char in shown):
        return shown
    return f"+{shown}" if value > 0 else f"−{shown.lstrip('-')}"


def change_millilitres(mm3: float) -> str:
    """A change of volume given in mm3, in ml, signed."""
    return signed(mm3, millilitres(abs(mm3)))


def change_percent(value: float) -> str:
    """A change in per cent, signed, with its unit."""
    return f"{signed(value, percent(value))} %"


def dice_text(value: float) -> str:
    """A Dice coefficient, cut (not rounded) to two decimals: 0.899 must not read as 0.90, where the gate opens."""
    return f"{int(value * 100 + 1e-9) / 100:.2f}"


def sentence(text: str) -> str:
    """``text`` as a whole sentence: begins with a capital, ends with a stop. Empty for empty text."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def seconds(value: float) -> str:
    """A duration in s, one decimal."""
    return f"{round_half_up(value, 1)} s"


def ml_value(mm3: float | None) -> float | None:
    """For machines: mm3 in mL, to 1 mm3."""
    return None if mm3 is None else round(float(mm3) / 1000.0, 3)


def mm_value(mm: float | None) -> float | None:
    """For machines: mm, to 0.1 mm."""
    return None if mm is None else round(float(mm), 1)


def percent_value(value: float | None) -> float | None:
    """For machines: per cent, to 0.1."""
    return None if value is None else round(float(value), 1)


def share_value(value: float) -> float:
    """For machines: a Dice coefficient, to 0.001."""
    return round(float(value), 3)


def moment_text(moment: datetime) -> str:
    """Date and time with the zone's name, e.g. ``21 November 2026, 14:05 UTC``."""
    return f"{date_text(moment)}, {moment:%H:%M} {offset_name(moment)}"


def date_text(moment: datetime) -> str:
    """Date for people, unambiguous on both sides of the Atlantic: ``21 November 2026``."""
    return f"{moment.day} {moment:%B} {moment.year}"
