"""The event codes that may be recorded. A room declares its own in ``<room>/audit_codes.py``, loaded at start."""

from __future__ import annotations

import re

from oncoflow_site.foundation.errors import EngineError

__all__ = ["UndeclaredCodeError", "declare_code", "declared_codes", "require_code"]

_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+\Z")
_codes: dict[str, str] = {}


class UndeclaredCodeError(EngineError):
    """An audit event code that no room has declared."""


def declare_code(code: str, meaning: str) -> str:
    """Allow ``code`` (lower case words joined by dots, at most 60 characters); returns it.

    Declaring the same code with the same meaning again is harmless; with another meaning it raises `EngineError`.
    """
    if not _CODE.match(code) or len(code) > 60:
        raise EngineError(f"{code!r} is not an audit event code: lower case words joined by dots")
    known = _codes.setdefault(code, meaning)
    if known != meaning:
        raise EngineError(f"audit event code {code!r} is declared twice with different meanings")
    return code


def declared_codes() -> dict[str, str]:
    """Every declared code with its meaning, sorted by code."""
    return dict(sorted(_codes.items()))


def require_code(code: str) -> str:
    """``code`` itself; raises `UndeclaredCodeError` for one that nobody declared."""
    if code not in _codes:
        raise UndeclaredCodeError(
            f"audit event code {code!r} is not declared: "
            f"add declare_code({code!r}, meaning) to the room's audit_codes.py"
        )
    return code


declare_code("audit.view", "The audit record was read")
declare_code("session.login", "A person signed in")
declare_code("session.login_failed", "A sign-in failed")
declare_code("session.logout", "A person signed out")
