"""SMART 2 scopes (HL7 SMART App Launch 2.0, section 3.0): the words that a bearer token carries. Pure text."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["is_scope", "scope_allows"]

_SCOPE = re.compile(r"(user|system)/(\*|[A-Z][A-Za-z]+)\.(?=[cruds])(c?r?u?d?s?)\Z")


def is_scope(text: str) -> bool:
    """Whether ``text`` is a scope, e.g. ``system/ImagingStudy.rs``."""
    return _SCOPE.match(text) is not None


def scope_allows(scopes: Iterable[str], resource_type: str, interaction: str) -> bool:
    """Whether one of the scopes covers ``interaction`` (c, r, u, d or s) on ``resource_type``."""
    for scope in scopes:
        match = _SCOPE.match(scope)
        if match and match.group(2) in ("*", resource_type) and interaction in match.group(3):
            return True
    return False
