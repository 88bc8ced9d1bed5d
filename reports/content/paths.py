"""Places in a report's content: what a citation's path leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

__all__ = ["REGION_NAMES", "resolve"]

REGION_NAMES = {"ET": "enhancing tumour", "TC": "tumour core", "WT": "whole tumour"}
"""BraTS regions in running text; nested: ET lies in TC, TC in WT."""


def resolve(facts: Any, path: str) -> Any:
    """The value at a dotted ``path`` (names and indices) in ``facts``; raises `LookupError` when there is none."""
    value = facts
    for part in path.split("."):
        try:
            value = _part(value, part)
        except (KeyError, IndexError, ValueError, TypeError):
            raise LookupError(f"no value at {path}") from None
    return value


def _part(value: Any, name: str) -> Any:
    if isinstance(value, BaseModel):
        if name not in type(value).model_fields:
            raise KeyError(name)
        return getattr(value, name)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value[int(name)]
    if isinstance(value, Mapping):
        return value[name]
    raise TypeError("nothing lies within a plain value")
