"""Numbers for pages: always with their unit, and words where nothing was assessed.

A template gives the empty text for what a structure does not hold: the same as None here.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

NOT_ASSESSED = "not assessed"
BADGES = {
    "ready": "good",
    "final": "good",
    "amended": "good",
    "delivered": "good",
    "done": "good",
    "voter": "good",
    "issue": "good",
    "preliminary": "warn",
    "held": "warn",
    "hold": "warn",
    "manual": "bad",
    "flagged": "bad",
    "failed": "bad",
    "dead": "bad",
    "quarantined": "bad",
}


@register.filter
def ml(mm3: float | str | None) -> str:
    """Cubic millimetres as millilitres, two decimals."""
    return NOT_ASSESSED if mm3 in (None, "") else f"{float(mm3) / 1000:.2f} mL"


@register.filter
def mm(value: float | str | None) -> str:
    return NOT_ASSESSED if value in (None, "") else f"{float(value):.1f} mm"


@register.filter
def percent(value: float | str | None) -> str:
    return NOT_ASSESSED if value in (None, "") else f"{float(value):+.1f} %"


@register.filter
def dice(value: float | str | None) -> str:
    return "–" if value in (None, "") else f"{float(value):.3f}"


@register.filter
def item(mapping: Any, key: str) -> Any:
    """``mapping[key]``, or None."""
    return mapping.get(key) if isinstance(mapping, dict) else None


@register.filter
def badge(state: str | None) -> SafeString:
    """A state as a small coloured label; the colour never carries the meaning alone."""
    return format_html('<span class="badge {}">{}</span>', BADGES.get(str(state), ""), state or "none")
