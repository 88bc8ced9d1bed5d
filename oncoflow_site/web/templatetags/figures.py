"""Numbers for pages: always with their unit, and words where nothing was assessed.

A template gives the empty text for what a structure does not hold: the same as None here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from oncoflow_site.foundation import figures

register = template.Library()

_SPACE = "\u00a0"  # a number and its unit stay on one line
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
    "receiving": "busy",
    "complete": "busy",
    "preparing": "busy",
    "running": "busy",
    "drafting": "busy",
}
# What the gate's bands mean to a reader.
WORDS = {
    "issue": "may be issued as preliminary",
    "hold": "held for a radiologist",
    "manual": "needs a person's outline",
    "not_run": "not run",
}


def _figure(value: float | str | None, show: Callable[[float], str]) -> str:
    """As `oncoflow_site.foundation.figures` shows it; a number and its unit stay on one line."""
    return figures.NOT_ASSESSED if value in (None, "") else show(float(value)).replace(" ", _SPACE)


@register.filter
def ml(mm3: float | str | None) -> str:
    """Cubic millimetres as millilitres."""
    return _figure(mm3, lambda value: f"{figures.millilitres(value)} ml")


@register.filter
def mm(value: float | str | None) -> str:
    return _figure(value, lambda length: f"{figures.millimetres(length)} mm")


@register.filter
def percent(value: float | str | None) -> str:
    """A change with its sign."""
    return _figure(value, figures.change_percent)


@register.filter
def dice(value: float | str | None) -> str:
    return _figure(value, figures.dice_text)


@register.filter
def seconds(value: float | str | None) -> str:
    return _figure(value, figures.seconds)


@register.filter
def sex(value: str | None) -> str:
    """Administrative sex in words, where the code is one of HL7's."""
    return {"F": "female", "M": "male", "O": "other", "A": "ambiguous"}.get(str(value or ""), value or "sex not known")


@register.filter
def response(category: str | None) -> str:
    """A RANO category with what it stands for."""
    words = {"CR": "complete response", "PR": "partial response", "SD": "stable disease", "PD": "progressive disease"}
    return f"{category} ({words[category]})" if category in words else category or figures.NOT_ASSESSED


@register.filter
def reasons(text: str | None) -> list[str]:
    """The sentences of a text that has one a line."""
    return [figures.sentence(one) for one in str(text or "").splitlines() if one.strip()]


@register.filter
def sentence(text: str | None) -> str:
    """A reason as a whole sentence; older ones were kept as clauses."""
    return figures.sentence(str(text or ""))


@register.filter
def item(mapping: Any, key: str) -> Any:
    """``mapping[key]``, or None."""
    return mapping.get(key) if isinstance(mapping, dict) else None


@register.filter
def badge(state: str | None, words: str | None = None) -> SafeString:
    """A state as a small coloured label, in ``words`` where given; the colour never carries the meaning alone."""
    words = words or WORDS.get(str(state)) or state or "none"
    return format_html('<span class="badge {}">{}</span>', BADGES.get(str(state), ""), words)
