"""Whether a row from before the schemas is read without a loss."""

from __future__ import annotations

from typing import Any


def keeps(new: Any, old: Any) -> bool:
    """Whether everything that the old row said is said by the new one."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(keeps(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(keeps(a, b) for a, b in zip(new, old, strict=True))
    return bool(new == old)
